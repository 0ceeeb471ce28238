"""forkpoint: token-level improvement of language-model reasoning.

Importing this package imports no torch: each public name is loaded when it is first used.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forkpoint.curves.critical_tokens import CriticalConfig, find_critical, label_trajectories
    from forkpoint.decoding.cot import cot_decode
    from forkpoint.engines import load_engine
    from forkpoint.evaluation.evaluate import evaluate
    from forkpoint.pairs.pair import Pair
    from forkpoint.pairs.pair_building import PairConfig, pair_forks, pair_responses
    from forkpoint.pairs.pair_files import make_pair, read_pairs
    from forkpoint.pairs.trl_files import import_pairs, read_preferences
    from forkpoint.report import write_report
    from forkpoint.sampling.processors import TopNSigma
    from forkpoint.scores.context import Context
    from forkpoint.scores.contrastive import shared_base
    from forkpoint.scores.corpora import read_corpus
    from forkpoint.scores.reference_losses import score_corpus
    from forkpoint.scores.store import open_store
    from forkpoint.scores.trajectory_scores import score_trajectories
    from forkpoint.tasks import TASKS, grade, load_problems, stop_strings
    from forkpoint.training.adapters import TuningConfig, tune_adapter
    from forkpoint.training.configs import PreferenceConfig, SelectiveConfig, TrainingConfig
    from forkpoint.training.contrast_run import ContrastConfig, estimate
    from forkpoint.training.own_answers import LikelihoodFilter
    from forkpoint.training.preference_run import train
    from forkpoint.training.preference_trainer import PreferenceTrainer
    from forkpoint.training.rounds import Base, RoundsConfig, tune_in_rounds
    from forkpoint.training.selection_labels import export_labels
    from forkpoint.training.selective_run import pretrain
    from forkpoint.training.selective_trainer import SelectiveTrainer
    from forkpoint.trajectories.rows import sample_trajectories
    from forkpoint.types import FailedError, Problem, Sampling, Trajectory, UserError
    from forkpoint.weights.rules import RULES, Rule, select

__version__ = "0.1.0"
__all__ = [
    "RULES", "TASKS", "Base", "Context", "ContrastConfig", "CriticalConfig", "FailedError", "LikelihoodFilter", "Pair",
    "PairConfig", "PreferenceConfig", "PreferenceTrainer", "Problem", "RoundsConfig", "Rule", "Sampling",
    "SelectiveConfig", "SelectiveTrainer", "TopNSigma", "TrainingConfig", "Trajectory", "TuningConfig", "UserError",
    "cot_decode", "estimate", "evaluate", "export_labels", "find_critical", "grade", "import_pairs",
    "label_trajectories", "load_engine", "load_problems", "make_pair", "open_store", "pair_forks", "pair_responses",
    "pretrain", "read_corpus", "read_pairs", "read_preferences", "sample_trajectories", "score_corpus",
    "score_trajectories", "select", "shared_base", "stop_strings", "train", "tune_adapter", "tune_in_rounds",
    "write_report",
]  # fmt: skip

_HOMES = {
    "curves.critical_tokens": "CriticalConfig find_critical label_trajectories",
    "decoding.cot": "cot_decode",
    "engines": "load_engine",
    "evaluation.evaluate": "evaluate",
    "pairs.pair": "Pair",
    "pairs.pair_building": "PairConfig pair_forks pair_responses",
    "pairs.pair_files": "make_pair read_pairs",
    "pairs.trl_files": "import_pairs read_preferences",
    "report": "write_report",
    "sampling.processors": "TopNSigma",
    "scores.context": "Context",
    "scores.contrastive": "shared_base",
    "scores.corpora": "read_corpus",
    "scores.reference_losses": "score_corpus",
    "scores.store": "open_store",
    "scores.trajectory_scores": "score_trajectories",
    "tasks": "TASKS grade load_problems stop_strings",
    "training.adapters": "TuningConfig tune_adapter",
    "training.configs": "PreferenceConfig SelectiveConfig TrainingConfig",
    "training.contrast_run": "ContrastConfig estimate",
    "training.own_answers": "LikelihoodFilter",
    "training.preference_run": "train",
    "training.preference_trainer": "PreferenceTrainer",
    "training.rounds": "Base RoundsConfig tune_in_rounds",
    "training.selection_labels": "export_labels",
    "training.selective_run": "pretrain",
    "training.selective_trainer": "SelectiveTrainer",
    "trajectories.rows": "sample_trajectories",
    "types": "FailedError Problem Sampling Trajectory UserError",
    "weights.rules": "RULES Rule select",
}
_HOME = {name: f"forkpoint.{home}" for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'forkpoint' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


if "IPython" in sys.modules:
    import_module("forkpoint.report.notebook")  # shows results there
