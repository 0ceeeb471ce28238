// Elements and numbers. Text only ever becomes text nodes, so nothing that a model or a data set wrote is markup.

const fill = (node, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) if (value != null) node.setAttribute(name, value);
  node.append(...children);
  return node;
};
const element = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
const shape = (name, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
/** A name that may be broken between its parts, and nowhere else. */
const breakable = (name) => name.split(/(?<=[:,/])/).flatMap((part, i) => (i ? [element("wbr"), part] : [part]));
const byId = (id) => document.getElementById(id);

/** A share as a percentage that never rounds to certainty. */
const percent = (x) => {
  if (x == null) return "not measured";
  if (x > 0 && x < 0.0005) return "<0.1%";
  if (x < 1 && x >= 0.9995) return ">99.9%";
  return `${(100 * x).toFixed(1)}%`;
};
const interval = (low, high) => (low == null || high == null ? "" : ` (${percent(low)} to ${percent(high)})`);

/** A probability that never rounds to 0 or 1. */
const probability = (x) => {
  if (x == null) return "not known";
  if (x > 0 && x < 0.0005) return x.toExponential(1);
  if (x < 1 && x >= 0.9995) return ">0.999";
  return x.toFixed(3);
};
const decimal = (x) => (x == null ? "not known" : x.toFixed(3));
const signed = (x) => (x > 0 ? "+" : "") + decimal(x);

/** What a token spells, with its blanks made visible; a token that spells nothing is named by its id. */
const spelled = (token, id) =>
  token === "" ? `⟨id ${id}⟩` : token.replace(/^ +| +$/g, (s) => "␣".repeat(s.length)).replace(/\n/g, "↵").replace(/\t/g, "⇥");
