"""What stands in a page: its tags, attributes and texts, and the token viewer's data."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any


class Tags(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    return tags


def embedded(page: str) -> dict[str, Any]:
    """The viewer's data as the browser reads it, with the tokens of every row."""
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    for row in data["rows"]:
        row.setdefault("tokens", None) or row.update(tokens=[data["texts"][str(token)] for token in row["ids"]])
    return data
