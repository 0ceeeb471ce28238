"""The text columns of pairs on four kinds of tokenizer: they spell prompt and response, and TRL reads them back."""

from __future__ import annotations

from random import Random

import pytest
from test_trl_files import TEXT, trl_ids
from trained_tokenizers import KINDS, tokenizer_of

from forkpoint.pairs.pair_files import make_pair
from forkpoint.pairs.trl_files import import_pairs

SPOKEN = (  # with a line after the end, as in most templates
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}"
    "{% endif %}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
SAID = {"prompt": [{"role": "user", "content": "How many pens does Ada have now?"}],
        "chosen": [{"role": "assistant", "content": "Ada has 8."}],
        "rejected": [{"role": "assistant", "content": "Ada has 5 ."}]}  # fmt: skip

TURNS = [*SAID["chosen"], {"role": "user", "content": "How many pens?"}, *SAID["chosen"]]


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_and_response_are_what_their_ids_spell_together(kind):
    tokenizer, rng = tokenizer_of(kind), Random(0)
    for _ in range(100):
        prompt, chosen, rejected = (tuple(rng.choices(range(3, len(tokenizer)), k=rng.randint(1, 8))) for _ in range(3))
        pair = make_pair("one", prompt, (*chosen, tokenizer.eos_token_id), rejected, tokenizer)
        for ids, text in ((chosen, pair.chosen), (rejected, pair.rejected)):
            assert pair.prompt + text == tokenizer.decode(prompt + ids, clean_up_tokenization_spaces=False)
        alone = tokenizer.decode(prompt, clean_up_tokenization_spaces=False)
        assert pair.prompt == alone or "\ufffd" in pair.prompt + pair.chosen + pair.rejected


@pytest.mark.parametrize("kind", KINDS)
def test_trl_makes_the_ids_of_the_texts(kind):
    tokenizer = tokenizer_of(kind)
    rows = [row for row in TEXT if kind != "WordPiece" or "Q: " not in row["prompt"]]  # it keeps no newline
    pairs = import_pairs([("here", row) for row in rows], tokenizer).pairs
    tokenizer.chat_template = SPOKEN if kind != "byte fallback" else "{{ bos_token }}" + SPOKEN
    turns = [SAID | {"chosen": TURNS}] if kind != "byte fallback" else []  # it adds a space after a special token
    pairs += import_pairs([("here", row) for row in (SAID, *turns)], tokenizer).pairs
    columns = [{name: getattr(pair, name) for name in ("prompt", "chosen", "rejected")} for pair in pairs]
    told = [tuple(ids[: len(ids) - ids[::-1].index(2)] if i else ids for i, ids in enumerate(row)) for row in
            [(pair.prompt_ids, pair.chosen_ids, pair.rejected_ids) for pair in pairs]]  # fmt: skip
    assert trl_ids(columns, tokenizer) == told
