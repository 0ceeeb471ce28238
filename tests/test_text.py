"""Token ids to text, piece by piece, on every kind of tokenizer; and which ids end a response."""

from __future__ import annotations

import itertools
import random
from types import SimpleNamespace

import pytest
from tiny_models import build_model, tiny_config
from tiny_tokenizers import TOKENIZERS, byte_level, gemma, llama_2, word_piece

import forkpoint
from forkpoint.engines import load_engine
from forkpoint.engines.remote.served import Named, served_completion
from forkpoint.text import StopCheck, decode, decode_with_offsets, end_ids, pieces
from forkpoint.types import Request, Sampling, UserError


def ids_of(tokenizer, *names):
    return [tokenizer.convert_tokens_to_ids(name) for name in names]


@pytest.mark.parametrize("make", TOKENIZERS)
def test_the_pieces_of_any_ids_are_the_plain_text(make):
    tokenizer = make()
    for seed in range(300):
        draw = random.Random(seed)
        few = draw.choices(range(len(tokenizer)), k=draw.choice([3, 6, 300]))
        ids = draw.choices(few, k=draw.randrange(24))
        text, offsets = decode_with_offsets(tokenizer, ids)
        assert text == decode(tokenizer, ids) == "".join(pieces(tokenizer, ids))
        ends = [0, *(end for _, end in offsets)]
        assert offsets == list(itertools.pairwise(ends))
        for n in range(len(ids) + 1):  # wherever what is written so far stays as it is
            before = decode(tokenizer, ids[:n])
            if before and text.startswith(before) and not before.endswith("�"):
                assert ends[n] == len(before)


@pytest.mark.parametrize(("make", "names", "expected"), [
    (llama_2, ("<0x0A>", "<0xF0>", "a"), ["�", "�", "a"]),  # bytes of a wrong run are one character each
    (llama_2, ("▁the", "<0x0A>", "<0xF0>", "<0x9F>", "</s>", "<0x98>", "<0x80>", "▁the"),
     ["the", "\n", "", "", "", "", "😀", " the"]),
    (llama_2, ("<s>", "<0x20>", "<0xC3>", "<0xA9>", "▁"), ["", "", "", "é", " "]),
    (gemma, ("▁", "<0xC3>", "<0xA9>", "<0x41>", "▁the"), [" ", "", "é", "A", " the"]),
    (byte_level, ("ĠðŁ", "ĺĢ", "he", "bÃ", "he", "bÃ", "©c", "<0x0A>"),
     [" ", "😀", "he", "b�", "he", "b", "éc", "<0x0A>"]),
    (word_piece, ("##b", "do", "n't", ".", "##ing", "</s>", "I"), ["##b", " do", "n't", ".", "ing", "", " I"]),
])  # fmt: skip
def test_a_token_contributes_the_characters_it_completes(make, names, expected):
    tokenizer = make()
    assert pieces(tokenizer, ids_of(tokenizer, *names)) == expected


@pytest.mark.parametrize("make", [llama_2, gemma, byte_level, word_piece])
def test_a_response_ends_where_its_text_holds_a_stop_string(make):
    tokenizer = make()
    stops = StopCheck(tokenizer, (" ", "\nQ", "é", "."), (), len(tokenizer))
    for seed in range(300):
        ids = random.Random(seed).choices(range(len(tokenizer)), k=12)
        texts = [decode(tokenizer, ids[:n]) for n in range(1, 13)]
        first = next((n for n, text in enumerate(texts, 1) if any(s in text for s in stops.stop)), None)
        assert stops.first_end(ids, 0) == first
        rows = [Named((0, 1), (0.0, 0.0), token, 0.0) for token in ids]
        done = served_completion(Request("r", (0,)), rows, ended=False, stops=stops)
        assert (len(done.token_ids), done.finish_reason) == ((first, "stop") if first else (12, "length"))


@pytest.mark.parametrize("tail", [(), ("Q",)])
def test_a_stop_string_is_sought_without_decoding_at_every_token(monkeypatch, tail):
    tokenizer = byte_level()
    ids = ids_of(tokenizer, *["Ċ", "he"] * 500, *["Ċ"] * len(tail), *tail)
    stops, decoded = StopCheck(tokenizer, ("\nQ", "\n\n\n"), (), len(tokenizer)), []
    monkeypatch.setattr(stops, "stopped", lambda seen: decoded.append(len(seen)) or StopCheck.stopped(stops, seen))
    assert stops.first_end(ids, 0) == (len(ids) if tail else None)
    assert len(decoded) < 20


@pytest.mark.parametrize("make", TOKENIZERS)
def test_decoding_runs_whatever_the_tokens_spell(make):
    tokenizer = make()
    model = build_model(tiny_config(tokenizer, bos_token_id=tokenizer.bos_token_id))
    engine = load_engine(model, tokenizer)
    requests = [Request(str(i), (0, 1)) for i in range(20)]
    for done in engine.generate(requests, Sampling(temperature=3.0, max_tokens=30, stop=("\nQ:", "a "))):
        assert done.text == decode(tokenizer, done.token_ids).split("\nQ:")[0].split("a ")[0]
    (found,) = forkpoint.cot_decode(engine, ["a"], k=4, kind="yesno") if make in (llama_2, gemma) else (None,)
    assert found is None or len(found.paths) == 4


@pytest.mark.parametrize(("generation", "model", "own", "ends"), [
    (None, 3, 4, (3, 4)),
    ([5, 6], 3, None, (5, 6)),
    (-1, None, 4, (4,)),
    ([-1, None, 7, 99], 3, 99, (7,)),
    (99, 3, None, (3,)),
    ([], None, None, ()),
])  # fmt: skip
def test_ids_that_end_a_response(generation, model, own, ends):
    assert end_ids(*sources(generation, model, own)) == ends


@pytest.mark.parametrize("nonsense", ["</s>", [2, "</s>"], 2.5, [[2]], True, {"id": 2}])
def test_an_end_that_is_no_id_is_one_sentence(nonsense):
    with pytest.raises(UserError, match=r"^eos_token_id of a model must be a token id or a list of them, but holds "):
        end_ids(*sources(nonsense, None, None))


def sources(generation, model, own):
    config = SimpleNamespace(eos_token_id=model, vocab_size=50, get_text_config=lambda decoder: config)
    made = SimpleNamespace(config=config, generation_config=SimpleNamespace(eos_token_id=generation))
    return made, SimpleNamespace(eos_token_id=own)
