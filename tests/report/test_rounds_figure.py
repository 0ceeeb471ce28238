"""The chart of rounds: complete, the same each time, and drawn from the numbers."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from forkpoint.report.figures.rounds_figure import rounds_svg

NAMES = ("greedy_accuracy", "sampled_accuracy", "pass@4", "distinct_answers", "distinct_responses", "correct_logprob")


def summary(accuracy: float = 0.5, rounds: int = 3, **changes: Any) -> dict[str, Any]:
    """A run's summary, as far as it is drawn; pass@1 is not."""
    figures = {name: accuracy + i / 10 for i, name in enumerate(("pass@1", *NAMES))}
    held_out = figures | {f"{name}_ci95": [value - 0.1, value + 0.1] for name, value in figures.items()} | changes
    return {"eval_n": 8, "results": [{"round": i, "held_out": held_out} for i in range(rounds + 1)]}


def groups(text: str, start: str) -> int:
    return sum(e.get("id", "").startswith(start) for e in ElementTree.fromstring(text).iter())


def test_every_figure_has_a_panel_and_every_run_a_line_with_a_band():
    text = rounds_svg({"none": summary(), "token": summary(0.6)})
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert groups(text, "axes_") == len(NAMES)
    assert groups(text, "FillBetweenPolyCollection_") == 2 * len(NAMES)
    assert text == rounds_svg({"none": summary(), "token": summary(0.6)})
    assert text != rounds_svg({"none": summary(), "example": summary(0.6)})


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_drawn_from_its_numbers(name):
    drawn = {rounds_svg({"none": summary(**changes)}) for changes in ({}, {name: 0.97}, {f"{name}_ci95": [0.03, 0.97]})}
    assert len(drawn) == 3


def test_a_round_that_was_not_done_or_lacks_a_figure_is_left_out():
    """No right sample: no likelihood of one. One with a right sample in one problem alone: no interval."""
    whole = summary()
    stopped = {**whole, "results": [*whole["results"], {"round": 4, "stopped": "nothing right"}]}
    assert rounds_svg({"none": stopped}) == rounds_svg({"none": whole})
    for missing in ({"correct_logprob": None, "correct_logprob_ci95": None}, {"correct_logprob_ci95": None}):
        assert groups(rounds_svg({"none": summary(**missing)}), "axes_") == len(NAMES)
    assert groups(rounds_svg({"none": summary(rounds=0)}), "axes_") == len(NAMES)
