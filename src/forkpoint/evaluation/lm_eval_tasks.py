"""Tasks of lm-eval by name or file, and the same tasks over local data in place of the Hub's."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from forkpoint.files import fingerprint
from forkpoint.tasks.data_sets import read_rows
from forkpoint.types import UserError, check_texts

TEST, SHOTS = "test", "train"


@dataclass(frozen=True)
class TaskChoice:
    """Which tasks, and over what.

    `names` are tasks, groups and tags that lm-eval knows, or task files; `include_path` a directory with more task
    files. `data` is a JSON Lines file in the columns of the task's own data set, to read in its place; `fewshot_data`
    one for its examples (default: `data`, from which lm-eval leaves out the question at hand).
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
        _check(choice)
        self.choice, self.manager = choice, _manager(choice.include_path)
        self.specs = [self._spec(name) for name in choice.names]
        loaded = self._loaded()
        for name, task in loaded.items():
            if getattr(task, "MULTIMODAL", False):
                raise UserError(f"the task {name} asks about images or sounds, which no engine reads")
            if getattr(task, "UNSAFE_CODE", False):
                raise UserError(
                    f"the task {name} runs code that a model wrote; use lm-eval's own command, which asks first"
                )
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
        data = self.choice.data
        try:
            return dict(self.manager.load(self.specs)["tasks"])
        except Exception as error:  # of the Hub, of the data's reader, or of a task's own template
            reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
            names = ", ".join(self.choice.names)
            if data:
                raise UserError(f"{names} cannot be made of {data}, which needs the columns of its own data set "
                                f"({reason})") from None  # fmt: skip
            raise UserError(f"cannot load {names} ({reason}); pass a local copy of the data with --data FILE") from None


def _manager(include_path: str | None) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path) if include_path else _stock_tasks()


@cache
def _stock_tasks() -> Any:
    """lm-eval's own tasks; it reads thousands of files for them."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def over_local_data(name: str, path: Path | None, data: str, fewshot_data: str | None) -> dict[str, Any]:
    """The configuration of one task's file, reading local JSON Lines in place of its data set.

    The split that is asked becomes `data`; so does that of the examples, where the task's file does not list them
    itself, unless they have a file of their own: then lm-eval sees one split and leaves out the question at hand.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    config: dict[str, Any] = load_yaml(path) if path else {"group": name}
    if "task" not in config or isinstance(config["task"], list) or "group" in config or "class" in config:
        raise UserError(
            f"--data goes with single tasks of one file each, but {name} is a group, a tag or a Python task"
        )
    shots = dict(config.get("fewshot_config") or {})
    listed = shots.get("samples") is not None
    split = None if listed else SHOTS if fewshot_data else TEST
    if "split" in shots:
        shots["split"] = split
    files = {TEST: data} | ({SHOTS: fewshot_data} if fewshot_data else {})
    local = {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {key: str(Path(file).resolve()) for key, file in files.items()}},
        "custom_dataset": None,
        "training_split": None,
        "validation_split": None,
        "test_split": TEST,
        "fewshot_split": split,
    }
    return config | local | ({"fewshot_config": shots} if shots else {})


def _check(choice: TaskChoice) -> None:
    check_texts("names of tasks", choice.names)
    if not choice.names:
        raise UserError("name at least one task, for example --tasks gsm8k_cot_zeroshot")
    if choice.include_path is not None and not Path(choice.include_path).is_dir():
        raise UserError(f"--include_path must be a directory with task files, but {choice.include_path} is none")
    if choice.fewshot_data and not choice.data:
        raise UserError("--fewshot_data goes with --data")
    if choice.limit is not None and choice.limit < 1:
        raise UserError(f"--limit must be at least 1, but is {choice.limit}")
    if choice.num_fewshot is not None and choice.num_fewshot < 0:
        raise UserError(f"--num_fewshot must be at least 0, but is {choice.num_fewshot}")
    for file in filter(None, (choice.data, choice.fewshot_data)):
        if not sum(1 for _ in read_rows(file)):
            raise UserError(f"{file} holds no rows")


def _identity(task: Any, limit: int | None) -> dict[str, str]:
    """A task's questions and its configuration, each as a hash; where an object lies in memory is none of it."""
    docs = [json.dumps(doc, default=str) for _, doc in task.doc_iterator(limit=limit)]
    config = {key: value for key, value in task.dump_config().items() if key != "metadata"}
    text = re.sub(r" at 0x[0-9a-f]+", "", json.dumps(config, sort_keys=True, default=str))
    return {"questions": fingerprint(docs), "configuration": fingerprint([text])}
