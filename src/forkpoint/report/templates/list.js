// The list of groups at the side (a problem's responses are one group), and the fields that narrow it.

const MARKS = { critical: "●", none: "○", undecided: "?" };

/** Rows that follow each other with the same group: [{rows, tags, words}], words being made when first searched. */
const groupsOf = (rows) => {
  const groups = [];
  rows.forEach((row, i) => {
    row.at = groups.length - 1;
    if (row.group != null && groups.length && rows[i - 1].group === row.group) return groups.at(-1).rows.push(row);
    groups.push({ rows: [row], name: row.group ?? row.id, tags: row.tags ?? (row.status ? [row.status] : []) });
    row.at = groups.length - 1;
  });
  return groups;
};

/** Where entries are headed by several marks, whose they are: the last tags say so, a mark each. */
const orderOfMarks = ({ rows: [{ marks }], tags }) =>
  marks?.length > 1 ? `✓ ✗ in this order: ${tags.slice(-marks.length).map((tag) => tag.replace(/ (right|wrong)$/, "")).join("; ")}` : "";

/** A response's answer and verdict, as far as they are known; nothing where responses hold no answers. */
const verdictOf = ({ answer, correct }, { rows: [{ gold }] }) => {
  const said = answer ?? (gold == null && correct == null ? "" : "no answer");
  return correct == null ? said : `${said} ${correct ? "✓" : "✗"}`;
};
const colourOf = ({ correct }) => (correct == null ? null : correct ? "right" : "wrong");

/** A group's line in the list: its verdicts and name, and how its text begins. */
const listEntry = ({ rows: [row], name, tags }, i) => {
  const verdicts = row.marks ?? (row.correct == null ? [] : [row.correct]);
  const known = row.status && (MARKS[row.status] ?? "·");
  const whose = row.marks ? tags.slice(-row.marks.length) : [];
  const signs = verdicts.map((right, m) => element("b", { class: right ? "right" : "wrong", title: whose[m] }, right ? "✓" : "✗"));
  const text = (row.question ?? row.tokens.slice(0, 80).join("")).slice(0, 80);
  const about = row.critical == null ? tags.join(", ") : `critical at ${row.critical}`;
  return element("div", { role: "option", tabindex: -1, "aria-selected": false, "data-i": i, title: [name, about].filter(Boolean).join(", ") },
                 element("span", {}, ...[known, ...signs].filter(Boolean).flatMap((sign) => [sign, " "]), name), element("span", { class: "soft" }, text));
};

const wordsOf = (group) => (group.words ??= group.rows.flatMap(({ id, label, question, answer, tokens }) =>
  [id, label, question, answer, tokens.join("")]).join("\n").toLowerCase());

/** Hide the entries that the fields leave out; how many stay. */
const narrow = (groups, entries) => {
  const [wanted, tag] = [byId("search").value.toLowerCase(), byId("tag").value];
  let left = 0;
  groups.forEach((group, i) => {
    const stays = (!tag || group.tags.includes(tag)) && (!wanted || wordsOf(group).includes(wanted));
    entries[i].hidden = !stays;
    left += stays;
  });
  return left;
};

const fillTags = (groups) => {
  const counts = new Map();
  for (const tag of groups.flatMap(({ tags }) => tags)) counts.set(tag, (counts.get(tag) ?? 0) + 1);
  byId("tag").hidden = !counts.size;
  byId("tag").append(element("option", { value: "" }, "show all"),
                     ...[...counts].map(([tag, n]) => element("option", { value: tag }, `${MARKS[tag] ? `${MARKS[tag]} ` : ""}${tag} (${n})`)));
};

/** The responses of a group, a line each, the shown one selected. */
const showSiblings = (box, group, shown) => {
  if (group.rows.length === 1) return box.replaceChildren();
  const line = (row, i) => element("div", { role: "option", tabindex: row === shown ? 0 : -1, "aria-selected": row === shown, "data-s": i, class: row.picked ? "picked" : null },
    element("span", {}, ...breakable(row.label ?? row.id)), element("span", { class: colourOf(row) }, verdictOf(row, group)),
    element("span", { class: "soft" }, row.note ?? ""));
  box.replaceChildren(...group.rows.map(line));
};

/** Scroll the chosen line into the box, a whole line on top. */
const scrollSiblings = (box) => {
  const lines = [...box.children];
  const chosen = lines.find((line) => line.ariaSelected === "true");
  const least = chosen ? chosen.offsetTop + chosen.offsetHeight - box.clientHeight : 0;
  box.scrollTop = least > 0 ? lines.find((line) => line.offsetTop >= least).offsetTop : 0;
};
