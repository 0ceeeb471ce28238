"""The page of pairs: their account by source, and both responses of each with the weights of the rejected tokens."""

from __future__ import annotations

import json

import pytest
from test_critical_page import embedded

from forkpoint.lab.problem_generator import load_problems
from forkpoint.pairs.pair_building import PairConfig, pair_responses
from forkpoint.report import write_report
from forkpoint.report.pages.pairs import page, page_of_summary
from forkpoint.types import Sampling, UserError

COUNTS = {
    "samples": {"questions": 1100, "samples": 1600, "correct": 797, "pairs": 1000},
    "forks": {"trajectories": 17, "trajectories_with_pairs": 9, "positions": 224, "positions_with_pairs": 21,
              "alternatives": 479, "pairs": 33},
    "trl": {"rows": 1200, "pairs": 1100, "shortened_prompts": 4},
}  # fmt: skip
FIRST = {
    "samples": "1,000 pairs of 1,600 responses to 1,100 questions, 797 right, for lab",
    "forks": "33 pairs of 479 other tokens at 224 positions of 17 responses, for lab",
    "trl": "1,100 pairs of 1,200 rows, for lab",
}
LAST = {
    "samples": "tokens on average: prompt 47.5 (at most 1,059), chosen 1.0 (at most 1), rejected 2.2 (at most 3)",
    "forks": "gain in success: mean 0.583, from 0.042 to 1.000; at 21 positions of 9 responses",
    "trl": "4 prompts end in tokens that change with the response, and are shortened by them",
}


def summary(source, **changes):
    lengths = {"prompt": (47.48, 1059), "chosen": (1.0, 1), "rejected": (2.2, 3)}
    return {
        "verb": "pairs", "model": "lab", "source": source, "counts": COUNTS[source], "rejected_weights": None,
        "dropped": {"responses": {"no_answer": 0, "same_correct_answer": 1697}, "questions": {"no_correct": 3}},
        "tokens": {name: {"mean": mean, "most": most} for name, (mean, most) in lengths.items()},
        "weight": {"mean": 0.583375, "least": 0.042056, "most": 1.0},
    } | changes  # fmt: skip


def row(**changes):
    return {
        "id": "right > wrong", "prompt": "Q: How many?\nA:", "chosen_ids": [7], "chosen_tokens": [" four"],
        "rejected_ids": [8, 9], "rejected_tokens": [" fi", "ve"], "rejected_weights": None, "weight": 1.0,
    } | changes  # fmt: skip


def run(out, source, *rows):
    (out / "config.json").write_text(json.dumps({"verb": "pairs"}))
    (out / "summary.json").write_text(json.dumps(summary(source)))
    (out / "pairs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return out


@pytest.mark.parametrize("source", COUNTS)
def test_the_sentences_tell_what_the_pairs_are_of(source):
    page = page_of_summary(summary(source))
    assert page.title == "Preference pairs for lab"
    assert (page.lines[0], page.lines[-1]) == (FIRST[source], LAST[source])


def test_responses_that_were_cut_off_are_counted():
    counts = COUNTS["samples"] | {"cut_off": 161}
    lines = page_of_summary(summary("samples", counts=counts)).lines
    assert lines[0] == FIRST["samples"].replace("right,", "right, 161 cut off,")
    assert lines[-1] == "cut off at the length limit: 161 of 1,600 responses; raise --max-tokens"


def test_weights_are_summed_up_where_there_are_any():
    weights = {"tokens": 2492, "mean": 0.0412, "share_above_half": 0.0353}
    lines = page_of_summary(summary("samples", rejected_weights=weights)).lines
    assert "weights of 2,492 rejected tokens: mean 0.041, 3.5% above one half" in lines


def test_what_was_dropped_is_in_a_table_by_reason():
    [table] = page_of_summary(summary("samples")).sections
    assert (table.title, table.columns) == ("Not in a pair", ("of", "reason", "number"))
    assert table.rows == [
        ("responses", "right, but another one with that answer was drawn", "1,697"),
        ("questions", "no right response", "3"),
    ]
    assert page_of_summary(summary("samples", dropped={"questions": {"no_correct": 0}})).sections == []


def test_a_pair_is_two_rows_and_opens_with_the_weighted_one(tmp_path):
    weighted = row(id="second", rejected_weights=[0.125, 1.0])
    data = embedded(write_report(run(tmp_path, "samples", row(), weighted)).read_text())
    assert [score["key"] for score in data["scores"]] == ["weight"]
    assert [(shown["group"], shown["label"]) for shown in data["rows"]] == [
        ("right > wrong", "chosen"), ("right > wrong", "rejected"), ("second", "chosen"), ("second", "rejected"),
    ]  # fmt: skip
    assert [shown["picked"] for shown in data["rows"]] == [False, False, False, True]
    assert [shown.get("question") for shown in data["rows"]] == ["Q: How many?\nA:", None] * 2
    assert [shown["tokens"] for shown in data["rows"][:2]] == [[" four"], [" fi", "ve"]]
    assert [shown.get("columns") for shown in data["rows"]] == [None, None, None, {"weight": [0.125, 1]}]


def test_a_pair_at_a_fork_says_what_it_gains(tmp_path):
    fork = row(rejected_ids=[9], rejected_tokens=[" five"], weight=0.172271)
    chosen, rejected = page(run(tmp_path, "forks", fork)).tokens.rows()
    assert chosen["note"] == "' four' in place of ' five' raises the success by 0.172"
    assert rejected["note"] == ""


def test_a_prompt_of_special_tokens_alone_is_empty_text(tmp_path):
    assert [one["question"] for one in page(run(tmp_path, "trl", row(prompt=""))).tokens.rows()] == ["", ""]


@pytest.mark.parametrize(("change", "said"), [
    ({"chosen_tokens": []}, "chosen_ids and chosen_tokens differ in length"),
    ({"rejected_tokens": None}, "rejected_tokens must be a list of strings"),
    ({"rejected_weights": [0.5]}, "rejected_weights must hold one number for each of the 2 tokens"),
    ({"prompt": 7}, "column 'prompt' should be a string"), ({"id": 7}, "column 'id' should be a string"),
])  # fmt: skip
def test_a_broken_row_is_named(tmp_path, change, said):
    shown = page(run(tmp_path, "samples", row(), row(**change)))
    with pytest.raises(UserError, match=rf"pairs\.jsonl line 2: .*{said}"):
        list(shown.tokens.rows())


def test_the_tokens_of_a_run_spell_its_responses(lab, tmp_path):
    """From Python there is no config of a command, but the same files."""
    settings = PairConfig(n=6, sampling=Sampling(max_tokens=100))
    found = pair_responses(lab, load_problems("train", limit=4), settings, tmp_path, task="lab")
    rows = list(page(tmp_path).tokens.rows())
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * len(pairs) == 2 * found["counts"]["pairs"] > 0
    for pair, chosen, rejected in zip(pairs, rows[::2], rows[1::2], strict=True):
        shown = ["".join(one["tokens"]) for one in (chosen, rejected)]
        assert shown == [pair["chosen"] + lab.tokenizer.eos_token, pair["rejected"] + lab.tokenizer.eos_token]
        assert [one["token_ids"] for one in (chosen, rejected)] == [pair["chosen_ids"], pair["rejected_ids"]]
