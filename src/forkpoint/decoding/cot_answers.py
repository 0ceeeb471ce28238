"""Answers of CoT-decoding that ask the engine again: appended "So the answer is", and the labels yes and no."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate
from string import punctuation, whitespace
from typing import Any

import numpy as np

from forkpoint.decoding.outcome import Case, Path, mean_gap, token_span, with_answer
from forkpoint.engines import Engine
from forkpoint.tasks import extract, find_answer
from forkpoint.text import pieces
from forkpoint.types import Completion, Request, Sampling, TokenIds, UserError

APPENDED = " So the answer is"
MOST_TOKENS = 32
LABELS = ("yes", "no")
NAMED = 512  # likeliest tokens that are read of a row; a label behind them has no mass to speak of


def continue_with_answer(
    engine: Engine, cases: Sequence[Case], paths: Sequence[Sequence[Path]], stop: tuple[str, ...]
) -> list[list[Path]]:
    """The paths, each usable one with the answer that follows the appended words."""
    appended = tuple(engine.tokenizer(APPENDED, add_special_tokens=False)["input_ids"])
    prefixes = {
        f"{case.id}#{i}": (*case.prompt, *_body(engine, path), *appended)
        for case, row in zip(cases, paths, strict=True)
        for i, path in enumerate(row)
        if path.dropped is None
    }
    room = engine.context or float("inf")
    requests = [Request(key, prefix) for key, prefix in prefixes.items() if len(prefix) + MOST_TOKENS <= room]
    sampling = Sampling(temperature=0.0, max_tokens=MOST_TOKENS, stop=(*stop, "\n"))
    done = {c.key: c for c in engine.generate(requests, sampling)}
    return [
        [
            locate(engine, case, path, done.get(f"{case.id}#{i}"), prefixes.get(f"{case.id}#{i}", ()))
            for i, path in enumerate(row)
        ]
        for case, row in zip(cases, paths, strict=True)
    ]


def _body(engine: Engine, path: Path) -> TokenIds:
    """A path's tokens up to where its text ends: neither an end-of-sequence token nor any of a stop string's."""
    ends = accumulate(map(len, path.tokens))
    pairs = zip(path.token_ids, ends, strict=True)
    return tuple(token for token, end in pairs if end <= len(path.text) and token not in engine.ends)


def locate(engine: Engine, case: Case, path: Path, tail: Completion | None, prefix: TokenIds) -> Path:
    """The path with the answer that its continuation gives, Δ taken where the path itself spells that answer.

    Where it does not, a numeric path is dropped; others take Δ over the continuation's own answer tokens.
    """
    path = replace(path, answer=None, span=None, before=None, confidence=None)
    if tail is None:
        return replace(path, dropped=path.dropped or "no room")
    ended, generated = tail.finish_reason == "stop", path.generated + len(tail.token_ids)
    path = replace(path, continuation=APPENDED + tail.text, continuation_ended=ended, generated=generated)
    stated = extract(path.response, case.kind, case.options, cut_off=path.cut_off)
    path = replace(path, stated=stated)
    if stated is None or stated.end <= len(APPENDED):
        return replace(path, dropped="no answer")
    if again := find_answer(path.text, stated.value, case.kind, case.options):
        return replace(with_answer(path, case, again), answer=stated.value)
    if case.kind == "number":
        return replace(path, answer=stated.value, dropped="not aligned")
    start, end = max(0, stated.start - len(APPENDED)), stated.end - len(APPENDED)
    span = token_span(pieces(engine.tokenizer, tail.token_ids), start, end)
    before = (*prefix, *tail.token_ids[: span[0]])
    return replace(path, answer=stated.value, before=before, confidence=mean_gap(tail.gaps, span))


@lru_cache(maxsize=8)
def label_groups(tokenizer: Any) -> dict[str, TokenIds]:
    """The token ids that alone spell each label, in any case and with or without spaces and punctuation around."""
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], clean_up_tokenization_spaces=False)
    words = [text.strip(whitespace + punctuation).lower() for text in texts]
    return {label: tuple(i for i, word in enumerate(words) if word == label) for label in LABELS}


def label_mass_differences(engine: Engine, cases: Sequence[Case], paths: list[list[Path]]) -> list[list[Path]]:
    """The paths with, for yes/no cases, Δ = P(labels of the answer) - P(labels of the other) where the answer begins.

    The tokens before the answers are scored once. Paths of other cases and paths without an answer keep the Δ they
    have. Raises UserError where no token spells a label.
    """
    rows = [row for case, row in zip(cases, paths, strict=True) if case.kind == "yesno"]
    wanted = [(row, i, path.before) for row in rows for i, path in enumerate(row) if path.before]
    if not wanted:
        return paths
    groups = label_groups(engine.tokenizer)
    for label in LABELS:
        if not groups[label]:
            raise UserError(f"CoT-decoding of yes/no answers compares the probabilities of the tokens yes and no, but "
                            f"no token of {engine.name} spells {label}")  # fmt: skip
    prefixes = [before for _, _, before in wanted]
    scores = engine.score(prefixes, top=min(NAMED, engine.most_top), starts=[len(before) for before in prefixes])
    for (row, i, _), scored in zip(wanted, scores, strict=True):
        named = dict(zip(scored.top_ids[-1].tolist(), np.exp(scored.top_logprobs[-1]).tolist(), strict=True))
        yes, no = (sum(named.get(token, 0.0) for token in groups[label]) for label in LABELS)
        row[i] = replace(row[i], confidence=yes - no if row[i].answer == "yes" else no - yes)
    return paths
