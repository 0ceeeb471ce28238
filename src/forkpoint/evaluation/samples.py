"""From an outcome to a graded row of samples.jsonl."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from forkpoint.decoding.outcome import Outcome, Path
from forkpoint.decoding.strategies import Strategy
from forkpoint.evaluation.statistics import pass_at_k
from forkpoint.tasks import grade_response
from forkpoint.text import decode_with_offsets
from forkpoint.types import Problem, TokenIds

Row = dict[str, Any]


def sample_row(tokenizer: Any, problem: Problem, prompt: TokenIds, strategy: Strategy, outcome: Outcome) -> Row:
    """Everything about one problem under one strategy, as plain JSON values.

    `score` is what enters the accuracy: 0 or 1 for the chosen response, the mean over the responses of `sample`, the
    unbiased estimate of `pass@k`. The same responses count for `extraction_failures`, `cut_off` (they hit the length
    limit) and `grading_errors`.
    """
    paths = [_path_row(tokenizer, path) for path in outcome.paths]
    each = strategy.graded_paths()
    counted = outcome.paths if each else (outcome.paths[outcome.chosen],)
    texts = [path.text for path in counted] if each else [outcome.response]
    verdicts = [grade_response(text, problem, cut_off=path.cut_off) for text, path in zip(texts, counted, strict=True)]
    if each:
        for row, verdict in zip(paths, verdicts, strict=True):
            row |= {"correct": verdict.correct, "extracted": verdict.extracted, "error": verdict.error}
    grade = verdicts[outcome.chosen if each else 0]
    return {
        "problem_id": problem.id,
        "strategy": strategy.spec,
        "question": problem.question,
        "gold": problem.answer,
        "prompt_ids": list(prompt),
        "response": outcome.response,
        "answer": grade.extracted,
        "correct": grade.correct,
        "score": _score(strategy, grade.correct, paths),
        "extraction_failures": sum(verdict.extracted is None for verdict in verdicts),
        "cut_off": sum(path.finish_reason == "length" for path in counted),
        "grading_errors": sum(verdict.error is not None for verdict in verdicts),
        "grade": asdict(grade),
        "chosen": outcome.chosen,
        "votes": {answer: round(weight, 6) for answer, weight in outcome.votes.items()},
        "tokens_generated": outcome.tokens_generated,
        "paths": paths,
    }


def _score(strategy: Strategy, correct: bool, paths: list[Row]) -> float:
    if not strategy.graded_paths():
        return float(correct)
    right = sum(path["correct"] for path in paths)
    return pass_at_k(len(paths), right, strategy.tries())


def _path_row(tokenizer: Any, path: Path) -> Row:
    text, offsets = decode_with_offsets(tokenizer, path.token_ids)
    return {
        "token_ids": list(path.token_ids),
        "tokens": [text[start:end] for start, end in offsets],
        "gaps": [round(gap, 6) for gap in path.gaps],
        "text": path.text,
        "continuation": path.continuation,
        "finish_reason": path.finish_reason,
        "answer": path.answer,
        "span": list(path.span) if path.span else None,
        "confidence": None if path.confidence is None else round(path.confidence, 6),
        "dropped": path.dropped,
    }
