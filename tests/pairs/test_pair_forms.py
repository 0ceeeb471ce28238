"""The forms of rows that hold a pair: what each is read as, the ids that TRL makes of that, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from test_trl_files import TEMPLATE, speaker, trl_ids

from forkpoint.pairs.pair_forms import FORMS
from forkpoint.pairs.trl_files import import_pairs, read_preferences
from forkpoint.types import UserError

Row = dict[str, Any]
USER, RIGHT, WRONG = ({"role": role, "content": text} for role, text in
                      (("user", "Ada has 5 pens."), ("assistant", "5 pens"), ("assistant", "6 pens")))  # fmt: skip
BRIEF = {"role": "system", "content": "Be brief."}
CHAT = {"prompt": [USER], "chosen": [RIGHT], "rejected": [WRONG]}
WITH_SYSTEM = CHAT | {"prompt": [BRIEF, USER]}
TEXTS = {"chosen": "5 pens", "rejected": "6 pens"}
TEXT = {"prompt": "Ada has 5 pens.", **TEXTS}
REPEATED = {"chosen": [USER, RIGHT], "rejected": [USER, WRONG]}
HH = {name: f"\n\nHuman: Ada has 5 pens.\n\nAssistant: {text}" for name, text in TEXTS.items()}
TOLD = {"from": "human", "value": "Ada has 5 pens."}
TOOLS = [{"type": "function", "function": {"name": "add"}}]


def gpt(text: str) -> Row:
    return {"from": "gpt", "value": text}


@pytest.mark.parametrize(("row", "same"), [
    (TEXT, TEXT),
    (TEXT | {"score_chosen": 8.5, "source": "a long name", "images": []}, TEXT),
    (CHAT, CHAT),
    (HH, {"prompt": "\n\nHuman: Ada has 5 pens.\n\nAssistant:", "chosen": " 5 pens", "rejected": " 6 pens"}),
    (REPEATED, CHAT),
    (REPEATED | {"prompt": None}, CHAT),
    (REPEATED | {"prompt": "Ada has 5 pens.", "prompt_id": "a7", "messages": [USER, RIGHT]}, CHAT),  # UltraFeedback
    (REPEATED | {"prompt": [USER]}, CHAT),
    ({name: [BRIEF, *part] for name, part in REPEATED.items()} | {"prompt": "Ada has 5 pens. "}, WITH_SYSTEM),
    ({"prompt": "Ada has 5 pens.", "chosen": [RIGHT], "rejected": [WRONG]}, CHAT),
    ({"prompt": "Ada has 5 pens.", "chosen": RIGHT, "rejected": WRONG}, CHAT),
    ({"prompt": [USER], **TEXTS}, CHAT),
    (TEXT | {"system": "Be brief."}, WITH_SYSTEM),
    (TEXT | {"system": ""}, CHAT),
    (CHAT | {"system": "Be brief."}, WITH_SYSTEM),
    (CHAT | {"prompt": [{"role": "user", "content": [{"type": "text", "text": "Ada has 5 pens."}]}]}, CHAT),
    (HH | {"system": "", "prompt_id": "a7", "source": "hh"},
     {"prompt": "\n\nHuman: Ada has 5 pens.\n\nAssistant:", "chosen": " 5 pens", "rejected": " 6 pens"}),
    (WITH_SYSTEM | {"system": "Be brief."}, WITH_SYSTEM),
    ({"system": "Be brief.", "question": "Ada has 5 pens.", **TEXTS}, WITH_SYSTEM),  # Orca
    ({"system": "Be brief.", "input": "Ada has 5 pens.", **TEXTS, "rationale": "It is so."}, WITH_SYSTEM),
    ({"question": "Ada has 5 pens.", "prompt": None, **TEXTS}, CHAT),
    ({"instruction": "Ada has 5 pens.", "input": "", **TEXTS}, CHAT),
    ({"instruction": "Ada has", "input": "5 pens.", "output": ["5 pens", "6 pens"]},
     CHAT | {"prompt": [USER | {"content": "Ada has\n5 pens."}]}),  # Alpaca
    ({"conversations": [TOLD], "chosen": gpt("5 pens"), "rejected": gpt("6 pens")}, CHAT),  # ShareGPT
    ({"conversations": [TOLD], "system": "Be brief.", "tools": "", **TEXTS}, WITH_SYSTEM),
    ({"chosen": [TOLD, gpt("5 pens")], "rejected": [TOLD, gpt("6 pens")]}, CHAT),
    (CHAT | {"tools": json.dumps(TOOLS)}, CHAT | {"tools": TOOLS}),
    (CHAT | {"chat_template_kwargs": {"brief": True}}, CHAT | {"chat_template_kwargs": {"brief": True}}),
])  # fmt: skip
def test_the_ids_are_those_that_trl_makes_of_the_same_row_in_its_own_form(row, same):
    tokenizer = speaker("{% if tools %}{{ tools[0].function.name }}{% endif %}{{ brief }}" + TEMPLATE)
    (pair,) = import_pairs([("here", row)], tokenizer).pairs
    assert [(pair.prompt_ids, pair.chosen_ids, pair.rejected_ids)] == trl_ids([same], tokenizer)


def test_every_form_reads_its_example():
    for example in FORMS.values():
        (pair,) = import_pairs([("here", example)], speaker(TEMPLATE)).pairs
        assert "2 + 2" in pair.prompt
        assert all(str(text) in pair.prompt for name, text in example.items() if name in ("system", "instruction"))
        assert [pair.chosen.strip(), pair.rejected.strip()] == ["4", "5"]


@pytest.mark.parametrize(("row", "message"), [
    ({"context": "Ada has 5 pens.", **TEXTS}, "no column 'prompt', and 'context' may be it; name it with --prompt-col"),
    ({"user_turn": [USER], **TEXTS}, "'user_turn' may be it"), ({"Question": "5?", **TEXTS}, "'Question' may be it"),
    (TEXTS | {"prompt": None}, "column 'prompt' is null"),
    (TEXTS | {"system": "Be brief."}, "a system message, and text that begins with its prompt has no place for it"),
    (WITH_SYSTEM | {"system": "Be long."}, "begins with another system message"),
    (TEXT | {"system": [1]}, "the system message must be text"),
    ({"question": "How many?", "context": "Ada has 5 pens.", **TEXTS}, "read from 'question', and 'context' is not in"),
    (TEXT | {"images": ["a.png"]}, "the row holds images, and only text can be read"),
    (CHAT | {"prompt": [USER | {"content": [{"type": "image"}]}]}, "prompt holds image, and only text can be read"),
    ({"chosen": {"text": "a"}, "rejected": {"text": "b"}}, "chosen must be text or a list of messages"),
    (TEXT | {"rejected": None}, "rejected must be text or a list of messages with role and content, but is null"),
    (CHAT | {"tools": ["\udfff"]}, "half a character"), (CHAT | {"tools": "{"}, "tools should be JSON, but is '{'"),
    (CHAT | {"chat_template_kwargs": [1]}, "chat_template_kwargs must be an object"),
    ({"instruction": "Add.", "output": "4"}, "no column 'chosen', it has 'instruction', 'output'"),
    (REPEATED | {"prompt": "Ben has 5 pens."}, "do not begin with the same messages, one of them the prompt 'Ben"),
    ({"prompt": "a", "chosen": "b"}, "no column 'rejected'"),
    (TEXT | {"rejected": 7}, "rejected must be text or a list of messages .*, but is 7"),
    (TEXT | {"rejected": ["c"]}, "rejected must be text or a list of messages"),
    ({"chosen": "a", "rejected": [USER, WRONG]}, "must be both text or both lists of messages"),
])  # fmt: skip
def test_a_row_that_would_be_read_wrongly_is_one_sentence(tmp_path, row, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(TEXT) + "\n" + json.dumps(row))
    bad: list[str] = []
    with pytest.raises(UserError, match=rf"{path} line 2: .*{message}") as refusal:
        read_preferences(str(path))
    assert "\n" not in str(refusal.value)
    assert len(read_preferences(str(path), bad=bad)) == 1
    assert bad == [str(refusal.value)]
    assert len(read_preferences(str(path), limit=1)) == 1  # what is behind the limit is not looked at


def test_a_question_is_a_prompt_of_text_where_it_is_named(tokenizer, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": TEXT["prompt"], "context": "Two words", **TEXTS}))
    rows = read_preferences(str(path), prompt_column="question")
    (pair,) = import_pairs(rows, tokenizer).pairs
    assert [(pair.prompt_ids, pair.chosen_ids, pair.rejected_ids)] == trl_ids([TEXT], tokenizer)
    with pytest.raises(UserError, match="no chat template to write it with; --prompt-column question takes its text"):
        import_pairs([("here", {"question": TEXT["prompt"], **TEXTS})], tokenizer)
    with pytest.raises(UserError, match=r"no column 'questions', it has .* did you mean 'question'"):
        read_preferences(str(path), prompt_column="questions")


def test_a_prompt_whose_only_token_merges_stays(tokenizer):
    assert tokenizer.tokenize("Ben") == ["Ben"]
    (pair,) = import_pairs([("here", {"prompt": "B", "chosen": "en", "rejected": "oy"})], tokenizer).pairs
    assert (pair.prompt, pair.chosen, pair.rejected) == ("B", "en", "oy")
    assert pair.prompt_ids == tuple(tokenizer("B")["input_ids"])


def test_responses_without_end(tokenizer):
    (pair,) = import_pairs([("here", TEXT)], tokenizer, without_end=True).pairs
    (ended,) = import_pairs([("here", TEXT)], tokenizer).pairs
    assert (*pair.chosen_ids, tokenizer.eos_token_id) == ended.chosen_ids
    assert (pair.chosen, pair.prompt) == (ended.chosen, ended.prompt)
    (pair,) = import_pairs([("here", CHAT)], speaker(TEMPLATE), without_end=True).pairs
    (ended,) = import_pairs([("here", CHAT)], speaker(TEMPLATE)).pairs
    assert pair.chosen_ids == ended.chosen_ids[: ended.chosen_ids.index(tokenizer.eos_token_id)]
