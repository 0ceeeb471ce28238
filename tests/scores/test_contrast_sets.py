"""The choice of the positive and the negative set."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_pairs import samples_of

from forkpoint.scores.contrast_sets import FEW, about_few, choose_sets
from forkpoint.types import UserError


def test_the_most_frequent_wrong_answers_cover_half_of_the_wrong_samples():
    sets = choose_sets(samples_of(["1", "2", "2", "2", "3", "3", "4", "5", "6", "1.0", None]))
    assert len(sets.positive) == 1
    assert [s.answer for s in sets.negative] == ["2", "3"]  # 3 of 8 are not half, 5 are
    assert sets.counts == {
        "questions": 1, "samples": 11, "correct": 2, "wrong": 9, "cut_off": 0, "questions_without_correct": 0,
        "questions_without_wrong": 0, "positive": 1, "negative": 2,
    }  # fmt: skip
    assert sets.dropped == {"other_correct": 1, "same_wrong_answer": 3, "rarer_wrong_answer": 3, "no_answer": 1}


def test_answers_are_merged_by_meaning_and_a_question_gives_what_it_has():
    sets = choose_sets([*samples_of(["1", "1000", "1,000", "1000.0", "7", "8", "9"]), *samples_of(["1"], name="q")])
    assert [float(s.answer.replace(",", "")) for s in sets.negative] == [1000]
    sets = choose_sets([*samples_of(["1", "1"], name="a"), *samples_of(["2", "3"], name="b")])
    assert [s.problem.id for s in (*sets.positive, *sets.negative)] == ["a", "b"]
    assert sets.counts["questions_without_correct"] == sets.counts["questions_without_wrong"] == 1


def test_few_responses_to_tune_on_are_told():
    few = choose_sets(samples_of(["1"] + ["2"] * (FEW - 1) + ["3"] * FEW)).counts
    assert about_few(few).startswith(f"the positive model on 1 and the negative model on 1 of {2 * FEW:,} responses: ")
    many = [sample for i in range(FEW) for sample in samples_of(["1", "2"], name=f"p{i}")]
    assert about_few(choose_sets(many).counts) is None
    assert "the positive model on 19 of" in about_few(choose_sets(many[1:]).counts)


@pytest.mark.parametrize(("answers", "message"), [
    (["1", "1"], "all 2 samples are correct"), (["2", None], "none of the 2 samples is correct"),
    (["1", None], "none of the wrong samples holds an answer"), ([], "no samples"),
])  # fmt: skip
def test_an_empty_set_is_refused(answers, message):
    with pytest.raises(UserError, match=message):
        choose_sets(samples_of(answers))


def test_the_choice_hangs_on_the_seed_and_the_question_alone():
    one, other = samples_of(["1"] * 20 + ["2"] * 20, name="a"), samples_of(["1", "3"], name="b")
    alone, together = choose_sets(one), choose_sets([*other, *one])
    assert alone.positive[0] == together.positive[1]
    assert alone.negative[0] == together.negative[1]
    assert len({choose_sets(one, seed).positive[0].id for seed in range(20)}) > 5


@given(st.lists(st.sampled_from(["1", "2", "3", "4", "5", None]), min_size=1, max_size=40))
def test_every_sample_is_chosen_or_accounted_for(answers):
    samples = samples_of(["1", "2", *answers])
    sets = choose_sets(samples)
    assert len(sets.positive) + len(sets.negative) + sum(sets.dropped.values()) == len(samples)
    counts = Counter(s.answer for s in samples if not s.correct and s.answer)
    chosen = [counts[s.answer] for s in sets.negative]
    assert len({s.answer for s in sets.negative}) == len(chosen)
    assert sum(chosen) >= counts.total() / 2 > sum(chosen) - chosen[-1]
    assert min(chosen) >= max((n for a, n in counts.items() if a not in {s.answer for s in sets.negative}), default=0)
