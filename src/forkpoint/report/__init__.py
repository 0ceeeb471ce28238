"""Reports: what there is to show of a finished run, as a single-file page, in a terminal, or in a notebook."""

from forkpoint.report.content import Chart, Link, Page, Table, Tokens
from forkpoint.report.page import page_of, write_report

__all__ = ["Chart", "Link", "Page", "Table", "Tokens", "page_of", "write_report"]
