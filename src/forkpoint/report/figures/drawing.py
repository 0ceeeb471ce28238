"""What every chart by matplotlib shares: its look, and its bytes, which are the same for the same chart."""

from __future__ import annotations

import io
from typing import Any

# A line's colour, marker and dashes. The colours are at least 20 apart (CIEDE2000, Machado's simulations) with any
# colour blindness, 3:1 or more from white, and of several lightnesses: readable in grey too, as the shapes are.
LINES = (("#1b55a1", "o", "-"), ("#be6302", "s", "--"), ("#529892", "^", "-."), ("#612d3d", "D", ":"))
# Read on a phone, 360 pixels wide, as on a desk: few inches, so that the text is large in them.
WIDTH, WIDE = 5.2, 6.0  # inches of a chart, and of one with several panels
TEXT = 9  # points
_SIGN, _LETTER = 0.55, 0.075  # inches in a legend: a line with what is between columns, and a letter


def plain_axes(axes: Any) -> None:
    """No frame above and at the right, and thin lines across."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", lw=0.4)


def clipped(name: str, longest: int) -> str:
    """A name in so many characters at most."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def legend_above(figure: Any) -> None:
    """The names of what is drawn over the charts, each once, in as many columns as have room."""
    named = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    columns = int(figure.get_figwidth() / (_SIGN + _LETTER * max(map(len, named))))
    figure.legend(
        named.values(), named.keys(), loc="outside upper left", ncols=max(1, min(len(named), columns)), frameon=False,
        fontsize=TEXT, columnspacing=1.2,
    )  # fmt: skip


def svg_text(figure: Any) -> str:
    """The figure as an <svg> element, its text drawn as outlines."""
    text = saved(figure, "svg").decode("utf-8")
    return text[text.index("<svg") :]


def saved(figure: Any, kind: str, dpi: int = 100) -> bytes:
    """The bytes of the figure as an "svg" or "png" file, without a date or a random id."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "forkpoint"}):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata={"Date": None} if kind == "svg" else {"Software": None})
    return buffer.getvalue()
