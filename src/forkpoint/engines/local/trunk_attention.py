"""Attention of many branches over shared trunks, as a transformers attention function.

One decoding step feeds one token a branch. Its query meets the keys of its trunk up to where the branch left it, and
the keys of the branch's own suffix; one softmax runs over both. Works for models of the transformers attention
interface: grouped queries, sliding windows, soft-capping and sinks are honoured, anything else is refused.

Shapes: N branches (flat), G trunks, B = most branches a trunk has, H query heads, K key heads, R = H // K, T trunk
width, S suffix width, D head dimension.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, DynamicCache, PreTrainedModel

from forkpoint.engines.local.products import HALF, float32_logits, product

IMPLEMENTATION = "forkpoint_trunk"
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
    which trunk it hangs on. Branches are placed in slots, retired and dropped between steps.
    """

    def __init__(self, device: torch.device, n_slots: int, most_columns: int) -> None:
        self.device = device
        self.most_columns = most_columns  # that a suffix can come to have
        self.trunks: dict[tuple[int, str], Tensor] = {}  # (layer, "keys" or "values") -> [G, K, T, D]
        self.suffixes: dict[tuple[int, str], Tensor] = {}  # likewise -> [N, K, S, D]
        self.depth, self.length, self.trunk_of = torch.zeros(3, n_slots, dtype=torch.long, device=device).unbind()
        self.live = torch.zeros(n_slots, dtype=torch.bool, device=device)
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
            for name, new in (((layer, "keys"), entry.keys), ((layer, "values"), entry.values)):
                old = self.trunks.get(name, new[:0])
                if old.shape[0] < n_rows or old.shape[2] < new.shape[2]:
                    old = self.trunks[name] = _grown(old, n_rows, max(new.shape[2], old.shape[2]))
                old[index, :, : new.shape[2]] = new

    def keep_trunks(self, rows: list[int]) -> None:
        """Drop all other trunks, which no branch hangs on; these ascending rows are renumbered."""
        index = torch.tensor(rows, device=self.device)
        for name, tensor in self.trunks.items():
            self.trunks[name] = tensor[index]
        self.trunk_of = torch.searchsorted(index, self.trunk_of)
        self._stale = True

    def place(self, slots: list[int], trunks: list[int], depths: list[int]) -> None:
        """Start fresh branches in the given slots."""
        index, trunk_of, depth = torch.tensor([slots, trunks, depths], device=self.device)
        self.trunk_of[index], self.depth[index] = trunk_of, depth
        self.length[index], self.live[index] = 0, True
        self._stale = True

    def retire(self, slots: list[int]) -> None:
        """Empty slots take no columns and do not grow until they are refilled or dropped."""
        index = torch.tensor(slots, device=self.device)
        self.depth[index], self.length[index], self.live[index] = 0, 0, False
        self._trunk_bias.clear()

    def keep_branches(self, slots: list[int]) -> None:
        """Drop all other branches; those of these slots are renumbered in their order."""
        index = torch.tensor(slots, device=self.device)
        for column in ("depth", "length", "trunk_of", "live"):
            setattr(self, column, getattr(self, column)[index])
        for name, tensor in self.suffixes.items():
            self.suffixes[name] = tensor[index]
        self._stale = True

    def begin_step(self) -> Tensor:
        """Make room for one more token a branch and lay out the masks; returns the positions [N, 1] of the tokens."""
        longest = int(self.length.max())
        self.width, self._even = longest + 1, longest == int(self.length.min())
        if self.width > self.capacity:
            self.capacity = min(self.most_columns, max(LEAST_CAPACITY, 2 * self.capacity))
            for name, tensor in self.suffixes.items():
                self.suffixes[name] = _grown(tensor, len(tensor), self.capacity)
        if self._stale:
            self._lay_out_grid()
        self._suffix_bias: dict[int | None, Tensor | None] = {None: None} if self._even else {}
        self._trunk_bias = {w: bias for w, bias in self._trunk_bias.items() if w is None}  # windows move on
        return (self.depth + self.length)[:, None]

    def _lay_out_grid(self) -> None:
        """Where each branch stands in the [G, B] grid that meets the trunks: `_cell` [N], and its inverse `_branch`."""
        n, n_trunks = len(self.trunk_of), len(next(iter(self.trunks.values())))
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
            width = self.trunks[layer, "keys"].shape[2]
            seen = _seen(width, self.depth, self.depth + self.length, window)
            cells = seen if self._in_order else seen[self._branch]
            self._trunk_bias[window] = _as_bias(cells.view(-1, self._per_trunk, width))
        if window not in self._suffix_bias:
            self._suffix_bias[window] = _as_bias(_seen(self.width, self.length + 1, self.length, window))
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
        suffix_k, suffix_v = self._append((layer, "keys"), key), self._append((layer, "values"), value)
        trunk_k, trunk_v = self.trunks[layer, "keys"], self.trunks[layer, "values"]
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

    def _append(self, name: tuple[int, str], new: Tensor) -> Tensor:
        """Write the new tokens' keys or values [N, K, 1, D]; returns the suffix columns in use, [N, K, S, D]."""
        if name not in self.suffixes:
            self.suffixes[name] = _grown(new[:, :, :0], len(new), self.capacity)
        store = self.suffixes[name]
        if self._even:
            store[:, :, self.width - 1] = new[:, :, 0]
        else:
            store[self._rows, :, self.length] = new[:, :, 0]
        return store[:, :, : self.width]


def _seen(width: int, end: Tensor, at: Tensor, window: int | None) -> Tensor:
    """Which of `width` columns, those before `end` [N], a token at column `at` [N] sees: [N, width]."""
    columns = torch.arange(width, device=end.device)
    seen = columns < end[:, None]
    return seen if window is None else seen & (at[:, None] - columns < window)


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


def trunk_step(model: PreTrainedModel, cache: TrunkCache, tokens: Tensor) -> Tensor:
    """Feed one token a branch: tokens [N] -> logits [N, V], float32 where the model is in half precision."""
    positions = cache.begin_step()
    with forward_lock, float32_logits(model):
        native, token = model.config._attn_implementation, _active.set(cache)
        model.config._attn_implementation = IMPLEMENTATION
        try:
            logits: Tensor = model(input_ids=tokens[:, None], position_ids=positions, use_cache=False).logits[:, -1]
        finally:
            model.config._attn_implementation = native
            _active.reset(token)
    cache.length += cache.live
    return logits


def compute_trunks(model: PreTrainedModel, trunks: list[tuple[int, ...]]) -> DynamicCache:
    """Keys and values of right-padded trunks by the model's own attention; an empty trunk takes one unseen column."""
    width = max(1, *map(len, trunks))
    ids = torch.tensor([list(t) + [0] * (width - len(t)) for t in trunks], device=model.device)
    computed = DynamicCache()
    with forward_lock:  # not through the cache that another thread's step uses at the time
        model.base_model(input_ids=ids, past_key_values=computed, use_cache=True)
    return computed
