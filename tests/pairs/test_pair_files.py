"""pairs.jsonl: written and read back, and what is refused with its line."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_up_pairs import written
from transformers import AutoTokenizer

from forkpoint.pairs.pair import Pair
from forkpoint.pairs.pair_files import make_pair, pair_row, read_pairs, spelled
from forkpoint.types import UserError


@pytest.fixture
def pairs(tokenizer) -> list[Pair]:
    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text)["input_ids"])

    prompt, right, wrong = ids("Q: How many?\nA:"), (*ids(" 3 pens."), tokenizer.eos_token_id), ids(" four é")
    weights = tuple(i / len(wrong) for i in range(len(wrong)))
    return [
        make_pair("one", prompt, right, wrong, tokenizer, rejected_weights=weights),
        make_pair("two", prompt, right[:1], right[-1:], tokenizer, weight=0.25),
        make_pair("three", prompt, wrong[-1:], right, tokenizer),
    ]  # fmt: skip


def test_what_is_written_is_read(pairs, tokenizer, tmp_path):
    rows = [pair_row(pair, "p") for pair in pairs]
    assert list(rows[0]) == ["id", "problem_id", "prompt_ids", "chosen_ids", "rejected_ids", "rejected_weights",
                             "weight", "prompt", "chosen", "rejected"]  # fmt: skip
    assert rows[0]["chosen"] == " 3 pens."  # TRL adds the end itself
    path = written(tmp_path / "pairs.jsonl", *rows)
    assert read_pairs(path, tokenizer, len(tokenizer)) == read_pairs(tmp_path, tokenizer, len(tokenizer)) == pairs
    ids = [{key: value for key, value in row.items() if key.endswith("_ids")} for row in rows]  # are enough
    wanted = [replace(pair, id=str(i), rejected_weights=None, weight=1.0) for i, pair in enumerate(pairs)]
    assert read_pairs(written(tmp_path / "mine.jsonl", *ids), tokenizer, len(tokenizer)) == wanted


@pytest.mark.parametrize(("change", "message"), [
    ({"prompt_ids": [490]}, "prompt_ids holds 490, but the ids of the model go from 0 to 489; the pairs come"),
    ({"chosen_ids": []}, "chosen_ids is empty"),
    ({"rejected_ids": [1.5]}, "rejected_ids must be a list of whole numbers, but holds 1.5"),
    ({"prompt": "Q: How much?"}, "prompt is 'Q: How much?' there, but its token ids spell 'Q: How many?"),
    ({"rejected": 7}, "rejected is 7 there"),
    ({"rejected_weights": [0.5]}, "one number for each of the"),
    ({"rejected_weights": ["a"]}, "rejected_weights must be a list of numbers, but is ['a']"),
    ({"rejected_weights": [1.1] * 7}, "rejected_weights must be between 0 and 1, but holds 1.1"),
    ({"weight": -1}, "weight must be a number of at least 0, but is -1"),
    ({"weight": float("nan")}, "weight must be a number of at least 0, but is nan"),
    ({"weight": 10**400}, "weight must be a number of at least 0"),
    ({"id": "one"}, "the pair 'one' is there twice"),
    ({"id": 7}, "column 'id' should be a string"),
])  # fmt: skip
def test_a_broken_row_is_one_sentence_with_its_place(pairs, tokenizer, tmp_path, change, message):
    assert len(pairs[0].rejected_ids) == 7
    path = written(tmp_path / "pairs.jsonl", pair_row(pairs[0]), pair_row(pairs[0]) | {"id": "next"} | change)
    with pytest.raises(UserError) as refusal:
        read_pairs(path, tokenizer, len(tokenizer))
    assert str(refusal.value).startswith(f"{path} line 2: ")
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("text", "message"), [
    ("\n\n", "holds no pairs"), ('{"prompt_ids": [5]\n', "line 1: not valid JSON"),
    ('{"prompt_ids": [5], "chosen_ids": [5]}\n', "no column 'rejected_ids'"),
    ('{"prompt": "a", "chosen": "b", "rejected": "c"}\n', "no token ids; make them with forkpoint pairs --trl"),
])  # fmt: skip
def test_what_is_no_file_of_pairs_is_refused(tokenizer, tmp_path, text, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_pairs(path, tokenizer, len(tokenizer))
    with pytest.raises(UserError, match="cannot read"):
        read_pairs(tmp_path / "none.jsonl", tokenizer, len(tokenizer))


def test_a_prompt_keeps_its_special_tokens_but_the_first_that_the_tokenizer_adds(tokenizer):
    from tokenizers.processors import TemplateProcessing

    from forkpoint.lab import MODEL_DIR

    adding = AutoTokenizer.from_pretrained(MODEL_DIR)
    start, end = tokenizer.eos_token, tokenizer.eos_token_id
    adding.backend_tokenizer.post_processor = TemplateProcessing(single=f"{start} $A", special_tokens=[(start, end)])
    ids = (end, *tokenizer("Q: How")["input_ids"], end)
    assert tuple(adding("Q: How")["input_ids"]) == ids[:-1]
    assert spelled(adding, ids) == (f"Q: How{start}",)
    assert spelled(tokenizer, ids) == (f"{start}Q: How{start}",)
    for reader in (tokenizer, adding):
        assert tuple(reader(*spelled(reader, ids))["input_ids"]) == ids
