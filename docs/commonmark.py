"""Pages are written in CommonMark, as readers of the repository see them; the site is made by Python-Markdown.

The two differ in one thing that the pages use: CommonMark takes what is indented as far as a list item's text for a
part of the item, Python-Markdown wants four spaces, and an empty line before the next item.
"""

from __future__ import annotations

import re
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with the parts of its list items indented by four spaces; MkDocs calls this for each page."""
    lines: list[str] = []
    width, parted, fenced = 0, False, False  # of the item: where its text begins, and whether it holds an empty line
    for line in markdown.split("\n"):
        fenced ^= line.startswith("```")
        item = None if fenced else re.match(r"(?:[-*]|\d+\.) +", line)
        if item:
            if parted and lines[-1]:
                lines.append("")
            width, parted = len(item[0]), False
        elif line and not line.startswith(" "):
            width = 0
        elif width and line.startswith(" " * width) and not fenced:
            line = " " * 4 + line[width:]
        parted |= bool(width) and not line
        lines.append(line)
    return "\n".join(lines)
