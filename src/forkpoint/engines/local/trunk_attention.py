"""Attention of many branches over shared trunks, as a transformers attention function.

One decoding step feeds one token a branch. Its query meets the keys of its trunk up to where the branch left it, and
the keys of the branch's own suffix; one softmax runs over both. Works for models of the transformers attention
interface: grouped queries, sliding windows, soft-capping and sinks are honoured, anything else is refused.

Shapes: N branches (flat), G trunks, B = most branches a trunk has, H query heads, K key heads, R = H // K, T trunk
width, S suffix width, D head dimension.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, DynamicCache, PreTrainedModel

from forkpoint.engines.local.products import HALF, float32_logits, product

IMPLEMENTATION = "forkpoint_trunk"
BRANCH_COLUMNS = ("depth", "length", "trunk_of", "live")
LEAST_CAPACITY = 32  # columns of a suffix at first; doubled when they are full
# options that say nothing about one decoding step in evaluation mode
_HARMLESS_OPTIONS = {
    "dropout", "position_ids", "use_cache", "is_causal", "output_attentions", "output_router_logits", "cache_position"
}  # fmt: skip

forward_lock = threading.RLock()
"""Held during a forward pass that changes the model for its duration; two threads may share an engine."""

_active: ContextVar[TrunkCache | None] = ContextVar("forkpoint_trunk_cache", default=None)


class CannotShareError(Exception):
    """The model's attention asks for what branches of a trunk cannot be given; the probe at load finds out."""


class TrunkCache:
    """Keys and values of G trunks and N branch suffixes for every layer of a model.

    `depth`, `length` and `trunk_of` [N] say how many trunk tokens each branch sees, how many own tokens it has, and
    which trunk it hangs on. Branches are added, dropped and replaced between steps.
    """

    def __init__(self, device: torch.device, most_columns: int) -> None:
        self.device = device
        self.most_columns = most_columns  # that a suffix can come to have
        self.trunk_keys: dict[int, Tensor] = {}  # layer -> [G, K, T, D]
        self.trunk_values: dict[int, Tensor] = {}
        self.suffix_keys: dict[int, Tensor] = {}  # layer -> [N, K, S, D]
        self.suffix_values: dict[int, Tensor] = {}
        self.depth, self.length, self.trunk_of = torch.empty(3, 0, dtype=torch.long, device=device).unbind()
        self.live = torch.empty(0, dtype=torch.bool, device=device)
        self.windows: set[int] = set()  # sliding windows that layers asked for
        self._stale = True  # whether the grid must be laid out again
        self._trunk_bias: dict[int | None, Tensor | None] = {}  # by window
        self.width = 1  # suffix columns in use this step
        self.capacity = 0

    def store_trunks(self, rows: list[int], computed: DynamicCache, n_rows: int) -> None:
        """Keep freshly computed trunks in the given rows, widening the store to `n_rows` rows where needed."""
        if not computed.layers:
            raise CannotShareError("the model keeps no keys and values")
        index = torch.tensor(rows, device=self.device)
        for layer, entry in enumerate(computed.layers):
            for store, new in ((self.trunk_keys, entry.keys), (self.trunk_values, entry.values)):
                old = store.get(layer, new[:0])
                if old.shape[0] < n_rows or old.shape[2] < new.shape[2]:
                    old = store[layer] = _grown(old, n_rows, max(new.shape[2], old.shape[2]))
                old[index, :, : new.shape[2]] = new

    def keep_trunks(self, rows: list[int]) -> None:
        """Drop all other trunks; these rows are renumbered in their order."""
        index = torch.tensor(rows, device=self.device)
        for store in (self.trunk_keys, self.trunk_values):
            for layer, tensor in store.items():
                store[layer] = tensor[index]
        renumber = torch.full((max(rows) + 1,), -1, dtype=torch.long, device=self.device)
        renumber[index] = torch.arange(len(rows), device=self.device)
        self.trunk_of = renumber[self.trunk_of]
        self._stale = True

    def place(self, slots: list[int], trunks: list[int], depths: list[int], n_slots: int) -> None:
        """Start fresh branches in the given slots, widening to `n_slots` slots where needed."""
        if (more := n_slots - self.depth.shape[0]) > 0:
            for name in BRANCH_COLUMNS:
                setattr(self, name, torch.nn.functional.pad(getattr(self, name), (0, more)))
            self._resize_suffixes(n_slots, self.capacity)
        index = torch.tensor(slots, device=self.device)
        self.trunk_of[index] = torch.tensor(trunks, device=self.device)
        self.depth[index] = torch.tensor(depths, device=self.device)
        self.length[index] = 0
        self.live[index] = True
        self._stale = True

    def retire(self, slots: list[int]) -> None:
        """Empty slots take no columns and do not grow until they are refilled or dropped."""
        index = torch.tensor(slots, device=self.device)
        self.depth[index] = 0
        self.length[index] = 0
        self.live[index] = False
        self._trunk_bias.clear()

    def keep_branches(self, slots: list[int]) -> None:
        """Drop all other branches; those of these slots are renumbered in their order."""
        index = torch.tensor(slots, device=self.device)
        for name in BRANCH_COLUMNS:
            setattr(self, name, getattr(self, name)[index])
        self._stale = True
        for store in (self.suffix_keys, self.suffix_values):
            for layer, tensor in store.items():
                store[layer] = tensor[index]

    def _resize_suffixes(self, n_slots: int, capacity: int) -> None:
        for store in (self.suffix_keys, self.suffix_values):
            for layer, old in store.items():
                store[layer] = _grown(old, n_slots, capacity)
        self.capacity = capacity

    def begin_step(self) -> Tensor:
        """Make room for one more token a branch and lay out the masks; returns the positions [N, 1] of the tokens."""
        longest = int(self.length.max())
        self.width, self._even = longest + 1, longest == int(self.length.min())
        if self.width > self.capacity:
            self._resize_suffixes(self.depth.shape[0], min(self.most_columns, max(LEAST_CAPACITY, 2 * self.capacity)))
        if self._stale:
            self._lay_out_grid()
        self._suffix_bias: dict[int | None, Tensor | None] = {}
        self._trunk_bias = {w: bias for w, bias in self._trunk_bias.items() if w is None}  # windows move on
        return (self.depth + self.length)[:, None]

    def end_step(self) -> None:
        self.length += self.live

    def _lay_out_grid(self) -> None:
        """Where each branch stands in the [G, B] grid that meets the trunks: `_cell` [N], and its inverse `_branch`."""
        n, n_trunks = self.trunk_of.shape[0], next(iter(self.trunk_keys.values())).shape[0]
        order = torch.argsort(self.trunk_of, stable=True)
        counts = torch.bincount(self.trunk_of, minlength=n_trunks)
        self._per_trunk = int(counts.max())
        first = torch.cumsum(counts, 0) - counts
        trunk = self.trunk_of[order]
        self._rows = torch.arange(n, device=self.device)
        self._cell = torch.empty_like(order)
        self._cell[order] = trunk * self._per_trunk + self._rows - first[trunk]
        self._in_order = n == n_trunks * self._per_trunk and torch.equal(self._cell, self._rows)
        self._branch = torch.zeros(n_trunks * self._per_trunk, dtype=torch.long, device=self.device)
        self._branch[self._cell] = self._rows
        self._trunk_bias.clear()
        self._stale = False

    def _to_grid(self, x: Tensor) -> Tensor:
        """[N, K, R, W] -> [G, K, R*B, W]"""
        cells = x if self._in_order else x[self._branch]
        _, k, r, w = cells.shape
        grid = cells.view(-1, self._per_trunk, k, r, w).permute(0, 2, 3, 1, 4)
        return grid.reshape(-1, k, r * self._per_trunk, w)

    def _from_grid(self, x: Tensor, r: int) -> Tensor:
        """[G, K, R*B, W] -> [N, K, R, W]"""
        g, k, _, w = x.shape
        cells = x.view(g, k, r, self._per_trunk, w).permute(0, 3, 1, 2, 4)
        if self._in_order:
            return cells.reshape(g * self._per_trunk, k, r, w)
        return cells[self._cell // self._per_trunk, self._cell % self._per_trunk]

    def _biases(self, layer: int, window: int | None) -> tuple[Tensor | None, Tensor | None]:
        """What to add to the scores over the trunks [G, 1, 1, B, T] and the suffixes [N, 1, 1, S]; None for nothing."""
        if window not in self._trunk_bias:
            columns = torch.arange(self.trunk_keys[layer].shape[2], device=self.device)
            seen = columns[None] < self.depth[:, None]
            if window is not None:
                seen &= (self.depth + self.length)[:, None] - columns[None] < window
            cells = seen if self._in_order else seen[self._branch]
            self._trunk_bias[window] = _as_bias(cells.view(-1, self._per_trunk, cells.shape[1]))
        if window is None and self._even:
            self._suffix_bias[window] = None
        if window not in self._suffix_bias:
            columns = torch.arange(self.width, device=self.device)
            seen = columns[None] <= self.length[:, None]
            if window is not None:
                seen &= self.length[:, None] - columns[None] < window
            self._suffix_bias[window] = _as_bias(seen)
        return self._trunk_bias[window], self._suffix_bias[window]

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scaling: float,
        window: int | None,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> Tensor:
        """Attention output [N, 1, H, Dv] of one layer for query [N, H, 1, D] and the new key and value [N, K, 1, D].

        The softmax over both parts shares its maximum and its sum, so the parts stay in their own layouts. In half
        precision all but the factors of products is float32, as in the kernels of PyTorch's own attention.
        """
        n, h, _, d = query.shape
        k = key.shape[1]
        r = h // k
        suffix_k, suffix_v = self._append(layer, key, value)
        trunk_k, trunk_v = self.trunk_keys[layer], self.trunk_values[layer]
        half = query.dtype in HALF
        q = query.view(n, k, r, d) if half else query.view(n, k, r, d) * scaling
        over_trunk = product(self._to_grid(q), trunk_k.transpose(2, 3))  # [G, K, R*B, T]
        over_suffix = product(q, suffix_k.transpose(2, 3))  # [N, K, R, S]
        if half:  # only now, in float32
            over_trunk, over_suffix = over_trunk.mul_(scaling), over_suffix.mul_(scaling)
        if softcap is not None:
            over_trunk, over_suffix = (softcap * torch.tanh(s / softcap) for s in (over_trunk, over_suffix))
        trunk_bias, suffix_bias = self._biases(layer, window)
        if trunk_bias is not None:
            over_trunk.view(-1, k, r, self._per_trunk, over_trunk.shape[-1]).add_(trunk_bias)
        if suffix_bias is not None:
            over_suffix.add_(suffix_bias)
        top = torch.maximum(over_suffix.amax(-1, True), self._from_grid(over_trunk.amax(-1, True), r))
        if sinks is not None:
            sink = sinks.view(1, k, r, 1).float()
            top = torch.maximum(top, sink)
        suffix_weights = over_suffix.sub_(top).exp_()
        trunk_weights = over_trunk.sub_(self._to_grid(top)).exp_()
        total = suffix_weights.sum(-1, True) + self._from_grid(trunk_weights.sum(-1, True), r)
        if sinks is not None:
            total = total + (sink - top).exp()
        out = self._from_grid(product(trunk_weights, trunk_v), r) + product(suffix_weights, suffix_v)
        return (out / total).to(query.dtype).reshape(n, 1, h, out.shape[-1])

    def _append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new token's key and value; returns the suffix columns in use, [N, K, S, D] each."""
        for store, new in ((self.suffix_keys, key), (self.suffix_values, value)):
            if layer not in store:
                store[layer] = new.new_zeros(new.shape[0], new.shape[1], self.capacity, new.shape[3])
            if self._even:
                store[layer][:, :, self.width - 1] = new[:, :, 0]
            else:
                store[layer][self._rows, :, self.length] = new[:, :, 0]
        return self.suffix_keys[layer][:, :, : self.width], self.suffix_values[layer][:, :, : self.width]


def _grown(old: Tensor, rows: int, columns: int) -> Tensor:
    """[n, K, c, D] with zeros after its rows and columns."""
    new = old.new_zeros(rows, old.shape[1], columns, old.shape[3])
    new[: old.shape[0], :, : old.shape[2]] = old
    return new


def _as_bias(seen: Tensor) -> Tensor | None:
    """0 where seen and -inf elsewhere, float32, with two axes after the first; None where everything is seen."""
    if bool(seen.all()):
        return None
    return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, float("-inf"))[:, None, None]


def _attention_function(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """`TrunkCache.attend` for the transformers attention interface."""
    cache = _active.get()
    if cache is None or attention_mask is not None:
        raise CannotShareError("trunk attention runs inside a trunk step and makes its own mask")
    scaling, window, softcap, sinks = (options.pop(n, None) for n in ("scaling", "sliding_window", "softcap", "s_aux"))
    if unknown := {name for name, value in options.items() if value is not None} - _HARMLESS_OPTIONS:
        raise CannotShareError(f"attention options {sorted(unknown)}")
    if window is not None:
        cache.windows.add(window)
    layer: Any = module.layer_idx
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return cache.attend(int(layer), query, key, value, scale, window, softcap, sinks), None


AttentionInterface.register(IMPLEMENTATION, _attention_function)


@contextmanager
def _using(model: PreTrainedModel, cache: TrunkCache) -> Iterator[None]:
    """Route the model's attention through the cache for the duration of one forward pass."""
    with forward_lock:
        native = model.config._attn_implementation
        token = _active.set(cache)
        model.config._attn_implementation = IMPLEMENTATION
        try:
            yield
        finally:
            model.config._attn_implementation = native
            _active.reset(token)


def trunk_step(model: PreTrainedModel, cache: TrunkCache, tokens: Tensor) -> Tensor:
    """Feed one token a branch: tokens [N] -> logits [N, V], float32 where the model is in half precision."""
    positions = cache.begin_step()
    with _using(model, cache), float32_logits(model):
        logits: Tensor = model(input_ids=tokens[:, None], position_ids=positions, use_cache=False).logits[:, -1]
    cache.end_step()
    return logits


def compute_trunks(model: PreTrainedModel, trunks: list[tuple[int, ...]]) -> DynamicCache:
    """Keys and values of right-padded trunks by the model's own attention; an empty trunk takes one unseen column."""
    width = max(1, *map(len, trunks))
    ids = torch.tensor([list(t) + [0] * (width - len(t)) for t in trunks], device=model.device)
    computed = DynamicCache()
    with forward_lock:  # not through the cache that another thread's step uses at the time
        model.base_model(input_ids=ids, past_key_values=computed, use_cache=True)
    return computed
