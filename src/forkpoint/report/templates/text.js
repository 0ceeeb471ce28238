// A trajectory as text, a shade a token.

const SHADES = 10;

/** The value of a score at token t, null where there is none. */
const scoreAt = ({ success, columns }, key, t) => {
  if (key === "success") return success?.[t + 1] ?? null;
  if (key !== "drop") return columns[key]?.[t] ?? null;
  return success?.[t] == null || success[t + 1] == null ? null : success[t] - success[t + 1];
};

/** The class of a value's shade: s0 at the score's light end, s9 at its strong end. */
const shadeOf = ({ light, strong }, value) =>
  value == null ? "s0" : `s${Math.max(0, Math.min(SHADES - 1, Math.floor(((value - light) / (strong - light)) * SHADES)))}`;

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
  return node;
};

const showText = (box, trajectory) => box.replaceChildren(...trajectory.tokens.map((_, t) => tokenElement(trajectory, t)));

const shadeText = (box, shades) => shades.forEach((shade, t) => {
  for (const name of [...box.children[t].classList]) if (/^s\d$/.test(name)) box.children[t].classList.remove(name);
  box.children[t].classList.add(shade);
});

const showLegend = (box, { light, strong }) => {
  const end = (x) => String(Number(x.toPrecision(3)));
  const steps = Array.from({ length: SHADES }, (_, i) => element("i", { class: `s${i}` }));
  box.replaceChildren(element("span", {}, end(light)), ...steps, element("span", {}, end(strong)));
};

/** Which problem this is, and how the response ended. */
const showFacts = (box, trajectory) => {
  const { id, question, gold, answer, correct, status, critical, finish, rollouts, generated } = trajectory;
  const verdict = answer == null ? "No answer" : `Answer ${answer}`;
  const found = critical == null ? { none: "no critical token", undecided: "undecided" }[status] : `critical token at ${critical}`;
  const facts = [`Gold ${gold ?? "not known"}`, found, finish === "length" && "cut off at the length limit",
                 rollouts != null && `${rollouts} rollouts`, generated != null && `${generated} tokens generated`].filter(Boolean);
  box.replaceChildren(
    element("h3", {}, String(id)),
    element("p", { class: "text" }, question ?? ""),
    element("p", {}, element("b", { class: correct ? "right" : "wrong" }, `${verdict} ${correct ? "✓" : "✗"}`), `. ${facts.join(", ")}.`),
  );
};
