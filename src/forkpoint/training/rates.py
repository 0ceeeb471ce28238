"""The learning rates that hold where none is given: by method, and by what is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_DPO = (1e-6, 2e-5, 1e-4)
RATES: dict[str, tuple[float, float, float]] = {
    "sft": (2e-5, 2e-4, 3e-4),
    "dpo": _DPO, "rpo": _DPO, "tdpo1": _DPO, "tdpo2": _DPO, "fork-dpo": _DPO,
    "critical-dpo": (1e-6, 4e-5, 1e-4),
    "clm": (8e-5, 2e-4, 1e-3), "slm": (8e-5, 2e-4, 1e-3),
}  # fmt: skip
"""By method: of all weights, of adapters, and of the embedded lab model (0.9M parameters).

All weights: TRL's own (SFT 2e-5, DPO 1e-6), and for a corpus that of Rho-1 at 1B (arXiv 2404.07965). Adapters: those of
the critical DPO paper (4e-5, and 2e-5 for its baselines; arXiv 2411.19943), and ten times TRL's for SFT, as it advises.
"""


def with_rate(arguments: Mapping[str, Any], method: str, *, adapters: bool, name: str) -> dict[str, Any]:
    """The arguments with a learning rate, the method's own where they have none; `name` is the model's."""
    full, low_rank, lab = RATES[method]
    rate = lab if name == "lab" else low_rank if adapters else full
    return {"learning_rate": rate, **arguments}
