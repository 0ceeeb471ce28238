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


def label_mass_differences(engine: Engine, cases: Sequence[Case], paths: Sequence[Sequence[Path]]) -> list[list[Path]]:
    """The paths with, for yes/no cases, Δ = P(labels of the answer) - P(labels of the other) at the answer's token.

    Exact: the probability of every label token is scored after the tokens before the answer. Paths of other cases,
    and paths whose label is spelt by several tokens, keep the Δ they have.
    """
    groups = label_groups(engine.tokenizer)
    members = [(label, token) for label in LABELS for token in groups[label]]
    wanted = [
        (c, i)
        for c, (case, its) in enumerate(zip(cases, paths, strict=True))
        for i, path in enumerate(its)
        if case.kind == "yesno" and path.span and path.token_ids[path.span[0]] in {t for _, t in members}
    ]
    prefixes = [(*cases[c].prompt, *paths[c][i].token_ids[: paths[c][i].span[0]]) for c, i in wanted]  # type: ignore[index]
    sequences = [(*prefix, token) for prefix in prefixes for _, token in members]
    scored = engine.score(sequences, starts=[len(s) - 1 for s in sequences])
    logprobs = np.array([s.logprobs[-2] for s in scored]).reshape(len(prefixes), len(members))
    result = [list(its) for its in paths]
    for (c, i), row in zip(wanted, np.exp(logprobs), strict=True):
        mass = {
            label: float(sum(p for (of, _), p in zip(members, row, strict=True) if of == label)) for label in LABELS
        }
        answer = result[c][i].answer
        assert answer in LABELS
        other = LABELS[1 - LABELS.index(answer)]
        result[c][i] = replace(result[c][i], confidence=mass[answer] - mass[other])
    return result
