"""A model's tokens without the model: the same as the engine says."""

from __future__ import annotations

import pytest
from tiny_models import build_model, tiny_config

from forkpoint.engines import load_engine
from forkpoint.engines.loading import load_vocabulary
from forkpoint.types import UserError


def test_a_vocabulary_is_that_of_the_engine(lab, tokenizer, tmp_path):
    def facts(model) -> tuple:
        return model.name, model.ends, model.vocab_size, model.context, model.tokenizer.get_vocab()

    assert facts(load_vocabulary("lab")) == facts(lab)
    model = build_model(tiny_config(tokenizer, vocab_size=len(tokenizer) + 6))
    model.generation_config.eos_token_id = [3, 4]
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for ends in ((0, 3, 4), (0,)):
        assert facts(load_vocabulary(str(tmp_path))) == facts(load_engine(str(tmp_path)))
        assert load_vocabulary(str(tmp_path)).ends == ends
        (tmp_path / "generation_config.json").unlink(missing_ok=True)


def test_what_is_not_there_is_one_sentence(tokenizer, tmp_path):
    with pytest.raises(UserError, match=r"^/nowhere is not a model directory$"):
        load_vocabulary("/nowhere")
    with pytest.raises(UserError, match="no tokenizer could be loaded from"):
        load_vocabulary(str(tmp_path))
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no configuration could be loaded from"):
        load_vocabulary(str(tmp_path))
