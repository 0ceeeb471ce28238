"""Strategies on tasks of lm-eval, each by lm-eval itself; its results and samples as files, resumable."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from forkpoint.engines import Engine
from forkpoint.evaluation.evaluate import Progress
from forkpoint.evaluation.lm_eval import COUNTS, StrategyLM
from forkpoint.evaluation.lm_eval_files import RESULTS, directory_of, samples_of
from forkpoint.evaluation.lm_eval_tasks import Tasks
from forkpoint.files import JOURNAL, Journal, claimed, read_json, to_json, write_whole
from forkpoint.types import AnswerKind, Results, check_texts

FIGURES = ("results", "groups", "group_subtasks", "versions", "n-shot", "higher_is_better", "n-samples")


def evaluate_tasks(
    engine: Engine,
    strategies: Sequence[str],
    tasks: Tasks,
    out: Path,
    *,
    answer_kind: AnswerKind = "number",
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Each strategy on the tasks by lm-eval's `simple_evaluate`, side by side.

    In `out`, each strategy has a directory with lm-eval's results.json and samples_TASK.jsonl; the results.json above
    them holds the figures of all. Answers are journalled as they come, for each strategy apart; the same call goes on
    where the last one stopped.
    """
    check_texts("strategies", strategies)
    identity = {
        "verb": "lm-eval",
        "model": engine.name,
        "engine": dict(engine.settings),
        "strategies": list(strategies),
        "answer_kind": answer_kind,
        "seed": seed,
        **{k: v for k, v in asdict(tasks.choice).items() if k != "names"},
        "tasks": tasks.identity,
    }
    with claimed(out, identity):
        entries = []
        for spec in strategies:
            directory = out / directory_of(spec)
            directory.mkdir(exist_ok=True)
            if not (directory / RESULTS).exists():
                journal = Journal(directory / JOURNAL)
                lm = StrategyLM(spec, engine, answer_kind=answer_kind, seed=seed, journal=journal, progress=progress)
                _write(directory, _evaluated(lm, tasks))
            (directory / JOURNAL).unlink(missing_ok=True)
            told = read_json(directory / RESULTS)
            figures = {key: told[key] for key in FIGURES if key in told}
            counts = {name: told["config"].get(name) for name in COUNTS}  # None: another version's
            entries.append({"strategy": spec, "directory": directory.name, **counts, **figures})
        results = Results(verb="lm-eval", model=engine.name, tasks=list(tasks.identity), strategies=entries)
        write_whole(out / RESULTS, to_json(results, indent=2) + "\n")
    return results


def _evaluated(lm: StrategyLM, tasks: Tasks) -> dict[str, Any]:
    from lm_eval import simple_evaluate

    choice = tasks.choice
    return dict(simple_evaluate(
        lm, tasks=tasks.specs, task_manager=tasks.manager, num_fewshot=choice.num_fewshot, limit=choice.limit,
        apply_chat_template=choice.apply_chat_template,
    ))  # fmt: skip


def _write(directory: Path, results: dict[str, Any]) -> None:
    """lm-eval's results and samples, in its own formats, the results last."""
    from lm_eval.utils import handle_non_serializable

    for task, samples in results.pop("samples").items():
        write_whole(directory / samples_of(task), _rows(samples))
    text = json.dumps(results, indent=2, default=handle_non_serializable, ensure_ascii=False)
    write_whole(directory / RESULTS, text + "\n")


def _rows(samples: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line a sample, as lm-eval's own tracker writes it."""
    from lm_eval.utils import handle_non_serializable, sanitize_list

    for sample in samples:
        arguments = {
            f"gen_args_{i}": {f"arg_{j}": value for j, value in enumerate(given)}
            for i, given in enumerate(sample["arguments"])
        }
        texts = {key: sanitize_list(sample[key]) for key in ("resps", "filtered_resps")}
        row = sample | {"arguments": arguments, "target": str(sample["target"])} | texts
        yield json.dumps(row, default=handle_non_serializable, ensure_ascii=False) + "\n"
