"""The chart of trainings that differ by the share of tokens that they keep: held-out loss against it, by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from forkpoint.report.figures.drawing import LINES, TEXT, WIDTH, legend_above, plain_axes, svg_text

Point = tuple[float, float]


def ratios_svg(lines: Mapping[str, Sequence[Point]], every_token: Mapping[str, float]) -> str:
    """An <svg> element: points (ratio, held-out loss in nats) by the line's name, and losses of training on all tokens.

    The same numbers give the same text. At most four lines are told apart.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
    axes = figure.subplots()
    for i, (name, points) in enumerate(lines.items()):
        color, marker, dashes = LINES[i % len(LINES)]
        x, y = [100 * ratio for ratio, _ in sorted(points)], [loss for _, loss in sorted(points)]
        axes.plot(x, y, color=color, marker=marker, ls=dashes, lw=1.6, markersize=5, label=name)
    for i, (name, loss) in enumerate(every_token.items()):
        axes.axhline(loss, color="#1a1a1a", lw=1, ls=("--", ":")[i % 2], zorder=1, label=f"{name}, all tokens")
    axes.set(xlabel="share of the tokens that is trained on (%)", ylabel="held-out loss (nats)")
    axes.margins(y=0.12)
    axes.tick_params(labelsize=TEXT)
    plain_axes(axes)
    legend_above(figure)
    return svg_text(figure)
