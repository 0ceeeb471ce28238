"""The settings of trainings by name, with defaults that suit real models and a help text each.

Imports nothing heavy: the command line shows these fields in its help. `configs` joins them with TrainingArguments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

SaveDtype = Literal["auto", "float64", "float32", "bfloat16", "float16"]


@dataclass
class LoraFields:
    """Low-rank adapters (PEFT's LoRA)."""

    lora_r: int = 0
    """train low-rank adapters of this rank (0: all weights)"""
    lora_alpha: float = 32.0
    """scale of the adapters: lora_alpha / lora_r"""
    lora_target_modules: list[str] = field(default_factory=list)
    """linear layers that get adapters, by name: q_proj,v_proj; repeatable (default: all but the output matrix)"""
    lora_dropout: float = 0.0
    """share of the inputs of adapters that is set to 0 in training"""


@dataclass
class FittingFields(LoraFields):
    """How weights are fitted to examples."""

    learning_rate: float | None = None
    """highest learning rate (default: by method, and by what is trained; the table is in docs/training.md)"""
    num_train_epochs: float = 3.0
    """passes over the examples"""
    per_device_train_batch_size: int = 8
    """examples at a time"""
    gradient_accumulation_steps: int = 1
    """so many times as many examples in one step"""
    warmup_steps: float = 0.1
    """steps, or below 1 the share of all steps, in which the learning rate rises"""
    lr_scheduler_type: str = "cosine"
    """how the learning rate falls: cosine, linear, constant_with_warmup, ..."""
    bf16: bool = False
    """compute in bfloat16; weights that are trained are float32 in any case"""
    logging_steps: float = 10
    """steps, or below 1 the share of all steps, between two lines of the log"""
    save_steps: float = 0.2
    """steps, or below 1 the share of all steps, between two checkpoints"""
    report_to: str = "none"
    """where metrics go as well: none, tensorboard, wandb, ..."""
    train_sampling_strategy: str = "group_by_length"
    """group_by_length (rows of similar length together) or random"""
    save_dtype: SaveDtype = "auto"
    """precision in which a whole model is saved; auto: the one that it came in"""
    seed: int = 0
    """seed of the order of examples, and of new weights and adapters"""


@dataclass
class MergeFields:
    """What is saved of adapters."""

    merge: bool = False
    """with adapters: save a whole model, the adapters added to its weights"""


@dataclass
class PairFields(MergeFields, FittingFields):
    """How a model is trained on pairs."""

    max_length: int | None = None
    """leave out pairs of which a response with its prompt has more tokens (default: than the model reads)"""


@dataclass
class PreferenceFields(PairFields):
    """A preference loss and its constants."""

    method: str = "critical-dpo"
    """dpo, rpo, tdpo1, tdpo2, critical-dpo or fork-dpo; sft: on the chosen responses"""
    beta: float = 0.1
    """strength of the tie to the reference: the loss sees beta times the log-ratios"""
    gamma: float = 1.0
    """critical-dpo: the paper's gamma, in place of beta"""
    alpha: float | None = None
    """rpo: weight of the likelihood term; tdpo2: of the KL term (default: the paper's)"""
    precompute_ref_log_probs: bool = True
    """compute the reference's log-probabilities before training and keep them; false: at each step"""


@dataclass
class CorpusFields(MergeFields, FittingFields):
    """How a model is trained on a corpus."""

    num_train_epochs: float = 1.0
    """passes over the rows"""
    snapshots: int = 0
    """keep this many models on the way, evenly spaced, the first and the last included"""


@dataclass
class SelectiveFields(CorpusFields):
    """Language modeling on the tokens of a corpus that a rule selects."""

    rule: str = "excess_loss"
    """what tokens are ranked by: excess_loss (high), reference_loss (low), reference_entropy (low), union or
    intersection of the last two, loss (high; no reference), random (the control); uniform: every token"""
    ratio: float = 0.6
    """share of the tokens that is kept; for union and intersection that of reference_loss"""
    entropy_ratio: float | None = None
    """union, intersection: share of reference_entropy (default: ratio)"""
    scope: str = "batch"
    """what is ranked together: a row (sequence), a process's forward pass (micro_batch), or an optimizer step over all
    processes (batch)"""
    ratio_warmup: float = 0.0
    """steps, or below 1 the share of all steps, in which the kept share falls from 1 to ratio"""
