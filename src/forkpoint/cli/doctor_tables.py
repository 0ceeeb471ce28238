"""What `forkpoint doctor` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from forkpoint.cli.tables import wide_console

if TYPE_CHECKING:
    from forkpoint.cli.doctor import Check

STYLES = {"ok": "green", "missing": "yellow", "broken": "bold red", "note": "yellow"}
LAST_COLUMN = {"forkpoint": "needed", "devices": "", "extras": "for", "vLLM": "for"}


def print_checks(checks: Sequence[Check]) -> None:
    """A table a section; under it, for each line that is not as it should be, what to do."""
    console = wide_console()
    for section in dict.fromkeys(check.section for check in checks):
        rows = [check for check in checks if check.section == section]
        console.print(_table(section, rows))
        for check in rows:
            if check.do:
                console.print(Text(f"  {check.name}: {check.do}"), soft_wrap=True)


def _table(section: str, checks: Sequence[Check]) -> Table:
    table = Table(title=Text(section), box=box.SIMPLE_HEAD, title_justify="left")
    for column in ("what", "state"):
        table.add_column(column, no_wrap=True)
    for column in ("found", LAST_COLUMN[section]):
        table.add_column(column, overflow="fold")
    for check in checks:
        state = Text(check.state, style=STYLES[check.state])
        table.add_row(Text(check.name), state, Text(check.found), Text(check.wanted))
    return table
