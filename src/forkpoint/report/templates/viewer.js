// The token viewer: a list of trajectories, the chosen one as text and curve, and a panel about the token pointed at.
// Only the chosen trajectory is in the document. location.hash is "#id:token".

const { scores, trajectories } = JSON.parse(byId("data").textContent);
const { one, many } = byId("viewer").dataset;
const state = { at: 0, token: null, pointed: null, score: scores[0], shades: [], scale: null };
const shown = () => trajectories[state.at];
const rowOf = (i) => byId("list").children[i];

/** Fill in what the data left out, and group the tried alternatives by position: t -> {rescued}. */
const complete = (trajectory) => {
  trajectory.columns ??= {};
  trajectory.alternatives ??= [];
  trajectory.forks = new Map();
  const tried = trajectory.alternatives.filter((row) => row[5] > 0);
  for (const t of [...new Set(tried.map(([position]) => position))].sort((a, b) => a - b)) {
    const rows = tried.filter(([position]) => position === t);
    const n = rows.reduce((sum, row) => sum + row[5], 0);
    trajectory.forks.set(t, { rescued: rows.reduce((sum, row) => sum + (row[4] ?? 0) * row[5], 0) / n });
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
  byId("about-curve")?.toggleAttribute("hidden", !shown().success);
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

const showTrajectory = () => {
  if (!shown().forks) complete(shown());
  showFacts(byId("facts"), shown());
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

const choose = (i, t = null) => {
  const list = byId("list");
  fill(rowOf(state.at), { tabindex: -1, "aria-selected": false }, []);
  Object.assign(state, { at: i, token: null, pointed: null });
  const row = fill(rowOf(i), { tabindex: 0, "aria-selected": true }, []);
  if (row.offsetTop < list.scrollTop || row.offsetTop + row.offsetHeight > list.scrollTop + list.clientHeight)
    list.scrollTop = row.offsetTop - list.clientHeight / 3;
  showTrajectory();
  chooseToken(t ?? shown().critical ?? 0);
};

/** Move to the next row (or the previous) that the filters leave in, and keep the focus where it was. */
const step = (by) => {
  let i = state.at + by;
  while (trajectories[i] && rowOf(i).hidden) i += by;
  if (!trajectories[i]) return;
  const inText = byId("text").contains(document.activeElement);
  const inList = byId("list").contains(document.activeElement);
  choose(i);
  if (inText) chooseToken(state.token, { focus: true });
  if (inList) rowOf(i).focus({ preventScroll: true });
  link();
};

/** Read the address: an id, or an id, a colon and a token. False where no trajectory has that id. */
const follow = () => {
  let name = location.hash.slice(1);
  try { name = decodeURIComponent(name); } catch { return false; }
  const colon = name.lastIndexOf(":");
  const named = (id) => trajectories.findIndex((trajectory) => String(trajectory.id) === id);
  const split = colon > 0 && /^\d+$/.test(name.slice(colon + 1)) ? named(name.slice(0, colon)) : -1;
  const i = split >= 0 ? split : named(name);
  if (i < 0) return false;
  if (rowOf(i).hidden) clearFilters();
  choose(i, split >= 0 ? Number(name.slice(colon + 1)) : null);
  return true;
};

// The list and its filters

const MARKS = { critical: "●", none: "○", undecided: "?" };
const listRow = (trajectory, i) => {
  const { id, status, correct, critical, question, tokens } = trajectory;
  const about = critical == null ? status : `critical at ${critical}`;
  const head = [status && (MARKS[status] ?? "·"), correct != null && (correct ? "✓" : "✗"), id].filter(Boolean).join(" ");
  const text = (question ?? tokens.slice(0, 80).join("")).slice(0, 80);
  return element("div", { role: "option", tabindex: -1, "aria-selected": false, "data-i": i, title: [id, about].filter(Boolean).join(", ") },
                 element("span", {}, head), element("span", { class: "soft" }, text));
};

const words = (trajectory) =>
  (trajectory.words ??= [trajectory.id, trajectory.question, trajectory.answer, trajectory.tokens.join("")].join("\n").toLowerCase());

const filter = () => {
  const [wanted, status] = [byId("search").value.toLowerCase(), byId("status").value];
  let left = 0;
  trajectories.forEach((trajectory, i) => {
    const stays = (!status || trajectory.status === status) && (!wanted || words(trajectory).includes(wanted));
    rowOf(i).hidden = !stays;
    left += stays;
  });
  byId("count").textContent = left === trajectories.length ? `${left} ${left === 1 ? one : many}` : `${left} of ${trajectories.length} ${many}`;
  if (rowOf(state.at).hidden && left) step(1), rowOf(state.at).hidden && step(-1);
};

const clearFilters = () => {
  byId("search").value = byId("status").value = "";
  filter();
};

const fillControls = () => {
  const statuses = [...new Set(trajectories.map(({ status }) => status))].filter(Boolean);
  byId("status").hidden = !statuses.length;
  const count = (status) => trajectories.filter((trajectory) => trajectory.status === status).length;
  byId("status").append(element("option", { value: "" }, "every status"),
                        ...statuses.map((s) => element("option", { value: s }, `${MARKS[s] ?? "·"} ${s} (${count(s)})`)));
  byId("score").append(...scores.map(({ key, label }) => element("option", { value: key }, label)));
  byId("list").append(...trajectories.map(listRow));
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
const onListKey = (event) => {
  const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (by) event.preventDefault(), step(by);
  if (event.key === "Enter") event.preventDefault(), chooseToken(state.token, { focus: true });
};
/** The tokens whose shade is that of the chosen one. */
const alike = () => [...state.shades.keys()].filter((t) => state.shades[t] === state.shades[state.token]);
const onKey = (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select")) return;
  const jump = (t) => t != null && (chooseToken(t, { focus: true }), link());
  const act = { j: () => step(1), k: () => step(-1), f: () => jump(nextIn([...shown().forks.keys()], state.token)),
                n: () => jump(nextIn(alike(), state.token)), c: () => jump(shown().critical), "/": () => byId("search").focus() }[event.key];
  if (act) event.preventDefault(), act();
};

const point = (t) => {
  if (t === state.pointed) return;
  state.pointed = t;
  showToken();
};
const tokenOf = (event) => event.target.closest("[data-t]")?.dataset.t;
const listen = () => {
  const [text, curve, list] = ["text", "curve", "list"].map(byId);
  text.addEventListener("pointerover", (event) => event.pointerType === "mouse" && tokenOf(event) && point(Number(tokenOf(event))));
  text.addEventListener("pointerleave", () => point(null));
  text.addEventListener("click", (event) => tokenOf(event) && (chooseToken(Number(tokenOf(event)), { focus: true }), link()));
  text.addEventListener("keydown", onTextKey);
  curve.addEventListener("pointermove", (event) => curve.firstChild && point(state.scale.tokenAt(curve.firstChild, event)));
  curve.addEventListener("pointerleave", () => point(null));
  curve.addEventListener("click", () => state.pointed != null && (chooseToken(state.pointed), link()));
  list.addEventListener("click", (event) => {
    const row = event.target.closest("[data-i]");
    if (row) choose(Number(row.dataset.i)), row.focus({ preventScroll: true }), link();
  });
  list.addEventListener("keydown", onListKey);
  byId("search").addEventListener("input", filter);
  byId("search").addEventListener("keydown", (event) => event.key === "Escape" && (clearFilters(), rowOf(state.at).focus()));
  byId("status").addEventListener("change", filter);
  byId("score").addEventListener("change", (event) => {
    state.score = scores.find(({ key }) => key === event.target.value);
    showScore();
  });
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", follow);
  window.addEventListener("resize", () => (showCurve(), showToken()));
};

byId("viewer").hidden = false;
fillControls();
listen();
filter();
if (!follow()) choose(Math.max(0, trajectories.findIndex(({ status }) => status === "critical")));
performance.mark("viewer ready");
