"""A verb: what it takes and does, and how its run ends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forkpoint.cli.option_groups import RunOptions
from forkpoint.types import FailedError


@dataclass(frozen=True)
class Verb:
    """A verb: its options, what is wrong with them before anything heavy is loaded, and what it does with them.

    Of a verb whose options are RunOptions, `act` takes the run's directory, too, and returns the files to name at the
    end, None for a run that goes on elsewhere; `then` takes the same when the run's page is drawn.
    """

    name: str
    OPTIONS: type[Any]
    act: Callable[..., Sequence[Path] | None]
    check: Callable[[Any], object] = lambda options: None
    then: Callable[[Any, Path], object] = lambda options, out: None
    context: Callable[[], AbstractContextManager[None]] = nullcontext

    def parse_options(self, argv: list[str]) -> Any:
        """The options of these arguments. UserError where one is wrong."""
        from forkpoint.cli.options import parse

        options = parse(self.name, self.OPTIONS, argv)
        self.check(options)
        return options

    def run(self, argv: list[str]) -> None:
        """Parse the arguments, do what they say, keep the command, print and draw what came of it."""
        with self.context():
            options = self.parse_options(argv)
            if not isinstance(options, RunOptions):
                self.act(options)
                return
            out = options.directory(self.name)
            try:
                if (made := self.act(options, out)) is not None:
                    _finish([*self.name.split(), *argv], out, *made)
                    self.then(options, out)
            except (KeyboardInterrupt, FailedError) as error:
                if out.is_dir():
                    error.add_note(str(out))
                raise


def _finish(command: Sequence[str], out: Path, *made: Path) -> None:
    """Write command.json and report.html into `out`; print the page and the paths of what was `made`, the page's last.

    The run is done whatever becomes of its page: stderr says why it could not be drawn.
    """
    from forkpoint.report.command import keep_command
    from forkpoint.report.page import page_of, write_report
    from forkpoint.report.terminal import print_page

    keep_command(out, command)
    page = None
    try:
        page = page_of(out)
        made = *made, write_report(out, page)
    except Exception as error:
        print(
            f"forkpoint: the run in {out} is done, but its page could not be drawn ({type(error).__name__}: {error}); "
            f"`forkpoint report {out}` tries again",
            file=sys.stderr,
        )
    if page is not None:
        print_page(page)
    print("\n" + "\n".join(map(str, made)))
