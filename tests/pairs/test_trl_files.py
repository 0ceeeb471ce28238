"""Preference data of TRL's: every format, the same token ids as TRL itself makes, and what is refused."""

from __future__ import annotations

import json
from random import Random

import pytest
from datasets import Dataset, DatasetDict
from trained_tokenizers import KINDS, tokenizer_of
from transformers import AutoTokenizer

from forkpoint.lab import MODEL_DIR
from forkpoint.pairs.pair_files import make_pair
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
    assert found.pairs[1].chosen_ids.count(0) == found.pairs[1].rejected_ids.count(0) == 1  # ends once
    text = {"prompt": "Ada has 5 pens.", "chosen": "5 pens", "rejected": "6 pens"}
    blank = [text | {"chosen": part} for part in ("", " \n", tokenizer.eos_token, f" {tokenizer.eos_token}")]
    silent = [CHATS[0] | {"rejected": part} for part in ([], "", [said("assistant", None)])]
    found = import_pairs([("here", row) for row in [*blank, *silent, text]], speaker(TEMPLATE))
    assert found.dropped == {"same_response": 0, "no_prompt": 0, "empty_response": 7}
    bare = speaker("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    assert import_pairs([("here", CHATS[0] | {"chosen": []})], bare).dropped["empty_response"] == 1


def test_files_and_saved_data_sets_are_read(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, CHATS)))
    data = Dataset.from_list(CHATS)
    DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(tmp_path / "saved")
    for source in (path, tmp_path / "saved"):
        assert [row for _, row in read_preferences(str(source))] == CHATS
    assert len(read_preferences(str(tmp_path / "saved"), "test")) == 1
    (tmp_path / "empty.jsonl").write_text("")
    for name, message in (("empty", "holds no pairs"), ("none", "there is no such file or directory")):
        with pytest.raises(UserError, match=message):
            read_preferences(str(tmp_path / f"{name}.jsonl"))


def test_a_template_that_refuses_is_one_sentence():
    refuse = "{% if messages[-1].content[:2] in ('20', '40') %}{{ raise_exception('no') }}{% endif %}"
    rows = [("FILE line 1", CHATS[0]), ("FILE line 2", IMPLICIT_CHATS[1])]
    bad: list[str] = []
    assert len(import_pairs(rows, speaker(refuse + TEMPLATE), bad=bad).pairs) == 1
    assert bad == ["FILE line 2: the chat template refuses the conversation: no"]
    with pytest.raises(UserError, match=bad[0]):
        import_pairs(rows, speaker(refuse + TEMPLATE))


def test_progress_is_heard(tokenizer):
    calls: list[tuple] = []
    import_pairs([("here", TEXT[0])] * 250, tokenizer, lambda *args: calls.append(args))
    assert [call[:3] for call in calls] == [("tokenised pairs", done, 250) for done in (100, 200)]
    assert calls[0][3] < calls[1][3]


SPOKEN = (  # with a line after the end, as in most templates
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}"
    "{% endif %}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_and_response_are_what_their_ids_spell_together(kind):
    """And TRL makes the same ids of these texts."""
    tokenizer, rng = tokenizer_of(kind), Random(0)
    for _ in range(100):
        prompt, chosen, rejected = (tuple(rng.choices(range(3, len(tokenizer)), k=rng.randint(1, 8))) for _ in range(3))
        pair = make_pair("one", prompt, (*chosen, tokenizer.eos_token_id), rejected, tokenizer)
        for ids, text in ((chosen, pair.chosen), (rejected, pair.rejected)):
            assert pair.prompt + text == tokenizer.decode(prompt + ids, clean_up_tokenization_spaces=False)
        alone = tokenizer.decode(prompt, clean_up_tokenization_spaces=False)
        assert pair.prompt == alone or "\ufffd" in pair.prompt + pair.chosen + pair.rejected
    rows = [row for row in TEXT if kind != "WordPiece" or "Q: " not in row["prompt"]]  # it keeps no newline
    pairs = import_pairs([("here", row) for row in rows], tokenizer).pairs
    tokenizer.chat_template = SPOKEN if kind != "byte fallback" else "{{ bos_token }}" + SPOKEN
    chat = {"prompt": [said("user", "How many pens does Ada have now?")], "chosen": [said("assistant", "Ada has 8.")],
            "rejected": [said("assistant", "Ada has 5 .")]}  # fmt: skip
    turns = chat | {"chosen": [*chat["chosen"], said("user", "How many pens?"), *chat["chosen"]]}
    chats = [chat] if kind == "byte fallback" else [chat, turns]  # it adds a space after a special token
    pairs += import_pairs([("here", row) for row in chats], tokenizer).pairs
    columns = [{name: getattr(pair, name) for name in ("prompt", "chosen", "rejected")} for pair in pairs]
    ended = [(pair.prompt_ids, *(ids[: len(ids) - ids[::-1].index(2)] for ids in (pair.chosen_ids, pair.rejected_ids)))
             for pair in pairs]  # fmt: skip
    assert trl_ids(columns, tokenizer) == ended
