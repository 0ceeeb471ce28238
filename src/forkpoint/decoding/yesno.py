"""Δ of yes/no answers: the difference of the probability mass on the two groups of label tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from forkpoint.decoding.outcome import Case, Path
from forkpoint.engines import Engine
from forkpoint.types import TokenIds

LABELS = ("yes", "no")


@lru_cache(maxsize=8)
def label_groups(tokenizer: Any) -> dict[str, TokenIds]:
    """The token ids that alone spell each label, in any case and with or without a space before."""
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], clean_up_tokenization_spaces=False)
    return {label: tuple(i for i, t in enumerate(texts) if t.strip().lower() == label) for label in LABELS}


def label_mass_differences(
    engine: Engine, cases: Sequence[Case], located: Sequence[Sequence[tuple[Path, TokenIds | None]]]
) -> list[list[Path]]:
    """The paths with, for yes/no cases, Δ = P(labels of the answer) - P(labels of the other) where the answer begins.

    `located` has each path with the tokens, prompt included, before its answer. Exact: the probability of every label
    token is scored after those tokens. Paths of other cases and paths without an answer keep the Δ they have.
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
    members = [(label, token) for label in LABELS for token in groups[label]]
    sequences = [(*before, token) for _, _, before in wanted for _, token in members]
    scored = engine.score(sequences, starts=[len(s) - 1 for s in sequences])
    probabilities = np.exp([s.logprobs[-2] for s in scored]).reshape(len(wanted), len(members))
    for (c, i, _), row in zip(wanted, probabilities, strict=True):
        mass = {label: sum(p for (of, _), p in zip(members, row, strict=True) if of == label) for label in LABELS}
        answer = str(result[c][i].answer)
        other = LABELS[1 - LABELS.index(answer)]
        result[c][i] = replace(result[c][i], confidence=float(mass[answer] - mass[other]))
    return result
