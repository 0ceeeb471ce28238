"""A run's directory: whose it is, while it runs and after it failed."""

from contextlib import suppress

import pytest

from forkpoint.files import CONFIG, JOURNAL, Journal, claimed
from forkpoint.types import UserError


def fail_in(out, config, work):
    """A run that does the work, then fails."""
    with suppress(ZeroDivisionError), claimed(out, config):
        work()
        raise ZeroDivisionError


@pytest.mark.parametrize("work", ["nothing", "directories", "hidden files", "hidden directories"])
def test_a_failure_before_there_is_anything_leaves_the_directory_free(tmp_path, work):
    def make():
        if work == "directories":
            (tmp_path / "round-0/model").mkdir(parents=True)
        elif work == "hidden files":
            (tmp_path / ".notes").write_text("")
        elif work == "hidden directories":
            (tmp_path / ".tokens").mkdir()
            (tmp_path / ".tokens/store.json").write_text("{}")

    fail_in(tmp_path, {"seed": 0}, make)
    with claimed(tmp_path, {"seed": 1}):
        assert work != "hidden directories" or (tmp_path / ".tokens/store.json").exists()


def test_finished_work_keeps_it(tmp_path):
    fail_in(tmp_path, {"seed": 0}, lambda: Journal(tmp_path / JOURNAL).append({"unit": 1}))
    with pytest.raises(UserError, match="seed was 0, now 1"), claimed(tmp_path, {"seed": 1}):
        pass
    with claimed(tmp_path, {"seed": 0}):
        assert list(Journal(tmp_path / JOURNAL)) == [{"unit": 1}]


def test_another_process_waits_in_vain_and_changes_nothing(tmp_path):
    with claimed(tmp_path, {"seed": 0}):
        with pytest.raises(UserError, match="another process"), claimed(tmp_path, {"seed": 0}):
            pass
        assert (tmp_path / CONFIG).exists()
