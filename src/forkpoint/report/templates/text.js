// A trajectory as text, a shade a token.

const SHADES = 10;

/** The value of a score at token t, null where there is none. */
const scoreAt = ({ success, columns }, key, t) => {
  if (key === "success") return success?.[t + 1] ?? null;
  if (key !== "drop") return columns[key]?.[t] ?? null;
  return success?.[t] == null || success[t + 1] == null ? null : success[t] - success[t + 1];
};

/** The classes of a value's shade: s0 at the score's light end, s9 at its strong end; c0 to c7 for one of some names. */
const COLOURS = 8;
const shadeOf = ({ light, strong, two_sided: twoSided, values, plain }, value) => {
  if (value == null) return "s0";
  if (values) return value < plain ? "s0" : `c${Math.min(COLOURS - 1, value - plain)}`;
  const far = Math.floor(((value - light) / (strong - light)) * SHADES * (twoSided && value < light ? -1 : 1));
  const shade = `s${Math.max(0, Math.min(SHADES - 1, far))}`;
  return twoSided && value < light ? `${shade} below` : shade;
};

const shadesOf = (trajectory, score) => trajectory.tokens.map((_, t) => shadeOf(score, scoreAt(trajectory, score.key, t)));

const tokenElement = (trajectory, t) => {
  const token = trajectory.tokens[t];
  const ends = t === trajectory.tokens.length - 1 && trajectory.finish === "stop";
  const node = element("span", { role: "option", tabindex: -1, "data-t": t }, token || (ends ? "⟨end⟩" : "◌"));
  node.className = "token";
  node.classList.toggle("silent", token === "");
  node.classList.toggle("newline", /^\n+$/.test(token));
  node.classList.toggle("fork", trajectory.forks.has(t));
  node.classList.toggle("critical", t === trajectory.critical);
  node.classList.toggle("answer", trajectory.span != null && t >= trajectory.span[0] && t < trajectory.span[1]);
  return node;
};

const showText = (box, trajectory) => box.replaceChildren(...trajectory.tokens.map((_, t) => tokenElement(trajectory, t)));

const shadeText = (box, shades) => shades.forEach((shade, t) => {
  for (const name of [...box.children[t].classList]) if (/^([sc]\d|below)$/.test(name)) box.children[t].classList.remove(name);
  box.children[t].classList.add(...shade.split(" "));
});

const SHARES = ["success", "drop"];
const ENDS = {  // what the unshaded and the most strongly shaded end of a scale say
  policy_prob: ["likely", "unlikely"], entropy: ["sure", "unsure"], gap: ["sure", "unsure"], distance: ["sure", "unsure"],
  s: ["harmless", "likely critical"], weight: ["harmless", "likely critical"],
};

/** What the shades stand for: the ends of a scale, or every name with the number of its tokens in this trajectory. */
const showLegend = (box, trajectory, score) => {
  if (score.values) return box.replaceChildren(...score.values.map((name, i) => {
    const tokens = trajectory.tokens.filter((_, t) => scoreAt(trajectory, score.key, t) === i).length;
    return element("span", { class: "name" }, element("b", { class: shadeOf(score, i) }, name), ` ${tokens}`);
  }));
  const number = (x) => String(Number(x.toPrecision(3))).replace("-", "−");
  const end = (x, word = "") => element("span", {}, `${SHARES.includes(score.key) ? `${100 * x}%` : number(x)} ${word}`.trim());
  const [atLight, atStrong] = ENDS[score.key] ?? [];
  const steps = Array.from({ length: SHADES }, (_, i) => element("i", { class: `s${i}` }));
  const below = score.two_sided ? steps.slice(1).toReversed().map((step) => element("i", { class: `${step.className} below` })) : [];
  box.replaceChildren(end(score.two_sided ? 2 * score.light - score.strong : score.light, atLight), ...below, ...steps, end(score.strong, atStrong));
};

/** Which problem this is, and how the response ended; of a plain document, how long it is. */
const showFacts = (box, trajectory, group) => {
  const { name, rows: [{ question, gold }] } = group;
  const { answer, correct, status, critical, finish, rollouts, generated, note, label } = trajectory;
  const verdict = verdictOf(trajectory, group);
  const said = answer == null ? "N" + verdict.slice(1) : `Answer ${verdict}`;
  const found = critical == null ? { none: "no critical token", undecided: "undecided" }[status]
    : `${status === "undecided" ? "undecided, candidate" : "critical token"} at ${critical}`;
  const facts = [correct != null || gold != null ? `Gold ${gold ?? "not known"}` : `${trajectory.tokens.length} token${trajectory.tokens.length === 1 ? "" : "s"}`, found,
                 finish === "length" && "cut off at the length limit", rollouts != null && `${rollouts} rollouts`,
                 generated != null && `${generated} tokens generated`, note].filter(Boolean);
  box.replaceChildren(
    element("h3", {}, name),
    ...(question == null ? [] : [element("p", { class: "text" }, question)]),
    element("p", {}, ...(verdict ? [label ? `${label}: ` : "", element("b", { class: colourOf(trajectory) }, said), ". "] : []),
            `${facts.join(", ")}.`),
  );
};
