"""A missing program skips a test, but fails it in CI."""

from __future__ import annotations

import shutil

import pytest
from programs import require_program


def test_the_first_that_is_there_is_found():
    assert require_program("no-such-program", "bash", "sh") == shutil.which("bash")


def test_a_missing_one_skips_but_fails_in_ci(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-program is not installed"):
        require_program("no-such-program", "nor-this-one")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no-such-program is not installed"):
        require_program("no-such-program", "nor-this-one")
