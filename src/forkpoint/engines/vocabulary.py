"""A model's tokens without the model: for work on token ids that runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from transformers import GenerationConfig

from forkpoint.engines.loading import first_line, load_config, load_tokenizer, source_of
from forkpoint.text import end_ids
from forkpoint.types import UserError


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What an `Engine` says of its tokens, under the same names."""

    name: str
    tokenizer: Any
    ends: tuple[int, ...]  # the token ids that end a response
    vocab_size: int  # ids go from 0 to vocab_size - 1
    context: int | None  # most tokens that the model reads, where it says so
    commit: str | None = None

    @property
    def settings(self) -> Mapping[str, str | int | None]:
        """What else but the name decides which ids a text has."""
        return {"commit": self.commit, "tokens": len(self.tokenizer)}


def load_vocabulary(model: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Vocabulary:
    """The tokens of `lab`, a model directory or a Hub id; no weights are read. Raises UserError where they fail."""
    tokenizer = load_tokenizer(model, revision=revision, trust_remote_code=trust_remote_code)
    config = load_config(model, revision=revision, trust_remote_code=trust_remote_code)
    try:
        generation = GenerationConfig.from_pretrained(source_of(model), revision=revision)
    except OSError:  # it has none
        generation = None
    except Exception as error:  # as many kinds as for a model
        raise UserError(f"no generation configuration could be read from {model}: {first_line(error)}") from error
    ends = end_ids(SimpleNamespace(config=config, generation_config=generation), tokenizer)
    text = config.get_text_config(decoder=True)
    context = getattr(text, "max_position_embeddings", None)
    return Vocabulary(model, tokenizer, ends, text.vocab_size, context, getattr(config, "_commit_hash", None))
