"""Tasks of lm-eval by name or file, also over local data in place of the Hub's, and resumable runs of them.

Needs lm-eval only when tasks are loaded.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from forkpoint.engines import Engine
from forkpoint.files import JOURNAL, Journal, claimed, fingerprint, read_json, to_json, write_whole
from forkpoint.tasks.data_sets import read_rows
from forkpoint.types import AnswerKind, Progress, Results, UserError, check_texts

RESULTS = "results.json"  # of all strategies, and in each one's directory lm-eval's own
TEST, SHOTS = "test", "train"
FIGURES = ("results", "groups", "group_subtasks", "versions", "n-shot", "higher_is_better", "n-samples")


@dataclass(frozen=True)
class TaskChoice:
    """Which tasks, groups, tags or task files (also of `include_path`), and over what.

    `data` is a JSON Lines file in the columns of the task's own data set, to read in its place; `fewshot_data` one for
    its examples (default: `data`, from which lm-eval leaves out the question at hand).
    """

    names: tuple[str, ...]
    include_path: str | None = None
    data: str | None = None
    fewshot_data: str | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    apply_chat_template: bool = False


class Tasks:
    """The chosen tasks, checked: lm-eval's manager, what it is to load, and what identifies them.

    Raises UserError for names that are none, data that cannot be loaded or lack a column, and tasks that are not for
    text models or run code that a model wrote.
    """

    def __init__(self, choice: TaskChoice) -> None:
        from lm_eval.tasks import TaskManager

        _check(choice)
        self.choice = choice
        self.manager = TaskManager(include_path=choice.include_path) if choice.include_path else _stock_tasks()
        self.specs = [self._spec(name) for name in choice.names]
        loaded = self._loaded()
        for name, task in loaded.items():
            if getattr(task, "MULTIMODAL", False):
                raise UserError(f"the task {name} asks about images or sounds, which no engine reads")
            if getattr(task, "UNSAFE_CODE", False):
                raise UserError(f"the task {name} runs code of a model; use lm-eval's own command, which asks first")
        self.identity = {name: _identity(task, choice.limit) for name, task in loaded.items()}

    def _spec(self, name: str) -> str | dict[str, Any]:
        """What lm-eval loads: the name, or the task's configuration with its data replaced."""
        entry = self.manager.task_index.get(name)
        path = entry.yaml_path if entry else Path(name).expanduser()
        if entry is None and not path.is_file():
            near = difflib.get_close_matches(name, self.manager.all_tasks, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]!r}?" if near else "lm-eval ls tasks lists them"
            raise UserError(f"lm-eval has no task {name!r}, and there is no such file: {hint}")
        if self.choice.data is None:
            return name
        return over_local_data(name, path, self.choice.data, self.choice.fewshot_data)

    def _loaded(self) -> dict[str, Any]:
        try:
            return dict(self.manager.load(self.specs)["tasks"])
        except Exception as error:  # of the Hub, of the data's reader, or of a task's own template
            reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
            names = ", ".join(self.choice.names)
            said = f"cannot load {names} ({reason}); pass a local copy of the data with --data FILE"
            if data := self.choice.data:
                said = f"{names} cannot be made of {data}, which needs the columns of its own data set ({reason})"
            raise UserError(said) from None


@cache
def _stock_tasks() -> Any:
    """lm-eval's own tasks; it reads thousands of files for them."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def over_local_data(name: str, path: Path | None, data: str, fewshot_data: str | None) -> dict[str, Any]:
    """The configuration of one task's file, reading local JSON Lines in place of its data set.

    Of one split for questions and examples lm-eval leaves out the question at hand.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    config: dict[str, Any] = load_yaml(path) if path else {}
    if "task" not in config or isinstance(config["task"], list) or "group" in config or "class" in config:
        raise UserError(f"--data goes with tasks of one file each, but {name} is a group, a tag or a Python task")
    shots = dict(config.get("fewshot_config") or {})
    split = None if shots.get("samples") is not None else SHOTS if fewshot_data else TEST
    if "split" in shots:
        shots["split"] = split
    files = {TEST: data} | ({SHOTS: fewshot_data} if fewshot_data else {})
    local = {
        "dataset_path": "json", "dataset_name": None, "custom_dataset": None, "training_split": None,
        "validation_split": None, "test_split": TEST, "fewshot_split": split,
        "dataset_kwargs": {"data_files": {key: str(Path(file).resolve()) for key, file in files.items()}},
    }  # fmt: skip
    return config | local | ({"fewshot_config": shots} if shots else {})


def _check(choice: TaskChoice) -> None:
    check_texts("names of tasks", choice.names)
    if not choice.names:
        raise UserError("name at least one task, for example --tasks gsm8k_cot_zeroshot")
    if choice.include_path is not None and not Path(choice.include_path).is_dir():
        raise UserError(f"--include_path must be a directory with task files, but {choice.include_path} is none")
    if choice.fewshot_data and not choice.data:
        raise UserError("--fewshot_data goes with --data")
    for name, value, least in (("limit", choice.limit, 1), ("num_fewshot", choice.num_fewshot, 0)):
        if value is not None and value < least:
            raise UserError(f"--{name} must be at least {least}, but is {value}")
    for file in filter(None, (choice.data, choice.fewshot_data)):
        if not any(True for _ in read_rows(file)):
            raise UserError(f"{file} holds no rows")


def _identity(task: Any, limit: int | None) -> dict[str, str]:
    """A task's questions and its configuration, each as a hash; where an object lies in memory is none of it."""
    docs = [json.dumps(doc, default=str) for _, doc in task.doc_iterator(limit=limit)]
    config = {key: value for key, value in task.dump_config().items() if key != "metadata"}
    text = re.sub(r" at 0x[0-9a-f]+", "", json.dumps(config, sort_keys=True, default=str))
    return {"questions": fingerprint(docs), "configuration": fingerprint([text])}


def directory_of(spec: str) -> str:
    """A strategy's text as the name of a directory."""
    return re.sub(r"[:,]", "_", spec)


def samples_of(task: str) -> str:
    """The file with a task's samples, in a strategy's directory."""
    name = re.sub(r"[^\w.-]", "_", task)
    return f"samples_{name}.jsonl"


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
    them holds the figures of all. Answers are journalled: the same call goes on where the last one stopped.
    """
    from forkpoint.evaluation.lm_eval import COUNTS, StrategyLM

    check_texts("strategies", strategies)
    identity = {
        "verb": "lm-eval", "model": engine.name, "engine": dict(engine.settings), "strategies": list(strategies),
        "answer_kind": answer_kind, "seed": seed, **{k: v for k, v in asdict(tasks.choice).items() if k != "names"},
        "tasks": tasks.identity,
    }  # fmt: skip
    with claimed(out, identity):
        entries = []
        for spec in strategies:
            directory = out / directory_of(spec)
            directory.mkdir(exist_ok=True)
            if not (directory / RESULTS).exists():
                journal = Journal(directory / JOURNAL)
                lm = StrategyLM(spec, engine, answer_kind=answer_kind, seed=seed, journal=journal, progress=progress)
                _run(lm, tasks, directory)
            (directory / JOURNAL).unlink(missing_ok=True)
            results = read_json(directory / RESULTS)
            figures = {key: results[key] for key in FIGURES if key in results}
            counts = {name: results["config"][name] for name in COUNTS}
            entries.append({"strategy": spec, "directory": directory.name, **counts, **figures})
        summary = Results(verb="lm-eval", model=engine.name, tasks=list(tasks.identity), strategies=entries)
        write_whole(out / RESULTS, to_json(summary, indent=2) + "\n")
    return summary


def _run(lm: Any, tasks: Tasks, directory: Path) -> None:
    """Write lm-eval's samples and results, in its own formats, the results last."""
    from lm_eval import simple_evaluate
    from lm_eval.utils import handle_non_serializable

    choice = tasks.choice
    results = simple_evaluate(
        lm, tasks=tasks.specs, task_manager=tasks.manager, num_fewshot=choice.num_fewshot, limit=choice.limit,
        apply_chat_template=choice.apply_chat_template,
    )  # fmt: skip
    for task, samples in results.pop("samples").items():
        write_whole(directory / samples_of(task), _lines(samples))
    text = json.dumps(results, indent=2, default=handle_non_serializable, ensure_ascii=False)
    write_whole(directory / RESULTS, text + "\n")


def _lines(samples: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line a sample, as lm-eval's own tracker writes it."""
    from lm_eval.utils import handle_non_serializable, sanitize_list

    for sample in samples:
        arguments = {
            f"gen_args_{i}": {f"arg_{j}": value for j, value in enumerate(values)}
            for i, values in enumerate(sample["arguments"])
        }
        texts = {key: sanitize_list(sample[key]) for key in ("resps", "filtered_resps")}
        row = sample | {"arguments": arguments, "target": str(sample["target"])} | texts
        yield json.dumps(row, default=handle_non_serializable, ensure_ascii=False) + "\n"
