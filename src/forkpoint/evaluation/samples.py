"""From an outcome to a graded row of samples.jsonl."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from forkpoint.decoding.outcome import Outcome, Path
from forkpoint.decoding.strategies import Strategy
from forkpoint.engines.stopping import decode_with_offsets
from forkpoint.evaluation.statistics import pass_at_k
from forkpoint.tasks import grade_response
from forkpoint.types import Problem, TokenIds

Row = dict[str, Any]


def sample_row(tokenizer: Any, problem: Problem, prompt: TokenIds, strategy: Strategy, outcome: Outcome) -> Row:
    """Everything about one problem under one strategy, as plain JSON values.

    `score` is what enters the accuracy: 0 or 1 for the chosen response, the mean over the responses of `sample`, the
    unbiased estimate of `pass@k`.
    """
    grade = grade_response(outcome.response, problem)
    paths = [_path_row(tokenizer, path) for path in outcome.paths]
    if strategy.graded_paths():
        for row, path in zip(paths, outcome.paths, strict=True):
            verdict = grade_response(path.text, problem)
            row |= {"correct": verdict.correct, "extracted": verdict.extracted, "error": verdict.error}
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
        "extraction_failures": _failures(strategy, grade.extracted, paths),
        "grading_errors": _errors(strategy, grade.error, paths),
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


def _failures(strategy: Strategy, extracted: str | None, paths: list[Row]) -> int:
    """Responses, of those that count, in which no answer was found."""
    if strategy.graded_paths():
        return sum(path["extracted"] is None for path in paths)
    return int(extracted is None)


def _errors(strategy: Strategy, error: str | None, paths: list[Row]) -> int:
    """Responses, of those that count, whose grading failed."""
    if strategy.graded_paths():
        return sum(path["error"] is not None for path in paths)
    return int(error is not None)


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
