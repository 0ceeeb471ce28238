"""report.html of a finished run; what the directory holds decides which page it gets."""

from __future__ import annotations

from pathlib import Path

from forkpoint.evaluation.evaluate import RESULTS, SAMPLES
from forkpoint.files import write_whole
from forkpoint.report.critical_page import critical_page
from forkpoint.report.documents_page import documents_page
from forkpoint.report.eval_page import eval_page
from forkpoint.selective.dynamics import DOCUMENTS
from forkpoint.trajectories.rows import CRITICAL, SUMMARY
from forkpoint.types import UserError

REPORT = "report.html"
_PAGES = {  # by the file that the directory holds, and the other that the page needs
    (RESULTS, SAMPLES): eval_page,
    (CRITICAL, SUMMARY): critical_page,
    (DOCUMENTS, SUMMARY): documents_page,
}


def write_report(run: Path) -> Path:
    """Write report.html into a finished run's directory; returns its path.

    Raises UserError where the directory holds no finished run.
    """
    for (name, other), page in _PAGES.items():
        if (run / name).exists():
            for needed in (name, other):
                if not (run / needed).is_file():
                    raise UserError(f"{run} holds no finished run: there is no {needed}")
            write_whole(run / REPORT, page(run))
            return run / REPORT
    raise UserError(f"{run} holds no finished run: there is none of {', '.join(name for name, _ in _PAGES)}")
