// The panel about one token: its numbers, and what stood beside it.

const showPanel = (panel, trajectory, t) => {
  if (t == null) return panel.replaceChildren(element("p", { class: "soft" }, `This ${byId("viewer").dataset.one} has no tokens.`));
  const name = element("code", {}, spelled(trajectory.tokens[t], trajectory.ids[t]));
  const label = t === trajectory.critical ? [element("span", { class: "label" }, "critical")] : [];
  panel.replaceChildren(
    element("h3", { "aria-live": "polite" }, name, ` token ${t} of 0 to ${trajectory.tokens.length - 1}`, ...label),
    element("dl", {}, ...panelFacts(trajectory, t).flatMap(([term, value]) => [element("dt", {}, term), element("dd", {}, value)])),
    ...alternativesTable(trajectory, t),
    element("p", { class: "soft" }, element("a", { href: linkTo(trajectory, t) }, "Link to this token"), `, id ${trajectory.ids[t]}`),
  );
};

const NUMBERS = [
  ["policy_prob", "π", probability], ["logprob", "log-probability", decimal], ["entropy", "entropy", decimal],
  ["gap", "gap", probability], ["distance", "largest logit, σ above the mean", decimal], ["s", "s", probability],
  ["logprob_positive", "log p⁺, of the positive model", decimal], ["logprob_negative", "log p⁻, of the negative model", decimal],
  ["weight", "weight 1 − s", probability],
  ["loss", "loss", decimal], ["reference_loss", "reference loss", decimal], ["excess_loss", "excess loss", signed],
  ["reference_entropy", "reference entropy", decimal], ["delta", "change of loss Δ", signed],
];
const panelFacts = ({ success, low, high, columns }, t) => {
  const facts = NUMBERS.filter(([key]) => columns[key]).map(([key, term, format]) => [term, format(columns[key][t])]);
  for (const { key, label, values } of scores)
    if (values && columns[key]) facts.push([label, values[columns[key][t]] ?? "none"]);
  if (success) for (const [term, i] of [["success before", t], ["success after", t + 1]])
    facts.push([term, percent(success[i]) + interval(low?.[i], high?.[i])]);
  return facts;
};

/** The token and its alternatives, the likeliest first. */
const alternativesTable = (trajectory, t) => {
  const own = [t, trajectory.ids[t], trajectory.tokens[t], trajectory.columns.policy_prob?.[t], trajectory.success?.[t + 1], null];
  const others = trajectory.alternatives.filter(([position]) => position === t);
  if (!trajectory.success && !trajectory.alternatives.length) return [];
  if (!others.length) return [element("p", { class: "soft" }, "No alternative was looked at here.")];
  const rows = [own, ...others].sort((a, b) => (b[3] ?? -1) - (a[3] ?? -1));
  const cells = (row) => [element("code", {}, spelled(row[2], row[1])), probability(row[3]),
                          row === own || row[5] ? percent(row[4]) : "–", row === own ? "its own" : String(row[5])];
  const line = (row) => element("tr", { class: row === own ? "own" : null }, ...cells(row).map((c) => element("td", {}, c)));
  const head = element("tr", {}, ...["token", "π", trajectory.correct ? "ended correct" : "rescued", "rollouts"].map((c) => element("th", {}, c)));
  return [element("div", { class: "wide" }, element("table", {}, head, ...rows.map(line)))];
};
