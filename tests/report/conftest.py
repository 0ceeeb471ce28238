"""One browser, and one run of each kind, for all tests of pages."""

from __future__ import annotations

import pytest
from browser import browser
from made_up_runs import RUNS


@pytest.fixture(scope="session")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="session")
def run_of(tmp_path_factory):
    """The finished run of a kind, made when it is first asked for; a test leaves its files as they are."""
    made = {}

    def run(name):
        if name not in made:
            made[name] = RUNS[name](tmp_path_factory.mktemp(name))
        return made[name]

    return run
