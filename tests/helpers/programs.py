"""Programs that are no Python: a test that needs one is skipped where there is none, but never in CI."""

from __future__ import annotations

import os
import shutil

import pytest


def require_program(*names: str) -> str:
    """The path of the first of these that is installed; without any the test is skipped, or fails if CI is set."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{names[0]} is not installed")
    return found
