"""The preference losses by name, with their constants. Plain data: imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from forkpoint.types import UserError

Method = Literal["dpo", "rpo", "tdpo1", "tdpo2", "critical-dpo", "fork-dpo"]
METHODS: tuple[Method, ...] = get_args(Method)
PAPERS = {
    "sft": "supervised fine-tuning on the chosen responses, by TRL",
    "dpo": "Direct Preference Optimization (arXiv 2305.18290)",
    "rpo": "Iterative Reasoning Preference Optimization (arXiv 2404.19733)",
    "tdpo1": "Token-level Direct Preference Optimization (arXiv 2404.11999)",
    "tdpo2": "Token-level Direct Preference Optimization (arXiv 2404.11999)",
    "critical-dpo": "Critical Tokens Matter (arXiv 2411.19943), where it is called cDPO",
    "fork-dpo": "preference at the token where a rollout forks (ours)",
    "clm": "causal language modeling on every token",
    "slm": "selective language modeling (Rho-1, arXiv 2404.07965)",
}
BETA: dict[str, float] = {"critical-dpo": 1.0}  # the paper's γ; 0.1 for the others
ALPHA: dict[str, float] = {"rpo": 1.0, "tdpo2": 0.5}  # the papers'


@dataclass(frozen=True, slots=True)
class Objective:
    """A method with its constants: β (γ in critical DPO) and α (of RPO and TDPO2; the others read none)."""

    method: Method
    beta: float
    alpha: float = 0.0

    @property
    def needs_kl(self) -> bool:
        """Whether the loss has the KL divergence from the reference in it, which takes a reference model at hand."""
        return self.method in ("tdpo1", "tdpo2")


def objective(method: str, beta: float | None = None, alpha: float | None = None) -> Objective:
    """The method with the constants of its paper where none are given. UserError for what does not fit."""
    name = next((m for m in METHODS if m == method), None)
    if name is None:
        raise UserError(f"the method must be one of {', '.join(METHODS)}, but is {method!r}")
    if alpha is not None and name not in ALPHA:
        raise UserError(f"{name} has no alpha; {' and '.join(ALPHA)} have one")
    if beta is not None and not 0 < beta < float("inf"):
        raise UserError(f"{'gamma' if name == 'critical-dpo' else 'beta'} must be above 0, but is {beta}")
    if alpha is not None and not 0 <= alpha < float("inf"):
        raise UserError(f"alpha must be 0 or more, but is {alpha}")
    return Objective(name, beta or BETA.get(name, 0.1), ALPHA.get(name, 0.0) if alpha is None else alpha)
