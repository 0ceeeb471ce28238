"""Top-nσ in vLLM: both interfaces against `top_n_sigma`, the entry point, and vLLM itself on the lab model.

Runs only where vLLM is installed, with forkpoint beside it: `python -m pytest tests_vllm`.
"""

from __future__ import annotations

import math
import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM
from vllm import LLM, SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality, _load_logitsprocs_plugins

from forkpoint.engines.remote import vllm_top_n_sigma
from forkpoint.engines.remote.vllm_engine import VllmEngine
from forkpoint.engines.remote.vllm_top_n_sigma import VllmTopNSigma
from forkpoint.lab import MODEL_DIR
from forkpoint.sampling import top_n_sigma

CPU = torch.device("cpu")
VOCAB = 61
HOTTEST = 2.0  # vLLM refuses a temperature above 2


def params(n: Any = None, temperature: float = 1.0, **more: Any) -> SamplingParams:
    return SamplingParams(temperature=temperature, extra_args=None if n is None else {"top_n_sigma": n}, **more)


def rows_of(count: int, seed: int) -> Tensor:
    """Logits with -inf and soft bans among them, some far from 0."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, VOCAB, generator=generator) * 3
    logits[::3] += 500
    chance = torch.rand(count, VOCAB, generator=generator)
    logits[chance < 0.1] = -math.inf
    logits[chance > 0.9] = torch.finfo(torch.float32).min
    logits[:, 7] = logits.amax(-1)
    return logits


def one_by_one(logits: Tensor, wanted: list[float | None]) -> Tensor:
    """`top_n_sigma`, row by row; None is off."""
    return torch.cat([top_n_sigma(row[None], n or 0.0) for row, n in zip(logits, wanted, strict=True)])


# What a request may ask for: not at all, off in three ways, or a number.
ASKS: list[tuple[SamplingParams, float | None]] = [
    (params(), None), (params(0), None), (params(-1.5), None), (params(1.0, temperature=0), None),
    (SamplingParams(extra_args={"other": "x"}), None),
    *((params(n), n) for n in (0.3, 1, 1.5, 2.5)), (params(1e300), math.inf),
]  # fmt: skip


class V1Batch:
    """The rows of a batch as vLLM's V1 runner keeps them: freed rows are refilled, then the last ones move down."""

    def __init__(self) -> None:
        self.wanted: list[float | None] = []

    def step(self, rnd: random.Random) -> BatchUpdate | None:
        size = len(self.wanted)
        free = sorted(rnd.sample(range(size), rnd.randint(0, size)), reverse=True)
        live: dict[int, float | None] = {row: n for row, n in enumerate(self.wanted) if row not in free}
        added, moved = [], []
        for _ in range(rnd.randint(0, 5)):
            row = free.pop() if free else len(live)
            asked, n = rnd.choice(ASKS)
            added.append((row, asked, None, []))
            live[row] = n
        while free and live and free[-1] < (last := max(live)):
            moved.append((last, empty := free.pop(), MoveDirectionality.UNIDIRECTIONAL))
            live[empty] = live.pop(last)
        for _ in range(rnd.randint(0, 2) if len(live) > 1 else 0):
            a, b = rnd.sample(range(len(live)), 2)
            moved.append((a, b, MoveDirectionality.SWAP))
            live[a], live[b] = live[b], live[a]
        self.wanted = [live[row] for row in range(len(live))]
        if not (free or added or moved):
            return None
        return BatchUpdate(batch_size=len(live), removed=free, added=added, moved=moved)


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 12))
def test_v1_follows_the_rows_of_its_batch(rnd: random.Random, steps: int):
    plugin, batch = VllmTopNSigma(None, CPU, False), V1Batch()
    for step in range(steps):
        plugin.update_state(batch.step(rnd))
        plugin.update_state(None)
        logits = rows_of(len(batch.wanted), seed=step)
        expected = one_by_one(logits, batch.wanted) if batch.wanted else logits
        assert torch.equal(plugin.apply(logits.clone()), expected)


class V2Slots:
    """Slots of requests as vLLM's V2 runner keeps them, and the context of a step over some of them."""

    def __init__(self, count: int) -> None:
        self.plugin = VllmTopNSigma(None, SimpleNamespace(device=CPU, max_num_reqs=count))
        self.wanted: dict[int, float | None] = {}

    def fill(self, slot: int, asked: SamplingParams, n: float | None) -> None:
        assert self.plugin.add_request(slot, asked) == (n is not None)
        self.wanted[slot] = n

    def apply(self, logits: Tensor, slots: list[int], rows: list[int]) -> Tensor:
        """`slots` of this step's requests, and for each how many `rows` it owns."""
        mapping = np.array(slots, dtype=np.int32)
        ctx = SimpleNamespace(
            idx_mapping_np=mapping,
            idx_mapping=torch.from_numpy(mapping),
            expanded_idx_mapping=torch.from_numpy(np.repeat(mapping, rows)),
        )
        return self.plugin.apply(logits, ctx)


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 10))
def test_v2_follows_its_slots(rnd: random.Random, steps: int):
    batch = V2Slots(8)
    for step in range(steps):
        for slot in rnd.sample(range(8), rnd.randint(0 if batch.wanted else 1, 4)):  # slots are used again
            batch.fill(slot, *rnd.choice(ASKS))
        batch.plugin.apply_staged_writes()
        slots = rnd.sample(sorted(batch.wanted), rnd.randint(1, len(batch.wanted)))
        rows = [rnd.randint(1, 3) for _ in slots]  # several with draft tokens
        wanted = [batch.wanted[slot] for slot, count in zip(slots, rows, strict=True) for _ in range(count)]
        logits = rows_of(len(wanted), seed=step)
        assert torch.equal(batch.apply(logits.clone(), slots, rows), one_by_one(logits, wanted))


def test_no_work_where_no_request_of_the_batch_asks(monkeypatch: pytest.MonkeyPatch):
    calls: list[object] = []
    monkeypatch.setattr(vllm_top_n_sigma, "cut", lambda *arguments: calls.append(arguments))
    logits, plugin = rows_of(2, seed=0), v1_plugin([None, 1.0])
    plugin.update_state(BatchUpdate(1, [1], [], []))
    plugin.apply(logits)
    batch = V2Slots(4)
    for slot, n in enumerate([None, None, 1.0]):
        batch.fill(slot, params(n), n)
    batch.plugin.apply_staged_writes()
    batch.apply(logits, [0, 1], [1, 1])
    assert not calls
    batch.apply(logits, [0, 2], [1, 1])
    assert len(calls) == 1


def v1_plugin(wanted: list[float | None], device: torch.device = CPU) -> VllmTopNSigma:
    plugin = VllmTopNSigma(None, device, False)
    added = [(row, params(n), None, []) for row, n in enumerate(wanted)]
    plugin.update_state(BatchUpdate(len(wanted), [], added, []))
    return plugin


@pytest.mark.parametrize("vocab", [2, 490, 151_936])
def test_large_and_small_vocabularies_are_cut_alike(vocab: int):
    logits = torch.randn(7, vocab, generator=torch.Generator().manual_seed(vocab)) * 2.5 + 30
    wanted: list[float | None] = [0.3, None, 1.0, 1.5, None, 0.7, 1.1]
    assert torch.equal(v1_plugin(wanted).apply(logits.clone()), one_by_one(logits, wanted))


def test_a_row_without_a_finite_maximum_stays_as_it_is():
    logits = rows_of(5, seed=2)
    logits[0, 3], logits[1, 3], logits[2] = math.nan, math.inf, -math.inf
    logits[4] = 1.0  # σ is 0
    cut = v1_plugin([1.0] * 5).apply(logits.clone())
    assert torch.equal(cut[:3].nan_to_num(nan=77.0), logits[:3].nan_to_num(nan=77.0))
    assert torch.equal(cut[3:], top_n_sigma(logits[3:], 1.0))


def test_nothing_reads_a_value_back_from_the_device():
    """On the meta device there is no value to read: a look at one raises."""
    meta = torch.device("meta")
    logits = torch.empty(3, VOCAB, device=meta)
    with pytest.raises(RuntimeError):
        bool(logits.isfinite().all())
    assert v1_plugin([1.0] * 3, meta).apply(logits) is logits
    v2 = VllmTopNSigma(None, SimpleNamespace(device=meta, max_num_reqs=4))
    v2.add_request(2, params(1.0))
    v2.apply_staged_writes()
    rows = torch.zeros(3, dtype=torch.int32, device=meta)
    assert v2.apply(logits, SimpleNamespace(idx_mapping_np=np.array([2]), expanded_idx_mapping=rows)) is logits


def test_both_loaders_of_vllm_take_the_installed_entry_point():
    assert _load_logitsprocs_plugins().count(VllmTopNSigma) == 1
    v2 = pytest.importorskip("vllm.v1.worker.gpu.sample.logits_processor.loader")
    assert v2._load_v2_logitsprocs_plugins().count(VllmTopNSigma) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "1.0", [1.0]])
def test_a_value_that_is_no_finite_number_is_refused(value: Any):
    with pytest.raises(ValueError, match=r"top_n_sigma must be a (finite )?number.*, but is "):
        VllmTopNSigma.validate_params(params(value))
    for finite in (None, 0, -3, 1, 0.3, 1e300):
        VllmTopNSigma.validate_params(params(finite))


# vLLM itself, on the lab model

PROMPT = [5]
SPREAD = [414]  # after it 5 tokens are within 0.5 σ, none within 0.06 of the edge


@pytest.fixture
def llm(engine: VllmEngine) -> LLM:
    return engine.llm


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32)


@torch.no_grad()
def next_logits(model: Any, ids: list[int]) -> Tensor:
    """[ids, V]: the logits after each of the ids."""
    return model(torch.tensor([ids])).logits[0].float()


def generate(llm: LLM, asked: list[SamplingParams], prompt: list[int] = PROMPT) -> list[list[int]]:
    prompts: list[Any] = [{"prompt_token_ids": prompt}] * len(asked)
    return [list(output.outputs[0].token_ids) for output in llm.generate(prompts, asked, use_tqdm=False)]


def within(logits: Tensor, chosen: list[int], n: float) -> list[bool]:
    """Whether each chosen token is in its row's kept set, or within rounding of its edge."""
    lifted = logits.scatter_add(-1, torch.tensor(chosen)[:, None], torch.full((len(chosen), 1), 1e-3))
    kept = top_n_sigma(lifted, n).gather(-1, torch.tensor(chosen)[:, None])
    return kept.isfinite().flatten().tolist()


def test_requests_of_one_batch_have_their_own_n(llm: LLM, model: Any):
    """Several lengths, so that rows leave, join and move: 96 requests over 64 rows."""
    kinds: list[float | None] = [None, 1.0, 0.3, 0.0, 1.5, -1.0]
    wanted = [kinds[i % 6] if i % 8 else 1.0 for i in range(96)]
    greedy = [i % 8 == 0 for i in range(96)]
    asked = [
        params(n, temperature=0.0 if is_greedy else HOTTEST, max_tokens=3 + i % 29, seed=i, ignore_eos=True)
        for i, (n, is_greedy) in enumerate(zip(wanted, greedy, strict=True))
    ]
    outside = 0
    for n, is_greedy, ids, one in zip(wanted, greedy, generate(llm, asked), asked, strict=True):
        assert len(ids) == one.max_tokens
        logits = next_logits(model, PROMPT + ids[:-1])
        if is_greedy:
            top = logits.topk(2, dim=-1)
            sure = top.values[:, 0] - top.values[:, 1] > 1e-3
            assert bool(((top.indices[:, 0] == torch.tensor(ids)) | ~sure).all())
        elif n is not None and n > 0:
            assert all(within(logits, ids, n))
        else:
            outside += within(logits, ids, 1.5).count(False)
    assert outside > 100  # those that are off draw what the others may not


def test_top_n_sigma_runs_before_top_k(llm: LLM, model: Any):
    asked = [params(0.5, temperature=HOTTEST, top_k=3, max_tokens=1, seed=seed) for seed in range(200)]
    drawn = {ids[0] for ids in generate(llm, asked, SPREAD)}
    assert drawn == set(next_logits(model, SPREAD)[-1].topk(3).indices.tolist())


def test_the_offline_example_of_the_page_runs(llm: LLM, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    page = (Path(__file__).parents[1] / "docs" / "vllm.md").read_text(encoding="utf-8")
    example = next(block for block in re.findall(r"^```py\n(.*?)^```$", page, re.M | re.S) if "extra_args" in block)
    monkeypatch.setattr("vllm.LLM", lambda _: llm)
    exec(compile(example.replace("max_tokens=256", "max_tokens=8"), "docs/vllm.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_vllm_refuses_the_request_with_our_sentence(llm: LLM):
    for value in (math.nan, "1.0"):
        with pytest.raises(VLLMValidationError, match="top_n_sigma must be a"):
            generate(llm, [params(value, max_tokens=1)])
    assert generate(llm, [params(1.0, max_tokens=1, temperature=0)])  # the engine lives on
