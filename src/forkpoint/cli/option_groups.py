"""Options that verbs have in common; the string under a field is its help text."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from forkpoint.files import to_json

BARE = {"bare": True}  # metadata of an option that may be named by a bare word, too
# options that change nothing in a run
NO_CONFIGURATION = ("out", "quiet", "export", "push", "private", "part", "inspect", "batch_tokens")


def at_least(least: int, *, default: int | None) -> Any:
    """A field for a number that may not be lower."""
    return field(default=default, metadata={"least": least})


def values_of(options: object, kind: type[Any], /, **more: Any) -> dict[str, Any]:
    """Those of the options that are fields of another dataclass, too, and `more`."""
    return {f.name: getattr(options, f.name) for f in fields(kind) if hasattr(options, f.name)} | more


@dataclass
class LoadingOptions:
    """How a model is loaded."""

    device: str = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto takes a GPU where there is one"""
    dtype: str = "auto"
    """auto (as stored), float32, bfloat16 or float16"""
    attn_implementation: str | None = None
    """the attention that transformers uses for prompts and scores: sdpa, eager, flash_attention_2, ..."""
    trust_remote_code: bool = False
    """run model code that the Hub repository brings along"""


@dataclass
class ModelOptions(LoadingOptions):
    """Which model."""

    model: str = "lab"
    """`lab` (embedded), a model directory, or a Hub id"""
    revision: str | None = None
    """branch, tag or commit of a Hub model"""


@dataclass
class LocalOptions(ModelOptions):
    """Which model, run by transformers in this process."""

    memory_gib: float | None = None
    """memory that keys, values and logits may take (default: a share of the device's)"""


@dataclass
class EngineOptions(LocalOptions):
    """Which model, and what runs it."""

    engine: Literal["transformers", "vllm", "openai", "ray"] = "transformers"
    """transformers (in this process), vllm, openai (a server of completions), or ray (replicas of one of the first
    two)"""
    tensor_parallel_size: int = at_least(1, default=1)
    """vllm: GPUs that share one copy of the model"""
    engine_args: str | None = None
    """vllm: further arguments of vllm.LLM, as JSON: '{"gpu_memory_utilization": 0.8}'"""
    base_url: str | None = None
    """openai: address of the server, as http://localhost:8000/v1; its key is read from OPENAI_API_KEY"""
    served_model: str | None = None
    """openai: the model's name there (default: --model, which says where its tokenizer is)"""
    concurrency: int = at_least(1, default=64)
    """openai: requests in flight at a time"""
    replicas: int = at_least(1, default=1)
    """ray: copies of the model, each in a process of its own"""
    inner: Literal["transformers", "vllm"] = "transformers"
    """ray: what each replica is"""


@dataclass
class TaskOptions:
    """Which problems."""

    task: str = "lab"
    """lab, gsm8k, math500, aqua, or jsonl (any file, with --data)"""
    data: str | None = None
    """local file (JSON, CSV, Parquet, ...) or other data set to read in place of the task's own"""
    split: str = "test"
    """the Hub data set's split; for the lab, test or train"""
    limit: int | None = None
    """only the first N problems"""
    question_column: str = "question"
    """jsonl: the column of the question"""
    answer_column: str = "answer"
    """jsonl: the column of the gold answer"""
    options_column: str | None = None
    """jsonl: the column with the list of options of a multiple-choice question"""
    kind: Literal["number", "math", "option", "yesno"] | None = None
    """jsonl: how answers are read and compared (default: number)"""


@dataclass
class SamplingOptions(TaskOptions):
    """How responses to problems are sampled."""

    prompt: str = "cot"
    """plain (Q and A), cot (let's think step by step), few-shot, or chat (the tokenizer's template)"""
    temperature: float = 1.0
    """temperature of the policy that samples"""
    top_p: float = 1.0
    """nucleus: the likeliest tokens that together have this probability"""
    top_k: int = 0
    """only the k likeliest tokens (0: all)"""
    min_p: float = 0.0
    """only tokens with this share of the likeliest one's probability"""
    top_n_sigma: float = 0.0
    """only tokens whose logit is within n standard deviations of the highest (0: all)"""
    max_tokens: int | None = None
    """longest response in tokens (default: by task)"""
    seed: int = 0
    """seed of every random draw"""


@dataclass
class RunOptions:
    """Where a run is kept."""

    out: Path | None = None
    """directory of the run (default: runs/VERB-..., named after the configuration)"""
    quiet: bool = False
    """no progress bar"""

    def directory(self, verb: str) -> Path:
        """--out, or runs/VERB-TASK-HASH: another configuration gets another one, the same one is resumed."""
        settings = {name: str(value) for name, value in asdict(self).items() if name not in NO_CONFIGURATION}
        digest = hashlib.blake2b(to_json(settings).encode(), digest_size=4).hexdigest()
        task = [self.task] if isinstance(self, TaskOptions) else []
        return self.out or Path("runs") / "-".join([*verb.split(), *task, digest])


@dataclass
class TransformersOptions:
    """Any other field of transformers' TrainingArguments is an option too, under its own name. Started again, the same
    command goes on from where it was.
    """

    further: dict[str, Any] = field(default_factory=dict)
