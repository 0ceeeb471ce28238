"""The house as CONTRIBUTING.md states it: imports run downwards, and names are unique."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/forkpoint"
MODULES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCE.rglob("*.py"))}


def levels() -> dict[str, int]:
    """Each room and module of the ground floor, with its line in CONTRIBUTING.md."""
    block = re.search(r"^```text\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M | re.S)
    lines = block[1].splitlines()
    return {name: level for level, line in enumerate(lines) for name in re.split(r" {2,}", line)[0].split()}


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(tree: ast.Module) -> list[str]:
    """The rooms that a module imports from, wherever the import stands."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [
                f"{node.module}.{alias.name}" if node.module == "forkpoint" else node.module for alias in node.names
            ]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return [name.split(".")[1] for name in names if name.startswith("forkpoint.")]


def test_every_room_has_its_line():
    assert {room_of(path) for path in MODULES} - {"__init__", "__main__"} == set(levels())


def test_imports_run_downwards():
    level = levels()
    upwards = [
        (str(path.relative_to(SOURCE)), target)
        for path, tree in MODULES.items()
        if room_of(path) in level
        for target in imports(tree)
        if target in level and level[target] > level[room_of(path)]
    ]
    assert not upwards


def test_no_two_classes_and_no_two_files_share_a_name():
    places = defaultdict(list)
    for path, tree in MODULES.items():
        where = str(path.relative_to(SOURCE))
        if path.name != "__init__.py" and not where.startswith(("cli/", "report/pages/")):
            places[path.name].append(where)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(where)
    assert not {name: found for name, found in places.items() if len(found) > 1}
