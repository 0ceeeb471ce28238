// The success curve with its band. Token t spans [t, t + 1] of the x axis: success before it at t, after it at t + 1.

const CURVE = { height: 226, left: 56, right: 8, top: 18, bottom: 56 };

/** Runs of consecutive indices at which success is known: [[first, last], ...]. */
const knownRuns = (success) => {
  const runs = [];
  success.forEach((p, i) => {
    if (p == null) return;
    if (runs.length && runs.at(-1)[1] === i - 1) runs.at(-1)[1] = i;
    else runs.push([i, i]);
  });
  return runs;
};

/** Where pixels are: x of a prefix length, y of a share, and the token under a pointer. */
const curveScale = (tokens, width) => {
  const { height, left, right, top, bottom } = CURVE;
  const step = (width - left - right) / Math.max(1, tokens);
  return {
    width, step, x: (i) => left + i * step, y: (p) => top + (1 - p) * (height - top - bottom),
    tokenAt: (svg, event) => {
      const box = svg.getBoundingClientRect();
      const t = Math.floor(((event.clientX - box.left) * (width / box.width) - left) / step);
      return t >= 0 && t < tokens ? t : null;
    },
  };
};

/** The curve of a trajectory as an <svg>, `shades` being the class of each token's shade. */
const drawCurve = (trajectory, shades, scale) => {
  const svg = shape("svg", { viewBox: `0 0 ${scale.width} ${CURVE.height}`, role: "img", "aria-label": curveLabel(trajectory) });
  svg.append(shape("rect", { class: "cursor", y: CURVE.top, height: CURVE.height - CURVE.top - CURVE.bottom + 16, width: 0 }));
  svg.append(...drawAxes(shades.length, scale), drawStrip(shades, scale));
  for (const run of knownRuns(trajectory.success)) svg.append(...drawRun(trajectory, run, scale));
  svg.append(drawForks(trajectory, scale), ...drawCritical(trajectory, scale));
  return svg;
};

const curveLabel = ({ success, critical }) => {
  const known = success.filter((p) => p != null);
  const ends = known.length ? `from ${percent(known[0])} to ${percent(known.at(-1))}` : "not measured";
  return `Success along the response: ${ends}${critical == null ? "" : `; critical token at ${critical}`}`;
};

const drawAxes = (tokens, { width, x, y }) => {
  const titles = [shape("text", { transform: `translate(11 ${y(0.5)}) rotate(-90)`, "text-anchor": "middle" }, "success"),
                  shape("text", { x: (x(0) + width - CURVE.right) / 2, y: CURVE.height - 5, "text-anchor": "middle" }, "token")];
  const parts = [0, 0.5, 1].flatMap((p) => [
    shape("line", { class: "grid", x1: x(0), x2: width - CURVE.right, y1: y(p), y2: y(p) }),
    shape("text", { x: x(0) - 6, y: y(p) + 4, "text-anchor": "end" }, `${100 * p}%`),
  ]);
  const every = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000].find((n) => x(n) - x(0) >= 36) ?? 10000;
  for (let t = 0; t < tokens; t += every)
    parts.push(shape("text", { x: x(t + 0.5), y: y(0) + 34, "text-anchor": "middle" }, String(t)));
  return [...titles, ...parts];
};

/** The chosen score again, a small box a token, between the curve and its token numbers. */
const drawStrip = (shades, { x, y, step }) => {
  const strip = shape("g", { class: "shades" });
  strip.append(shape("rect", { class: "strip", x: x(0), y: y(0) + 4, width: shades.length * step, height: 12 }));
  shades.forEach((shade, t) => strip.append(shape("rect", { class: shade, x: x(t), y: y(0) + 4, width: step, height: 12 })));
  return strip;
};

const drawRun = ({ success, low, high }, [first, last], { x, y }) => {
  const indices = Array.from({ length: last - first + 1 }, (_, i) => first + i);
  const points = (values, order = indices) => order.map((i) => `${x(i).toFixed(1)},${y(values[i]).toFixed(1)}`).join(" ");
  const bounded = low && indices.every((i) => low[i] != null && high[i] != null);
  if (first === last) {
    const whisker = shape("line", { class: "whisker", x1: x(first), x2: x(first), y1: y(bounded ? low[first] : success[first]),
                                    y2: y(bounded ? high[first] : success[first]) });
    return [whisker, shape("circle", { class: "dot", cx: x(first), cy: y(success[first]), r: 3 })];
  }
  const line = shape("polyline", { class: "line", points: points(success) });
  return bounded ? [shape("polygon", { class: "band", points: `${points(high)} ${points(low, indices.toReversed())}` }), line] : [line];
};

/** The forks: as high as the share of rollouts leaving there that ended correct, as large as it is likely to leave. */
const drawForks = (trajectory, { x, y }) => {
  const group = shape("g", { class: "forks" });
  for (const [t, fork] of trajectory.forks) {
    const leave = 1 - (trajectory.columns.policy_prob?.[t] ?? 0.5);
    group.append(shape("circle", { cx: x(t + 0.5), cy: y(fork.rescued), r: 2 + 5 * Math.sqrt(leave) }));
  }
  return group;
};

const drawCritical = ({ critical, tokens }, { x, y }) => {
  if (critical == null) return [];
  const at = x(critical + 0.5);
  const anchor = critical < tokens.length / 8 ? "start" : critical > (tokens.length * 7) / 8 ? "end" : "middle";
  return [shape("line", { class: "decided", x1: at, x2: at, y1: CURVE.top - 4, y2: y(0) + 16 }),
          shape("text", { class: "decided-label", x: at, y: CURVE.top - 7, "text-anchor": anchor }, `critical: ${critical}`)];
};
