"""Reports: one self-contained HTML page for a finished run."""

from forkpoint.report.page import write_report

__all__ = ["write_report"]
