"""What `forkpoint doctor` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from forkpoint.report.content import Table
from forkpoint.report.terminal import print_table, wide_console

if TYPE_CHECKING:
    from forkpoint.cli.doctor import Check

LAST_COLUMN = {"forkpoint": "needed", "devices": "", "extras": "for", "vLLM": "for"}


def print_checks(checks: Sequence[Check]) -> None:
    """A table a section; under it, for each line that is not as it should be, what to do."""
    console = wide_console()
    for section in dict.fromkeys(check.section for check in checks):
        own = [check for check in checks if check.section == section]
        rows = [(check.name, check.state, check.found, check.wanted) for check in own]
        columns = ("what", "state", "found", LAST_COLUMN[section])
        print_table(Table(section, columns, rows, left=4), console)
        for check in own:
            if check.do:
                console.print(Text(f"  {check.name}: {check.do}"), soft_wrap=True)
