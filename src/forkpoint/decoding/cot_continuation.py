"""The `continuation` spans of CoT-decoding: append "So the answer is", decode on, and find that answer in the path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from forkpoint.decoding.answer_span import mean_gap, readable, tokens_of
from forkpoint.decoding.outcome import Case, Path
from forkpoint.engines import Engine
from forkpoint.tasks import extract, find_answer
from forkpoint.types import Completion, Request, Sampling, Span, TokenIds

APPENDED = " So the answer is"
MOST_TOKENS = 32

Located = tuple[Path, TokenIds | None]
"""A path, and the tokens, prompt included, before its answer's first one (None without an answer)."""


def continue_with_answer(
    engine: Engine, cases: Sequence[Case], paths: Sequence[Sequence[Path]], stop: tuple[str, ...]
) -> tuple[list[list[Located]], list[int]]:
    """Each usable path with the answer that follows the appended words, and the tokens generated for each case."""
    appended = tuple(engine.tokenizer(APPENDED, add_special_tokens=False)["input_ids"])
    prefixes = {
        f"{case.id}#{i}": (*case.prompt, *_body(engine, path, stop), *appended)
        for case, its in zip(cases, paths, strict=True)
        for i, path in enumerate(its)
        if path.dropped is None
    }
    room = engine.context or float("inf")
    requests = [Request(key, prefix) for key, prefix in prefixes.items() if len(prefix) + MOST_TOKENS <= room]
    sampling = Sampling(temperature=0.0, max_tokens=MOST_TOKENS, stop=(*stop, "\n"))
    done = {c.key: c for c in engine.generate(requests, sampling)}
    located: list[list[Located]] = []
    spent = []
    for case, its in zip(cases, paths, strict=True):
        keys = [f"{case.id}#{i}" for i in range(len(its))]
        located.append([
            _locate(engine, case, path, done.get(key), prefixes.get(key, ()), sampling.stop)
            for key, path in zip(keys, its, strict=True)
        ])  # fmt: skip
        spent.append(sum(len(done[key].token_ids) for key in keys if key in done))
    return located, spent


def _body(engine: Engine, path: Path, stop: tuple[str, ...]) -> TokenIds:
    """A path's tokens up to where its text ends: neither an end-of-sequence token nor any of a stop string's."""
    text, offsets = readable(engine.tokenizer, path.token_ids, stop)
    inside = (
        end <= len(text) and token not in engine.ends for token, (_, end) in zip(path.token_ids, offsets, strict=True)
    )
    return tuple(token for token, keep in zip(path.token_ids, inside, strict=True) if keep)


def _locate(
    engine: Engine, case: Case, path: Path, tail: Completion | None, prefix: TokenIds, stop: tuple[str, ...]
) -> Located:
    """The path with the answer that its continuation gives, Δ taken where the path itself spells that answer.

    Where it does not, a numeric path is dropped; others take Δ over the continuation's own answer tokens.
    """
    path = replace(path, answer=None, span=None, confidence=None)
    if tail is None:
        return replace(path, dropped=path.dropped or "no room"), None
    said, said_offsets = readable(engine.tokenizer, tail.token_ids, stop)
    path = replace(path, continuation=APPENDED + said, continuation_ended=tail.finish_reason == "stop")
    found = extract(APPENDED + said, case.kind, case.options, cut_off=path.cut_off)
    if found is None or found.end <= len(APPENDED):
        return replace(path, dropped="no answer"), None
    path = replace(path, answer=found.value)
    if again := find_answer(path.text, found.value, case.kind, case.options):
        span = _token_span(engine, path, again)
        return replace(path, span=span, confidence=mean_gap(path.gaps, span)), (
            *case.prompt,
            *path.token_ids[: span[0]],
        )
    if case.kind == "number":
        return replace(path, dropped="not aligned"), None
    span = tokens_of(said_offsets, max(0, found.start - len(APPENDED)), found.end - len(APPENDED))
    return replace(path, confidence=mean_gap(tail.gaps, span)), (*prefix, *tail.token_ids[: span[0]])


def _token_span(engine: Engine, path: Path, found: Span) -> tuple[int, int]:
    _, offsets = readable(engine.tokenizer, path.token_ids, ())
    return tokens_of(offsets, found.start, found.end)
