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
    from forkpoint.sampling.processors import TopNSigma
    from forkpoint.scores.trajectory_scores import score_trajectories
    from forkpoint.tasks import grade, load_problems
    from forkpoint.trajectories.rows import sample_trajectories
    from forkpoint.types import Sampling

__version__ = "0.1.0"
__all__ = [
    "CriticalConfig",
    "Sampling",
    "TopNSigma",
    "cot_decode",
    "evaluate",
    "find_critical",
    "grade",
    "label_trajectories",
    "load_engine",
    "load_problems",
    "sample_trajectories",
    "score_trajectories",
]  # fmt: skip

_HOME = {
    "Sampling": "forkpoint.types",
    "CriticalConfig": "forkpoint.curves.critical_tokens",
    "TopNSigma": "forkpoint.sampling.processors",
    "cot_decode": "forkpoint.decoding.cot",
    "evaluate": "forkpoint.evaluation.evaluate",
    "find_critical": "forkpoint.curves.critical_tokens",
    "grade": "forkpoint.tasks",
    "label_trajectories": "forkpoint.curves.critical_tokens",
    "load_engine": "forkpoint.engines",
    "load_problems": "forkpoint.tasks",
    "sample_trajectories": "forkpoint.trajectories.rows",
    "score_trajectories": "forkpoint.scores.trajectory_scores",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'forkpoint' has no attribute {name!r}")
    if "IPython" in sys.modules:
        import_module("forkpoint.report.notebook")  # shows results there
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
