// The token viewer: a list of groups, the chosen response as text and curve, and a panel about the token pointed at.
// Only the chosen response is in the document. location.hash is "#id:token".

const { scores, texts, rows } = JSON.parse(byId("data").textContent);
for (const row of rows) row.tokens ??= row.ids.map((id) => texts[id]);
const groups = groupsOf(rows);
const state = { row: rows[0], token: null, pointed: null, score: scores[0], shades: [], scale: null };
const shown = () => state.row;
const entryOf = (group) => byId("list").children[group];

/** Fill in what the data left out, and group the tried alternatives by position: t -> {rescued}. */
const complete = (row) => {
  row.columns ??= {};
  row.alternatives ??= [];
  row.forks = new Map();
  const tried = row.alternatives.filter((other) => other[5] > 0);
  for (const t of [...new Set(tried.map(([position]) => position))].sort((a, b) => a - b)) {
    const here = tried.filter(([position]) => position === t);
    const n = here.reduce((sum, other) => sum + other[5], 0);
    row.forks.set(t, { rescued: here.reduce((sum, other) => sum + (other[4] ?? 0) * other[5], 0) / n });
  }
};

const linkTo = ({ id }, t) => `#${encodeURIComponent(id).replaceAll("%2F", "/")}${t == null ? "" : `:${t}`}`;

// What is shown

const showToken = () => {
  const t = state.pointed ?? state.token;
  showPanel(byId("panel"), shown(), t);
  byId("text").querySelector(".now")?.classList.remove("now");
  byId("text").children[t]?.classList.add("now");
  const cursor = byId("curve").querySelector(".cursor");
  if (cursor && t != null) fill(cursor, { x: state.scale.x(t), width: Math.max(2, state.scale.step) }, []);
};

const showCurve = () => {
  byId("about-curve").toggleAttribute("hidden", !shown().success);
  if (!shown().success) return byId("curve").replaceChildren();
  state.scale = curveScale(shown().tokens.length, Math.max(280, byId("curve").clientWidth));
  byId("curve").replaceChildren(drawCurve(shown(), state.shades, state.scale));
};

const showScore = () => {
  state.shades = state.score ? shadesOf(shown(), state.score) : shown().tokens.map(() => "s0");
  if (state.score) showLegend(byId("legend"), shown(), state.score);
  shadeText(byId("text"), state.shades);
  showCurve();
  showToken();
};

const showRow = () => {
  if (!shown().forks) complete(shown());
  const group = groups[shown().at];
  showFacts(byId("facts"), shown(), group);
  showSiblings(byId("siblings"), group, shown());
  showText(byId("text"), shown());
  showScore();
};

// What is chosen

let linking = 0;
/** Put the choice into the address, soon: browsers refuse many changes in a row. */
const link = () => {
  clearTimeout(linking);
  linking = setTimeout(() => history.replaceState(null, "", linkTo(shown(), state.token)), 300);
};

const chooseToken = (t, { focus = false } = {}) => {
  const tokens = byId("text").children;
  if (!tokens.length) return;
  for (const node of byId("text").querySelectorAll("[tabindex='0']")) fill(node, { tabindex: -1, "aria-selected": false }, []);
  state.token = Math.max(0, Math.min(tokens.length - 1, t));
  state.pointed = null;
  fill(tokens[state.token], { tabindex: 0, "aria-selected": true }, []);
  if (focus) tokens[state.token].focus();
  showToken();
};

/** Show a row, and of its tokens the given one, the critical one, or the first of the answer. */
const choose = (row, t = null) => {
  const list = byId("list");
  fill(entryOf(state.row.at), { tabindex: -1, "aria-selected": false }, []);
  Object.assign(state, { row, token: null, pointed: null });
  const entry = fill(entryOf(row.at), { tabindex: 0, "aria-selected": true }, []);
  if (entry.offsetTop < list.scrollTop || entry.offsetTop + entry.offsetHeight > list.scrollTop + list.clientHeight)
    list.scrollTop = entry.offsetTop - list.clientHeight / 3;
  showRow();
  scrollSiblings(byId("siblings"));
  chooseToken(t ?? row.critical ?? row.span?.[0] ?? 0);
};

/** The row with which a group opens: the picked one, or the first. */
const opening = ({ rows: all }) => all.find(({ picked }) => picked) ?? all[0];

/** Move to the next group (or the previous) that the fields leave in, and keep the focus where it was. */
const step = (by) => {
  let i = state.row.at + by;
  while (groups[i] && entryOf(i).hidden) i += by;
  if (groups[i]) moveTo(opening(groups[i]), byId("list"));
};

/** Move among the responses of the group. */
const stepSibling = (by) => {
  const all = groups[shown().at].rows;
  const next = all[all.indexOf(shown()) + by];
  if (next) moveTo(next, byId("siblings"));
};

const moveTo = (row, box) => {
  const inText = byId("text").contains(document.activeElement);
  const inBox = box.contains(document.activeElement);
  choose(row);
  if (inText) chooseToken(state.token, { focus: true });
  if (inBox) box.querySelector("[aria-selected='true']")?.focus({ preventScroll: true });
  link();
};

/** Read the address: an id (a row's or a group's), or an id, a colon and a token; show it and scroll there. False where nothing has that id. */
const follow = () => {
  let name = location.hash.slice(1);
  try { name = decodeURIComponent(name); } catch { return false; }
  const colon = name.lastIndexOf(":");
  const named = (id) => rows.find((row) => row.id === id) ?? (groups.some((group) => group.name === id) ? opening(groups.find((group) => group.name === id)) : null);
  const split = colon > 0 && /^\d+$/.test(name.slice(colon + 1)) ? named(name.slice(0, colon)) : null;
  const row = split ?? named(name);
  if (!row) return false;
  if (entryOf(row.at).hidden) clearFilters();
  choose(row, split ? Number(name.slice(colon + 1)) : null);
  byId("facts").scrollIntoView();
  byId("text").children[state.token]?.scrollIntoView({ block: "nearest" });
  return true;
};

const filter = () => {
  const left = narrow(groups, byId("list").children);
  const of = `${groups.length} ${groups.length === 1 ? byId("viewer").dataset.entry : byId("viewer").dataset.entries}`;
  byId("count").textContent = left === groups.length ? of : `${left} of ${of}`;
  if (entryOf(state.row.at).hidden && left) step(1), entryOf(state.row.at).hidden && step(-1);
};

const clearFilters = () => {
  byId("search").value = byId("tag").value = "";
  filter();
};

// Hands on it

const nextIn = (sorted, after) => sorted.find((t) => t > after) ?? sorted[0];
const onTextKey = (event) => {
  const last = shown().tokens.length - 1;
  const to = { ArrowLeft: state.token - 1, ArrowRight: state.token + 1, Home: 0, End: last }[event.key];
  if (to == null || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  chooseToken(to, { focus: true });
  link();
};
const onListKey = (move) => (event) => {
  const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (by) event.preventDefault(), move(by);
  if (event.key === "Enter") event.preventDefault(), chooseToken(state.token, { focus: true });
};
/** The tokens whose shade is that of the chosen one. */
const alike = () => [...state.shades.keys()].filter((t) => state.shades[t] === state.shades[state.token]);
const onKey = (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select")) return;
  const jump = (t) => t != null && (chooseToken(t, { focus: true }), link());
  const act = { j: () => step(1), k: () => step(-1), "]": () => stepSibling(1), "[": () => stepSibling(-1),
                f: () => jump(nextIn([...shown().forks.keys()], state.token)), n: () => jump(nextIn(alike(), state.token)),
                c: () => jump(shown().critical), "/": () => byId("search").focus() }[event.key];
  if (act) event.preventDefault(), act();
};

const point = (t) => {
  if (t === state.pointed) return;
  state.pointed = t;
  showToken();
};
/** A chosen token's panel stays in view on a narrow screen; before, it would only be in the way. */
const touch = (t, options) => {
  byId("viewer").classList.add("touched");
  chooseToken(t, options);
  link();
};
const tokenOf = (event) => event.target.closest("[data-t]")?.dataset.t;

const listenToText = () => {
  const [text, curve] = ["text", "curve"].map(byId);
  text.addEventListener("pointerover", (event) => event.pointerType === "mouse" && tokenOf(event) && point(Number(tokenOf(event))));
  text.addEventListener("pointerleave", () => point(null));
  text.addEventListener("click", (event) => tokenOf(event) && touch(Number(tokenOf(event)), { focus: true }));
  text.addEventListener("keydown", onTextKey);
  curve.addEventListener("pointermove", (event) => curve.firstChild && point(state.scale.tokenAt(curve.firstChild, event)));
  curve.addEventListener("pointerleave", () => point(null));
  curve.addEventListener("click", () => state.pointed != null && touch(state.pointed));
};

const listenToLists = () => {
  const [list, siblings] = ["list", "siblings"].map(byId);
  list.addEventListener("click", (event) => {
    const entry = event.target.closest("[data-i]");
    if (entry) choose(opening(groups[entry.dataset.i])), entry.focus({ preventScroll: true }), link();
  });
  list.addEventListener("keydown", onListKey(step));
  siblings.addEventListener("click", (event) => {
    const line = event.target.closest("[data-s]");
    if (line) choose(groups[shown().at].rows[line.dataset.s]), siblings.children[line.dataset.s].focus({ preventScroll: true }), link();
  });
  siblings.addEventListener("keydown", onListKey(stepSibling));
};

const listen = () => {
  listenToText();
  listenToLists();
  byId("search").addEventListener("input", filter);
  byId("search").addEventListener("keydown", (event) => event.key === "Escape" && (clearFilters(), entryOf(state.row.at).focus()));
  byId("tag").addEventListener("change", filter);
  byId("score").addEventListener("change", (event) => {
    state.score = scores.find(({ key }) => key === event.target.value);
    showScore();
  });
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", follow);
  window.addEventListener("resize", () => (showCurve(), showToken()));
};

byId("viewer").hidden = false;
byId("viewer").classList.toggle("curves", rows.some(({ success }) => success));
fillTags(groups);
byId("order").textContent = orderOfMarks(groups[0]);
byId("meanings").append(...meanings(rows).flatMap(([name, meaning]) => [element("dt", {}, name), element("dd", {}, meaning)]));
byId("meanings").parentNode.hidden = !byId("meanings").firstChild;
byId("list").append(...groups.map(listEntry));
byId("score").append(...scores.map(({ key, label }) => element("option", { value: key }, label)));
byId("score").closest("label").hidden = !scores.length;
listen();
filter();
if (!follow()) choose(opening(groups.find(({ tags }) => tags.includes("critical")) ?? groups[0]));
performance.mark("viewer ready");
