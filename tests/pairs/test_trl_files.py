"""Preference data of TRL's: every format, the same token ids as TRL itself makes, and what is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict
from transformers import AutoTokenizer

from forkpoint.lab import MODEL_DIR
from forkpoint.pairs.trl_files import import_pairs, read_preferences
from forkpoint.types import UserError

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
THINKING = TEMPLATE.replace("<assistant>{% endif %}", "<assistant>(thinks){% endif %}")  # a prompt that is not kept
TEXT = [
    {"prompt": "Q: Ada has 5 pens and 3 more.\nA:", "chosen": " 8", "rejected": " 7 pens."},
    {"prompt": "Q: Ben has", "chosen": "12 pens.", "rejected": "1 pen.<|end|>"},
    {"prompt": "Q: 1 + 1 = ", "chosen": "2", "rejected": "3"},
]  # fmt: skip
IMPLICIT = [
    {"chosen": "Q: Ada has 5 pens.\nA: 5 pens", "rejected": "Q: Ada has 5 pens.\nA: 6 pens"},
    {"chosen": "Ada has pens", "rejected": "Ada has books"},
    {"chosen": "Ada has", "rejected": "Ada has books"},
]  # fmt: skip


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


CHATS = [
    {
        "prompt": [said("system", "Be brief."), said("user", f"How much is {i} + {i}?")],
        "chosen": [said("assistant", str(2 * i))],
        "rejected": [said("assistant", f"{3 * i} pens")],
    }
    for i in (4, 20)
]  # fmt: skip
IMPLICIT_CHATS = [{name: row["prompt"] + row[name] for name in ("chosen", "rejected")} for row in CHATS]


def speaker(template: str | None = None, adds_start: bool = False):
    """The lab's tokenizer, with a chat template or with a token that it puts before every text."""
    from tokenizers.processors import TemplateProcessing

    found = AutoTokenizer.from_pretrained(MODEL_DIR)
    found.chat_template = template
    if adds_start:
        start = (found.eos_token, found.eos_token_id)
        found.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{start[0]} $A", pair=f"{start[0]} $A $B", special_tokens=[start]
        )
    return found


def trl_ids(rows: list[dict], tokenizer) -> list[tuple[tuple[int, ...], ...]]:
    """What TRL's trainer makes of the rows, by its own method."""
    from types import SimpleNamespace

    from trl import DPOTrainer

    arguments = SimpleNamespace(dataset_num_proc=None, max_length=None, truncation_mode="keep_start")
    trainer = SimpleNamespace(_tokenizer=tokenizer)
    prepared = DPOTrainer._prepare_dataset(trainer, Dataset.from_list(rows), tokenizer, arguments, "train")
    return [tuple(tuple(row[f"{name}_ids"]) for name in ("prompt", "chosen", "rejected")) for row in prepared]


@pytest.mark.parametrize(("rows", "template", "shortened"), [
    (TEXT, None, 0), (IMPLICIT, None, 1), (CHATS, TEMPLATE, 0), (IMPLICIT_CHATS, TEMPLATE, 0), (CHATS, THINKING, 2),
    ([row | {"chat_template_kwargs": {"brief": True}} for row in CHATS], "{{ brief }}" + TEMPLATE, 0),
    ([row | {"tools": '[{"name": "add"}]'} for row in CHATS], "{{ tools[0].name }}" + TEMPLATE, 0),
], ids=["text", "implicit", "chat", "implicit chat", "thinking", "options", "tools"])  # fmt: skip
@pytest.mark.parametrize("adds_start", [False, True])
def test_the_ids_are_trls(rows, template, shortened, adds_start):
    tokenizer = speaker(template, adds_start)
    found = import_pairs([("here", row) for row in rows], tokenizer)
    assert [(p.prompt_ids, p.chosen_ids, p.rejected_ids) for p in found.pairs] == trl_ids(rows, tokenizer)
    assert [p.id for p in found.pairs] == [str(i) for i in range(len(rows))]
    assert found.counts["shortened_prompts"] == shortened
    with_extras = {"chat_template_kwargs", "tools"} & rows[0].keys()
    assert not with_extras or found.pairs != import_pairs([("here", row) for row in CHATS], speaker(TEMPLATE)).pairs


def test_a_text_ends_with_the_end_of_sequence_once(tokenizer):
    (pair,) = import_pairs([("here", TEXT[1] | {"rejected": f"1 pen.{tokenizer.eos_token}"})], tokenizer).pairs
    assert [ids.count(tokenizer.eos_token_id) for ids in (pair.chosen_ids, pair.rejected_ids)] == [1, 1]
    assert pair.chosen_ids[-1] == pair.rejected_ids[-1] == tokenizer.eos_token_id
    assert (pair.prompt, pair.chosen, pair.rejected) == ("Q: Ben has", "12 pens.", "1 pen.")


def test_rows_that_make_no_pair_are_counted(tokenizer):
    rows = [
        {"prompt": "Q", "chosen": "same", "rejected": "same"}, {"chosen": "same", "rejected": "same"},
        {"chosen": "Ada ", "rejected": "Ben "}, {"prompt": "", "chosen": "a", "rejected": "b"},
        {"chosen": "", "rejected": "b"}, *TEXT,
    ]  # fmt: skip
    found = import_pairs([("here", row) for row in rows], tokenizer)
    assert found.dropped == {"same_response": 2, "no_prompt": 3, "empty_response": 0}
    assert (found.counts["rows"], found.counts["pairs"]) == (8, 3)
    assert [pair.id for pair in found.pairs] == ["5", "6", "7"]
    silent = CHATS[0] | {"chosen": []}
    assert (
        import_pairs([("here", silent)], speaker("{% for m in messages %}{{ m['content'] }}{% endfor %}")).dropped[
            "empty_response"
        ]
        == 1
    )


@pytest.fixture(params=["jsonl", "json", "parquet", "saved", "saved splits", "directory"])
def source(request, tmp_path) -> str:
    """One data set in every form that can be read."""
    data, path = Dataset.from_list(CHATS), tmp_path / "data"
    if request.param in ("jsonl", "json"):
        path = path.with_suffix(f".{request.param}")
        path.write_text("\n".join(map(json.dumps, CHATS)))
    elif request.param == "parquet":
        path = path.with_suffix(".parquet")
        data.to_parquet(path)
    elif request.param == "saved":
        data.save_to_disk(path)
    elif request.param == "saved splits":
        DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(path)
    else:
        path.mkdir()
        (path / "train.jsonl").write_text("\n".join(map(json.dumps, CHATS)))
    return str(path)


def test_every_form_is_read(source, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    assert [row for _, row in read_preferences(source)] == CHATS


def test_a_split_that_is_not_there_is_one_sentence(tmp_path):
    DatasetDict({"train": Dataset.from_list(TEXT)}).save_to_disk(tmp_path / "data")
    with pytest.raises(UserError, match=r"cannot read .*split 'tset'"):
        read_preferences(str(tmp_path / "data"), "tset")


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.jsonl", "", "holds no pairs"), ("a.jsonl", json.dumps(TEXT[0]) + '\n{"prompt"\n', "line 2: not valid JSON"),
    ("a.parquet", "none", "cannot read .*a.parquet: ArrowInvalid"),
])  # fmt: skip
def test_what_cannot_be_read_is_one_sentence(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as refusal:
        read_preferences(str(tmp_path / name))
    assert "\n" not in str(refusal.value)


def test_a_data_set_that_is_not_there_is_one_sentence(tmp_path, caplog):
    with pytest.raises(UserError, match="there is no such file or directory"):
        read_preferences(str(tmp_path / "none.jsonl"))
    with caplog.at_level(logging.CRITICAL), pytest.raises(UserError, match="cannot read nobody/nothing"):
        read_preferences("nobody/nothing")


@pytest.mark.parametrize(("row", "message"), [
    ({"prompt": "a", "chosen": "b"}, "no column 'rejected'"),
    ({"prompt": "a", "chosen": "b", "rejected": 7}, "rejected must be text or a list of messages .*, but is 7"),
    ({"prompt": "a", "chosen": "b", "rejected": ["c"]}, "rejected must be text or a list of messages"),
    ({"prompt": "a"} | IMPLICIT_CHATS[0], "do not begin with the same messages, one of them the prompt 'a'"),
    ({"chosen": "a", "rejected": IMPLICIT_CHATS[0]["rejected"]}, "must be both text or both lists of messages"),
    (CHATS[0], "is a conversation, but the tokenizer has no chat template"),
])  # fmt: skip
def test_a_row_in_no_format_is_one_sentence(tokenizer, row, message):
    with pytest.raises(UserError, match=f"FILE line 7: .*{message}"):
        import_pairs([("FILE line 7", row)], tokenizer)


def test_a_template_that_refuses_is_one_sentence():
    tokenizer = speaker("{{ raise_exception('no system messages') }}")
    with pytest.raises(UserError, match="FILE line 7: the chat template refuses the conversation: no system messages"):
        import_pairs([("FILE line 7", CHATS[0])], tokenizer)


def test_progress_is_told(tokenizer):
    told: list[tuple] = []
    import_pairs([("here", TEXT[0])] * 250, tokenizer, lambda *args: told.append(args))
    assert [done for _, done, _, _ in told] == [100, 200]
    assert all(total == 250 for _, _, total, _ in told)
    assert told[0][3] < told[1][3]


def test_trl_reads_our_text_columns(lab, tmp_path):
    """Of responses that ended by themselves TRL makes the same ids as pairs.jsonl holds."""
    from forkpoint.pairs.pair_files import make_pair, pair_row

    tokenizer = lab.tokenizer
    ids = [tuple(tokenizer(text)["input_ids"]) for text in (TEXT[0]["prompt"], " 5 + 3 = 8.", " 5 + 3 = 7.")]
    pair = make_pair("one", ids[0], (*ids[1], tokenizer.eos_token_id), (*ids[2], tokenizer.eos_token_id), tokenizer)
    path = Path(tmp_path / "pairs.jsonl")
    path.write_text(json.dumps(pair_row(pair)))
    rows = [row for _, row in read_preferences(str(path))]
    assert trl_ids(rows, tokenizer) == [(pair.prompt_ids, pair.chosen_ids, pair.rejected_ids)]
