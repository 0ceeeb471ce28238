// The panel about one token: its numbers, and what stood beside it.

const showPanel = (panel, trajectory, t) => {
  if (t == null) return panel.replaceChildren(element("p", { class: "soft" }, "This trajectory has no tokens."));
  const name = element("code", {}, spelled(trajectory.tokens[t], trajectory.ids[t]));
  const label = t === trajectory.critical ? [element("span", { class: "label" }, "critical")] : [];
  panel.replaceChildren(
    element("h3", { "aria-live": "polite" }, name, ` token ${t} of 0 to ${trajectory.tokens.length - 1}`, ...label),
    element("dl", {}, ...panelFacts(trajectory, t).flatMap(([term, value]) => [element("dt", {}, term), element("dd", {}, value)])),
    ...alternativesTable(trajectory, t),
    element("p", { class: "soft" }, element("a", { href: linkTo(trajectory, t) }, "Link to this token"), `, id ${trajectory.ids[t]}`),
  );
};

const panelFacts = ({ success, low, high, columns }, t) => {
  const facts = [];
  const column = (key, term, format) => columns[key] && facts.push([term, format(columns[key][t])]);
  column("policy_prob", "π", probability);
  column("logprob", "log-probability", decimal);
  column("entropy", "entropy", decimal);
  column("gap", "gap", probability);
  column("s", "s", probability);
  if (success) for (const [term, i] of [["success before", t], ["success after", t + 1]])
    facts.push([term, percent(success[i]) + interval(low?.[i], high?.[i])]);
  return facts;
};

/** The token and its alternatives, the likeliest first. */
const alternativesTable = (trajectory, t) => {
  const own = [t, trajectory.ids[t], trajectory.tokens[t], trajectory.columns.policy_prob?.[t], trajectory.success?.[t + 1], null];
  const others = trajectory.alternatives.filter(([position]) => position === t);
  if (!others.length) return [element("p", { class: "soft" }, "No alternative was looked at here.")];
  const rows = [own, ...others].sort((a, b) => (b[3] ?? -1) - (a[3] ?? -1));
  const cells = (row) => [element("code", {}, spelled(row[2], row[1])), probability(row[3]),
                          row === own || row[5] ? percent(row[4]) : "–", row === own ? "its own" : String(row[5])];
  const line = (row) => element("tr", { class: row === own ? "own" : null }, ...cells(row).map((c) => element("td", {}, c)));
  const head = element("tr", {}, ...["token", "π", trajectory.correct ? "ended correct" : "rescued", "rollouts"].map((c) => element("th", {}, c)));
  return [element("div", { class: "wide" }, element("table", {}, head, ...rows.map(line)))];
};
