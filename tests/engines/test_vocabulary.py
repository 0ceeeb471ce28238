"""A model's tokens without the model: the same as the engine says."""

from __future__ import annotations

import pytest
from tiny_models import build_model, tiny_config

from forkpoint.engines import load_engine
from forkpoint.engines.vocabulary import load_vocabulary
from forkpoint.types import UserError


def facts(model) -> tuple:
    return model.name, model.ends, model.vocab_size, model.tokenizer.get_vocab()


def test_it_says_what_the_engine_says(lab, tokenizer, tmp_path):
    assert facts(load_vocabulary("lab")) == facts(lab)
    model = build_model(tiny_config(tokenizer, vocab_size=len(tokenizer) + 6))
    model.generation_config.eos_token_id = [3, 4]
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert facts(load_vocabulary(str(tmp_path))) == facts(load_engine(str(tmp_path)))
    assert load_vocabulary(str(tmp_path)).ends == (0, 3, 4)
    (tmp_path / "generation_config.json").unlink()
    assert facts(load_vocabulary(str(tmp_path))) == facts(load_engine(str(tmp_path)))
    assert load_vocabulary(str(tmp_path)).ends == (0,)


def test_what_is_not_there_is_one_sentence(tokenizer, tmp_path):
    with pytest.raises(UserError, match=r"^/nowhere is not a model directory$"):
        load_vocabulary("/nowhere")
    with pytest.raises(UserError, match="no tokenizer could be loaded from"):
        load_vocabulary(str(tmp_path))
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no configuration could be loaded from"):
        load_vocabulary(str(tmp_path))
