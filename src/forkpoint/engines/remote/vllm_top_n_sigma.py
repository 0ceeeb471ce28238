"""Top-nσ inside vLLM: a plugin that vLLM finds by itself, as an entry point of `vllm.logits_processors`.

A request asks for it by `SamplingParams(extra_args={"top_n_sigma": 1.0})`, over HTTP by `vllm_xargs`. One class
serves both of vLLM's interfaces, as one entry point serves both of its model runners:
    V1    runs after temperature; state follows the rows of a batch, which vLLM adds, removes and moves
    V2    runs before temperature; state is kept per slot, and a request may own several rows
Only vLLM imports this module; nothing else in forkpoint knows of vLLM.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessor as ForV1Runner
from vllm.v1.sample.logits_processor import process_dict_updates

from forkpoint.sampling.limits import check
from forkpoint.sampling.truncations import live_sigma, row_blocks
from forkpoint.types import UserError

try:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as ForV2Runner
except ModuleNotFoundError:  # a vLLM that has only the V1 interface
    ForV2Runner = object

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.v1.sample.logits_processor import BatchUpdate
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext

NAME = "top_n_sigma"
_OFF = math.inf  # so many standard deviations under the maximum, every logit is kept


class VllmTopNSigma(ForV1Runner, ForV2Runner):  # type: ignore[misc]
    """Top-nσ (arXiv 2411.07641) per request; the mask is that of `forkpoint.sampling.top_n_sigma`.

    A row without a finite maximum stays as it is, where that raises: one request must not end the server.
    After a temperature T (V1) the limit of a soft ban is 1e4 under the scaled maximum, so 1e4·T before it.
    """

    def __init__(self, vllm_config: VllmConfig, place: Any, is_pin_memory: bool | None = None) -> None:
        """V1 gives a torch.device as `place`, and `is_pin_memory`; V2 a LogitsProcRequestState and nothing else."""
        if is_pin_memory is not None:
            self._device, self._pinned = torch.device(place), is_pin_memory
            self._of_row: dict[int, float] = {}  # V1: the rows of the batch that ask for it
            slots = 0
        else:
            self._device, self._pinned = place.device, place.device.type == "cuda"
            slots = place.max_num_reqs
        self._of_slot = np.full(slots, _OFF)  # V2: on the host
        self._n = self._on_device(self._of_slot)  # [batch] in V1, [slots] in V2
        self._written = True

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raise ValueError, one sentence, where a request's `top_n_sigma` is no finite number."""
        value = (sampling_params.extra_args or {}).get(NAME)
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{NAME} must be a number, but is {value!r}")
        try:
            check(NAME, value)
        except UserError as error:
            raise ValueError(str(error)) from error

    def apply(self, logits: Float32[Tensor, "rows V"], ctx: LogitsContext | None = None) -> Float32[Tensor, "rows V"]:
        """`logits` with what top-nσ cuts at -inf, in place; V2 gives `ctx`, which says whose rows they are."""
        if ctx is None:
            if self._of_row:
                cut(logits, self._n[:, None])
        elif np.isfinite(self._of_slot[ctx.idx_mapping_np]).any():
            cut(logits, self._n[ctx.expanded_idx_mapping, None])
        return logits

    def is_argmax_invariant(self) -> bool:
        """True: the maximum is always kept."""
        return True

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """V1: follow the rows of the batch."""
        changed = process_dict_updates(self._of_row, batch_update, lambda params, _prompt, _output: _asked(params))
        if batch_update and self._of_row and (changed or len(self._n) != batch_update.batch_size):
            self._n = self._on_device([self._of_row.get(row, _OFF) for row in range(batch_update.batch_size)])

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """V2: fill a slot; whether the request asks for top-nσ."""
        n = _asked(sampling_params)
        self._of_slot[req_idx] = _OFF if n is None else n
        self._written = False
        return n is not None

    def apply_staged_writes(self) -> None:
        if not self._written:
            self._n, self._written = self._on_device(self._of_slot), True

    def _on_device(self, values: Sequence[float] | np.ndarray[Any, Any]) -> Float32[Tensor, " n"]:
        """A new tensor, so that a step still in flight keeps its own; from pinned memory no copy waits."""
        return torch.tensor(values, dtype=torch.float32, pin_memory=self._pinned).to(self._device, non_blocking=True)


def _asked(params: SamplingParams) -> float | None:
    """The n of a request; None where it is off, or nothing to a greedy request."""
    n = (params.extra_args or {}).get(NAME)
    return n if n is not None and n > 0 and params.temperature > 0 else None


def cut(logits: Float32[Tensor, "rows V"], n: Float[Tensor, "rows 1"]) -> None:
    """`top_n_sigma` in place, with a row's own n, and without a look at values from the host.

    Where a row's maximum is not finite, σ is NaN; so is n·σ where n = inf meets σ = 0. Nothing is less than NaN.
    """
    for rows in row_blocks(logits):
        block = logits[rows]
        top = block.amax(-1, keepdim=True)
        block.masked_fill_(block < top - n[rows] * live_sigma(block - top), -math.inf)
