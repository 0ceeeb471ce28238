"""report.html of a finished run; what the directory holds decides which page it gets."""

from __future__ import annotations

from pathlib import Path

from forkpoint.evaluation.evaluate import RESULTS, SAMPLES
from forkpoint.files import write_whole
from forkpoint.report.critical_page import critical_page
from forkpoint.report.eval_page import eval_page
from forkpoint.trajectories.rows import CRITICAL, SUMMARY
from forkpoint.types import UserError

REPORT = "report.html"


def write_report(run: Path) -> Path:
    """Write report.html into a finished run's directory; returns its path.

    Raises UserError where the directory holds no finished run.
    """
    critical = not (run / RESULTS).exists() and (run / CRITICAL).exists()
    for name in (SUMMARY,) if critical else (RESULTS, SAMPLES):
        if not (run / name).is_file():
            also = f" and no {CRITICAL}" if name == RESULTS else ""
            raise UserError(f"{run} holds no finished run: there is no {name}{also}")
    write_whole(run / REPORT, critical_page(run) if critical else eval_page(run))
    return run / REPORT
