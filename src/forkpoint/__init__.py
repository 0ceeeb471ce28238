"""forkpoint: token-level improvement of language-model reasoning.

Importing this package imports no torch: each public name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forkpoint.decoding.cot import cot_decode
    from forkpoint.engines import load_engine
    from forkpoint.evaluation.evaluate import evaluate
    from forkpoint.sampling.processors import TopNSigma
    from forkpoint.tasks import grade

__version__ = "0.1.0"
__all__ = ["TopNSigma", "cot_decode", "evaluate", "grade", "load_engine"]

_HOME = {
    "TopNSigma": "forkpoint.sampling.processors",
    "cot_decode": "forkpoint.decoding.cot",
    "evaluate": "forkpoint.evaluation.evaluate",
    "grade": "forkpoint.tasks",
    "load_engine": "forkpoint.engines",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'forkpoint' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
