"""The tables of a recipe's run, for docs/results.md: the figures of every stage as JSON, its tables as Markdown.

    forkpoint run recipes/lab-tables.yaml
    python benchmarks/tables.py runs/lab-tables

Writes benchmarks/results/NAME.json, NAME being the directory's, with what each finished stage came to, and prints the
tables of their pages.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import machine

from forkpoint.files import RESULTS, SUMMARY, read_json
from forkpoint.recipe import RECORDS, read_records
from forkpoint.report.content import Link, Table
from forkpoint.report.page import page_of
from forkpoint.scores.store import STORE


def markdown(table: Table) -> str:
    """A table with its title and note, in Markdown."""
    rows = [[cell.text if isinstance(cell, Link) else cell.replace("|", "\\|") for cell in row] for row in table.rows]
    lines = [table.columns, ["---"] * len(table.columns), *rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join(filter(None, (f"**{table.title}**", text, table.note)))


def main(run: Path) -> None:
    """Write the file and print the tables."""
    figures: dict[str, Any] = {}
    for name, record in read_records(run / RECORDS)[2].items():
        if record.done:
            stage = run / name
            file = next(path for path in (stage / RESULTS, stage / SUMMARY, stage / STORE) if path.is_file())
            figures[name] = read_json(file)
            page = page_of(stage)
            print(f"\n## {name}: {record.verb}, {record.seconds:,.0f} s\n")
            print("\n".join(page.lines))
            for table in page.sections:
                if isinstance(table, Table):
                    print(f"\n{markdown(table)}")
    print(machine.save(run.name, {"stages": figures}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    main(parser.parse_args().run)
