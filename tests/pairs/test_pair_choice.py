"""The choice of a right and a wrong response a question."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from made_up_pairs import samples_of

from forkpoint.pairs.pair_choice import choose_pairs

ANSWERS = st.sampled_from(["1", "1.0", "2", "2.0", "3", "1,000", "1000", None])


def test_the_most_frequent_wrong_answer_is_rejected():
    assert choose_pairs(samples_of(["3", "1", "2"])).pairs[0][1].answer == "3"  # of equally frequent ones the first
    samples = samples_of(["3", "2", "1", "2.0", "1.0", "4", None])
    choice = choose_pairs(samples)
    ((chosen, rejected),) = choice.pairs
    assert chosen.answer in ("1", "1.0")
    assert rejected.answer in ("2", "2.0")
    assert choice.counts == {"questions": 1, "samples": 7, "correct": 2, "wrong": 5, "cut_off": 0, "pairs": 1}
    assert choice.questions == {"no_correct": 0, "no_wrong": 0, "no_wrong_answer": 0}
    assert choice.responses == {
        "question_dropped": 0, "no_answer": 1, "other_correct_answer": 0, "same_correct_answer": 1,
        "other_wrong_answer": 2, "same_wrong_answer": 1,
    }  # fmt: skip


def test_questions_without_a_pair_are_counted_by_their_reason():
    parts = {"a": ["1", "1"], "b": ["2", None], "c": ["1", None, None], "d": ["1", "2"], "e": [None]}
    samples = [s for name, answers in parts.items() for s in samples_of(answers, name)]
    choice = choose_pairs([*samples, *samples_of(["1"], "d", prompt=6)])  # a pair has one prompt
    assert [(a.problem.id, a.prompt_ids, b.prompt_ids) for a, b in choice.pairs] == [("d", (5,), (5,))]
    assert choice.questions == {"no_correct": 2, "no_wrong": 2, "no_wrong_answer": 1}
    assert (choice.responses["question_dropped"], choice.responses["no_answer"]) == (9, 0)


def test_the_choice_hangs_on_the_seed_and_the_question_alone():
    one, other = samples_of(["1"] * 20 + ["2"] * 20, name="a"), samples_of(["1", "3"], name="b")
    assert choose_pairs(one).pairs[0] == choose_pairs([*other, *one]).pairs[1]
    for side in (0, 1):
        assert len({choose_pairs(one, seed).pairs[0][side].id for seed in range(20)}) > 5
        twins = {name: choose_pairs(samples_of(["1"] * 20 + ["2"] * 20, name)).pairs[0] for name in "abcdefgh"}
        assert len({pair[side].token_ids for pair in twins.values()}) > 3


@given(st.lists(st.lists(ANSWERS, min_size=1, max_size=15), max_size=5), st.integers(0, 3))
def test_every_sample_is_in_a_pair_or_accounted_for(questions, seed):
    samples = [s for i, answers in enumerate(questions) for s in samples_of(answers, f"p{i}")]
    choice = choose_pairs(samples, seed)
    assert 2 * len(choice.pairs) + sum(choice.responses.values()) == len(samples)
    assert len(choice.pairs) + sum(choice.questions.values()) == len(questions)
    for chosen, rejected in choice.pairs:
        assert chosen.correct
        assert not rejected.correct
        assert chosen.problem == rejected.problem
        wrong = [s for s in samples if s.problem == chosen.problem and s.answer and not s.correct]
        counts = Counter(float(s.answer.replace(",", "")) for s in wrong)
        assert counts[float(rejected.answer.replace(",", ""))] == max(counts.values())
    paired = {chosen.problem.id for chosen, _ in choice.pairs}
    for i, answers in enumerate(questions):
        right = {answer for answer in answers if answer in ("1", "1.0")}
        assert (f"p{i}" in paired) == bool(right and set(answers) - right - {None})
