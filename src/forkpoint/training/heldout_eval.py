"""How a model does on problems that it was not tuned on: accuracy, pass@k, how varied its answers are, how likely."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from forkpoint.engines import Engine
from forkpoint.proportions import clustered_interval, normal_quantile, pass_at_k
from forkpoint.tasks import answer_key
from forkpoint.trajectories.rows import Row, sample_completions
from forkpoint.types import Completion, Problem, Sampling, Trajectory

K = (1, 4, 16, 64)  # of pass@k, as far as there are samples


def respond(engine: Engine, problems: Sequence[Problem], sampling: Sampling, *, n: int, prompt: str) -> list[Row]:
    """A row a problem: its greedy response (`greedy`), n sampled ones (`paths`), and how many of these differ."""
    bare = Sampling(temperature=0.0, max_tokens=sampling.max_tokens, stop=sampling.stop)
    greedy = sample_completions(engine, problems, bare, n=1, prompt=prompt)
    sampled = sample_completions(engine, problems, sampling, n=n, prompt=prompt)
    rows = []
    for i, (problem, (first, completion)) in enumerate(zip(problems, greedy, strict=True)):
        own = sampled[i * n : (i + 1) * n]
        rows.append({
            "problem_id": problem.id,
            "question": problem.question,
            "gold": problem.answer,
            "prompt_ids": list(first.prompt_ids),
            "greedy": _response(first, completion),
            "paths": [_response(*one) for one in own],
            "distinct_answers": len({answer_key(t.answer, problem.kind) for t, _ in own if t.answer is not None}),
            "distinct_responses": len({t.token_ids for t, _ in own}),
            "tokens_generated": len(first.token_ids) + sum(len(t.token_ids) for t, _ in own),
        })  # fmt: skip
    return rows


def _response(one: Trajectory, completion: Completion) -> Row:
    return {
        "token_ids": list(one.token_ids),
        "answer": one.answer,
        "correct": one.correct,
        "finish_reason": one.finish_reason,
        "mean_logprob": mean_logprob(completion.logprobs),
    }


def ks(n: int) -> list[int]:
    """The k of pass@k that n samples allow."""
    return [k for k in K if k <= n]


def mean_logprob(logprobs: Sequence[float]) -> float:
    """The mean log-probability a token, as files hold it."""
    return round(float(np.mean(logprobs)), 6)


def figures(rows: Sequence[Row]) -> dict[str, Any]:
    """What rows of `respond` say together, as means over problems, each with its `..._ci95`.

    `greedy_accuracy`, `sampled_accuracy`, `pass@k` for each k; `distinct_answers` and `distinct_responses`, of the
    sampled ones of a problem; `correct_logprob`, the mean log-probability a token of right samples, over the problems
    that have any (null without). Of all `samples`, `no_answer` have no answer, and `cut_off` hit the length limit.
    """
    n, paths = len(rows[0]["paths"]), [path for row in rows for path in row["paths"]]
    right = [[float(path["correct"]) for path in row["paths"]] for row in rows]

    def shares(name: str, scores: Sequence[Sequence[float]], scale: int = 1, **counted: float) -> dict[str, Any]:
        """The mean of numbers between 0 and 1, a problem's in a list, and its interval, both times `scale`."""
        mean = float(np.mean([np.mean(own) for own in scores]))
        return _entry(name, scale * mean, [scale * end for end in clustered_interval(scores, **counted)])

    summary = shares("greedy_accuracy", [[float(row["greedy"]["correct"])] for row in rows])
    summary |= shares("sampled_accuracy", right)
    for k in ks(n):  # a try takes k answers
        scores = [[pass_at_k(n, int(sum(own)), k)] for own in right]
        summary |= shares(f"pass@{k}", scores, answers=len(paths) / k)
    for name in ("distinct_answers", "distinct_responses"):
        summary |= shares(name, [[row[name] / n] for row in rows], n, answers=len(paths))
    logprobs = [[p["mean_logprob"] for p in row["paths"] if p["correct"]] for row in rows]
    return summary | _normal("correct_logprob", [float(np.mean(own)) for own in logprobs if own]) | {
        "samples": len(paths),
        "no_answer": sum(path["answer"] is None for path in paths),
        "cut_off": sum(path["finish_reason"] == "length" for path in paths),
    }  # fmt: skip


def _normal(name: str, values: list[float]) -> dict[str, Any]:
    """The mean of unbounded values, one a problem, with the normal interval: none for fewer than two."""
    if len(values) < 2:
        return _entry(name, values[0] if values else None, None)
    mean = float(np.mean(values))
    half = normal_quantile(0.95) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return _entry(name, mean, [mean - half, mean + half])


def _entry(name: str, value: float | None, interval: Sequence[float] | None) -> dict[str, Any]:
    return {
        name: None if value is None else round(value, 6),
        f"{name}_ci95": None if interval is None else [round(end, 6) for end in interval],
    }
