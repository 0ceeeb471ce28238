"""The card of a trained model: what it is, what of, how, and with what."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from forkpoint import __version__
from forkpoint.files import to_json

LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets")


def model_card(title: str, base: str, source: str, settings: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """README.md of a model: `source` says what method it was trained with, `facts` what came of it."""
    hub = "/" in base and not Path(base).exists()
    head = ["---", "library_name: transformers", *([f"base_model: {base}"] if hub else []), "tags: [forkpoint]", "---"]
    used = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    made = f"{base}, trained with forkpoint {__version__} ({used})."
    tables = [*_table("Setting", settings), "", *_table("Result", facts)]
    return "\n".join([*head, "", f"# {title}", "", made, "", f"Method: {source}.", "", *tables, ""])


def _table(heading: str, values: Mapping[str, Any]) -> list[str]:
    return [f"| {heading} | |", "|---|---|", *(f"| {name} | `{to_json(value)}` |" for name, value in values.items())]
