"""What every chart by matplotlib shares: its look, and its bytes, which are the same for the same chart."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

# A line's colour, marker and dashes. The colours are at least 20 apart (CIEDE2000, Machado's simulations) with any
# colour blindness, 3:1 or more from white, and of several lightnesses: readable in grey too, as the shapes are.
LINES = (("#1b55a1", "o", "-"), ("#be6302", "s", "--"), ("#529892", "^", "-."), ("#612d3d", "D", ":"))
# Read on a phone, 360 pixels wide, as on a desk: few inches, so that the text is large in them.
WIDTH, WIDE = 5.2, 6.0  # inches of a chart, and of one with several panels
TEXT = 9  # points


def new_chart(height: float, rows: int = 1, columns: int = 1, **layout: Any) -> tuple[Any, list[Any]]:
    """A figure and its panels, row by row; it is as wide as a chart, or as one of several panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH if rows * columns == 1 else WIDE, height), layout="constrained")
    panels = [*figure.subplots(rows, columns, squeeze=False, **layout).flat]
    for axes in panels:
        axes.tick_params(labelsize=TEXT)
        plain_axes(axes)
    return figure, panels


def plain_axes(axes: Any) -> None:
    """No frame above and at the right, and thin lines across."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", lw=0.4)


def draw_line(axes: Any, x: Sequence[float], y: Sequence[float], style: int, **look: Any) -> None:
    """A line in the look of that place in LINES."""
    color, marker, dashes = LINES[style % len(LINES)]
    axes.plot(x, y, **{"color": color, "marker": marker, "ls": dashes, "lw": 1.5, "ms": 4} | look)


def draw_band(axes: Any, x: Sequence[float], ends: Sequence[Sequence[float]], style: int, **look: Any) -> None:
    """The ground between two values, (low, high), at each point."""
    low, high = zip(*ends, strict=True) if ends else ((), ())
    axes.fill_between(x, low, high, **{"color": LINES[style % len(LINES)][0], "alpha": 0.18, "lw": 0} | look)


def clipped(name: str, longest: int) -> str:
    """A name in so many characters at most."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def legend_above(figure: Any, line: float = 0.0, **look: Any) -> None:
    """The names of what is drawn over the charts, each once, in as many columns as have room.

    The figure grows by `line` inches with each line of names.
    """
    named = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    look |= {"loc": "outside upper left", "frameon": False}
    for columns in range(min(len(named), 5), 0, -1):
        legend = figure.legend(named.values(), named.keys(), ncols=columns, **look)
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            figure.set_figheight(figure.get_figheight() + line * -(-len(named) // columns))
            return
        legend.remove()


def svg_text(figure: Any, *, legend: bool = False) -> str:
    """The figure as an <svg> element, its text drawn as outlines."""
    if legend:
        legend_above(figure, fontsize=TEXT, columnspacing=1.2)
    text = saved(figure, "svg").decode("utf-8")
    return text[text.index("<svg") :]


def saved(figure: Any, kind: str, dpi: int = 100) -> bytes:
    """The bytes of the figure as an "svg" or "png" file, without a date or a random id."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "forkpoint"}):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata={"Date": None} if kind == "svg" else {"Software": None})
    return buffer.getvalue()
