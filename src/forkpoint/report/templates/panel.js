// The panel about one token: its numbers, and what stood beside it.

const showPanel = (panel, trajectory, t) => {
  if (t == null) return panel.replaceChildren(element("p", { class: "soft" }, `This ${byId("viewer").dataset.one} has no tokens.`));
  const name = element("code", {}, spelled(trajectory.tokens[t], trajectory.ids[t]));
  const label = t === trajectory.critical ? [element("span", { class: "label" }, "critical")] : [];
  panel.replaceChildren(
    element("h3", { "aria-live": "polite", title: "Tokens are counted from 0." }, name, ` token ${t} of ${trajectory.tokens.length}`, ...label),
    element("dl", {}, ...panelFacts(trajectory, t).flatMap(([term, value]) => [element("dt", {}, term), element("dd", {}, value)])),
    ...alternativesTable(trajectory, t),
    element("p", { class: "soft" }, element("a", { href: linkTo(trajectory, t) }, "Link to this token"), `, token id ${trajectory.ids[t]}`),
  );
};

const NUMBERS = [  // key, name, how it is written, and what it is where the name does not say so
  ["policy_prob", "π", probability, "the token's probability where sampling drew it, after temperature and truncation"],
  ["logprob", "log-probability", decimal, "of the model itself, in nats"],
  ["entropy", "entropy (nats)", decimal, "of the model's distribution: 0 where it is sure of the next token"],
  ["gap", "gap", probability, "probability of the likeliest token less that of the second: near 1 where the model is sure"],
  ["distance", "largest logit, σ above the mean", decimal, "in standard deviations of all logits there: the larger, the surer"],
  ["s", "s", probability, "how likely models tuned on right and on wrong answers, contrasted, take the token: small where it is likely critical"],
  ["logprob_positive", "log p⁺, of the positive model", decimal, "log-probability by the model tuned on right answers, in nats"],
  ["logprob_negative", "log p⁻, of the negative model", decimal, "log-probability by the model tuned on wrong answers, in nats"],
  ["weight", "weight 1 − s", probability, "how much the rejected token counts in training"],
  ["loss", "loss (nats)", decimal], ["reference_loss", "reference loss (nats)", decimal],
  ["excess_loss", "excess loss (nats)", signed, "loss less reference loss"],
  ["reference_entropy", "reference entropy (nats)", decimal, "of the reference model's distribution"],
  ["delta", "change of loss Δ (nats)", signed, "from the first checkpoint to the last"],
];
const SAID = [  // words of the viewer: whether a row uses them, and what they mean
  ["success", ({ success }) => success, "share of the model's continuations from there that end correct"],
  ["critical", ({ critical }) => critical != null, "the token after which practically no continuation ends correct any more"],
  ["Δ", ({ columns, note }) => columns?.gap && note?.includes("Δ"), "of a path: the mean gap of its answer's tokens, how sure the model is of the answer"],
];

/** What the numbers beside the texts mean, [name, meaning] each: of those that the rows hold. */
const meanings = (rows) => [
  ...NUMBERS.filter(([key, , , meaning]) => meaning && rows.some(({ columns }) => columns?.[key])).map(([, name, , meaning]) => [name, meaning]),
  ...SAID.filter(([, uses]) => rows.some(uses)).map(([name, , meaning]) => [name, meaning]),
];
const panelFacts = ({ success, low, high, columns }, t) => {
  const facts = NUMBERS.filter(([key]) => columns[key]).map(([key, term, format, meaning]) => [meaning ? element("abbr", { title: meaning }, term) : term, format(columns[key][t])]);
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
