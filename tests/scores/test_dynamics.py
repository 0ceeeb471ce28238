"""Token dynamics, held to a line fitted to each token by numpy.polyfit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from forkpoint.scores.dynamics import CLASSES, class_names, classify, dynamics_summary


def naive(losses: np.ndarray, mean: float) -> tuple[list[str | None], list[float]]:
    """Class and Δ of each token, by the definition, one token at a time in float64."""
    names: list[str | None] = []
    deltas = []
    for column in losses.astype(np.float64).T:
        if not np.isfinite(column).all():
            names.append(None)
            deltas.append(float("nan"))
            continue
        slope, intercept = np.polyfit(np.arange(len(column)), column, 1)
        delta = (slope * (len(column) - 1) + intercept) - intercept
        deltas.append(delta)
        names.append("H→L" if delta < -0.2 else "L→H" if delta > 0.2 else "L→L" if column[-1] <= mean else "H→H")
    return names, deltas


@st.composite
def loss_arrays(draw):
    shape = draw(st.tuples(st.integers(2, 8), st.integers(1, 12)))
    losses = draw(arrays(np.float32, shape, elements=st.floats(0, 16, width=32)))
    flat = draw(arrays(np.bool_, shape[1]))  # tokens that hardly move, which random losses seldom are
    losses[:, flat] = losses[0, flat] + losses[:, flat] / 128
    missing = draw(arrays(np.bool_, shape[1], elements=st.sampled_from([False, False, False, True])))
    losses[draw(st.integers(0, shape[0] - 1)), missing] = draw(st.sampled_from([np.nan, np.inf]))
    return losses


@given(loss_arrays())
def test_it_is_a_line_fitted_to_each_token(losses):
    found = classify(losses)
    names, deltas = naive(losses, found.mean)
    known = np.array([name is not None for name in names])
    near = np.abs(np.abs(np.array(deltas)[known]) - 0.2)
    assume((near > 1e-5).all())
    assert class_names(found.classes) == names
    np.testing.assert_allclose(found.delta, deltas, atol=1e-5)
    if known.any():
        assert found.mean == pytest.approx(losses[-1, known].astype(np.float64).mean())
    assert found.classes.dtype == np.int8
    assert found.delta.dtype == np.float32


@given(loss_arrays(), st.floats(0, 16))
def test_a_part_with_the_mean_of_all_is_classified_as_among_all(losses, mean):
    whole = classify(losses, mean)
    parts = [classify(losses[:, i : i + 1], mean) for i in range(losses.shape[1])]
    np.testing.assert_array_equal(whole.classes, np.concatenate([part.classes for part in parts]))


@pytest.mark.parametrize("between", [[], [[0.7] * 4]])
def test_a_change_of_exactly_the_threshold_is_none(between):
    """Both ways at the threshold, and at the next float32 beyond it; a loss in the middle does not turn the line."""
    edge = np.float32(0.2)
    over = np.nextafter(edge, np.float32(1))
    losses = np.array([[edge, 0, over, 0], *between, [0, edge, 0, over]], np.float32)
    assert class_names(classify(losses, mean=1.0).classes) == ["L→L", "L→L", "H→L", "L→H"]


def test_the_line_decides_and_not_the_ends_and_the_mean_is_of_the_last_losses_alone():
    losses = np.array([[1, 0.5, 0.5, 0.5, 1], [0, 1, 1, 1, 0.9]], np.float32).T
    assert class_names(classify(losses, mean=0.95).classes) == ["H→H", "L→H"]
    assert classify(losses).delta == pytest.approx([0, 0.72])
    same = classify(np.full((4, 5), 0.7))
    assert class_names(same.classes) == ["L→L"] * 5
    assert not same.delta.any()
    apart = classify(np.array([[9, 1.0, np.nan], [9, 1.0, 50]], np.float32))
    assert apart.mean == 5
    assert class_names(apart.classes) == ["H→H", "L→L", None]
    assert np.isnan(apart.delta[2])


def test_the_summary_counts_shares_and_averages():
    losses = np.array([[3, 1, 1, 0.5, 0.5, np.nan], [1, 1.1, 3, 0.6, 0.4, 1], [0.5, 1, 5, 0.5, 0.5, 1]], np.float32)
    dynamics = classify(losses)
    assert class_names(dynamics.classes) == ["H→L", "L→L", "L→H", "L→L", "L→L", None]
    summary = dynamics_summary(losses, dynamics, ["a", "b", "c"])
    assert list(summary["classes"]) == list(CLASSES)
    assert (summary["checkpoints"], summary["tokens"]) == (["a", "b", "c"], 5)
    assert summary["mean_last_loss"] == pytest.approx(1.5)
    assert [row["tokens"] for row in summary["classes"].values()] == [0, 1, 1, 3]
    assert [row["share"] for row in summary["classes"].values()] == [0, 0.2, 0.2, 0.6]
    assert summary["classes"]["H→H"]["mean_loss"] == [None, None, None]
    assert summary["classes"]["L→L"]["mean_loss"] == pytest.approx([2 / 3, 2.1 / 3, 2 / 3])
    nothing = np.full((2, 3), np.nan, np.float32)
    summary = dynamics_summary(nothing, classify(nothing), ["a", "b"])
    assert (summary["mean_last_loss"], {row["share"] for row in summary["classes"].values()}) == (None, {None})
