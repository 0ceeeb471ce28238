"""Δ of yes/no answers: the difference of the probability mass on the two groups of label tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from string import punctuation, whitespace
from typing import Any

import numpy as np

from forkpoint.decoding.outcome import Case, Path
from forkpoint.engines import Engine
from forkpoint.types import TokenIds, UserError

LABELS = ("yes", "no")
NAMED = 512  # likeliest tokens that are read of a row; a label behind them has no mass to speak of


@lru_cache(maxsize=8)
def label_groups(tokenizer: Any) -> dict[str, TokenIds]:
    """The token ids that alone spell each label, in any case and with or without spaces and punctuation around."""
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], clean_up_tokenization_spaces=False)
    words = [text.strip(whitespace + punctuation).lower() for text in texts]
    return {label: tuple(i for i, word in enumerate(words) if word == label) for label in LABELS}


def label_mass_differences(
    engine: Engine, cases: Sequence[Case], located: Sequence[Sequence[tuple[Path, TokenIds | None]]]
) -> list[list[Path]]:
    """The paths with, for yes/no cases, Δ = P(labels of the answer) - P(labels of the other) where the answer begins.

    `located` has each path with the tokens, prompt included, before its answer, which are scored once. Paths of other
    cases and paths without an answer keep the Δ they have. Raises UserError where no token spells a label.
    """
    result = [[path for path, _ in its] for its in located]
    wanted = [
        (c, i, before)
        for c, (case, its) in enumerate(zip(cases, located, strict=True))
        for i, (path, before) in enumerate(its)
        if case.kind == "yesno" and path.answer and before
    ]
    if not wanted:
        return result
    groups = label_groups(engine.tokenizer)
    for label in LABELS:
        if not groups[label]:
            raise UserError(f"CoT-decoding of yes/no answers compares the probabilities of the tokens yes and no, but "
                            f"no token of {engine.name} spells {label}")  # fmt: skip
    prefixes = [before for _, _, before in wanted]
    scored = engine.score(prefixes, top=min(NAMED, engine.most_top), starts=[len(before) for before in prefixes])
    for (c, i, _), one in zip(wanted, scored, strict=True):
        named = dict(zip(one.top_ids[-1].tolist(), np.exp(one.top_logprobs[-1]).tolist(), strict=True))
        mass = {label: sum(named.get(token, 0.0) for token in groups[label]) for label in LABELS}
        answer = str(result[c][i].answer)
        other = LABELS[1 - LABELS.index(answer)]
        result[c][i] = replace(result[c][i], confidence=mass[answer] - mass[other])
    return result
