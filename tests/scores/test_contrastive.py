"""s_t against a naive float64 computation, on pure logits and on whole models; one base in memory."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import build_model, tiny_config
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Gemma2Config, GraniteConfig, LlamaConfig

from forkpoint.engines import load_engine
from forkpoint.engines.local.head import head_of
from forkpoint.scores.contrastive import contrast, shared_base
from forkpoint.types import Problem, Sampling, Trajectory, UserError


@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(2, 40), st.floats(0, 3), st.floats(0.1, 20))
def test_any_parting_of_the_vocabulary_gives_the_equation(seed, n, size, beta, spread):
    generator = torch.Generator().manual_seed(seed)
    positive, negative = (spread * torch.randn(n, size, generator=generator) + 5 for _ in range(2))
    targets = torch.randint(size, (n,), generator=generator)
    cuts = sorted({0, size, *torch.randint(size, (3,), generator=generator).tolist()})
    parts = [slice(a, b) for a, b in itertools.pairwise(cuts)]
    found = contrast(((positive[:, p], negative[:, p]) for p in parts), targets, beta)
    p, m = (torch.log_softmax(x.double(), -1) for x in (positive, negative))
    weighted = (1 + beta) * p - beta * m
    log_s = weighted - torch.log(torch.exp(weighted).sum(-1, keepdim=True))
    expected = torch.stack([x.gather(-1, targets[:, None])[:, 0] for x in (log_s, p, m)])
    assert torch.allclose(found, expected, atol=1e-4)
    assert torch.allclose(found[0].exp(), expected[0].exp(), atol=1e-5)


def random_adapter(model, out: Path, seed: int) -> Path:
    """An adapter far from the identity, as a tuned one would be saved."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    layers = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "mlp" in n]
    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(r=4, lora_alpha=8, target_modules=layers))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(out / str(seed), save_embedding_layers=False)
    return out / str(seed)


def trajectories_for(engine, n: int = 6) -> list[Trajectory]:
    """Random token ids of several lengths; every other one ends with an end-of-sequence token."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(n):
        prompt, response = (tuple(rng.integers(2, engine.vocab_size, k).tolist()) for k in (3 + i, 12 - i))
        ending = (engine.ends[0],) if i % 2 else ()
        problem = Problem(f"p{i}", "?", "1", "number")
        found.append(Trajectory(f"t{i}", problem, prompt, (*response, *ending), None, False, "stop"))
    return found


@torch.inference_mode()
def naive(model, adapter: Path | None, trajectory: Trajectory) -> torch.Tensor:
    """Float64 log-probabilities [T, V] of a model of its own into which the adapter was merged."""
    from peft import PeftModel

    own = copy.deepcopy(model).double()
    if adapter:
        own = PeftModel.from_pretrained(own, str(adapter)).merge_and_unload()
    ids = torch.tensor([[*trajectory.prompt_ids, *trajectory.token_ids]])
    return torch.log_softmax(own.double()(ids).logits[0, len(trajectory.prompt_ids) - 1 : -1], -1)


def check_against_naive(engine, tmp_path, beta: float) -> None:
    positive, negative = (random_adapter(engine.model, tmp_path, seed) for seed in (1, 2))
    trajectories = trajectories_for(engine)
    sampling = Sampling(temperature=0.7, top_p=0.8)
    with shared_base(engine.model, positive, negative) as base:
        found = base.score(trajectories, beta, sampling, engine.ends)
    for scores, trajectory in zip(found, trajectories, strict=True):
        p, m, b = (naive(engine.model, adapter, trajectory) for adapter in (positive, negative, None))
        s, start = torch.softmax((1 + beta) * p - beta * m, -1), len(trajectory.prompt_ids)
        (scored,) = engine.score([trajectory.prompt_ids + trajectory.token_ids], sampling=sampling, starts=[start])
        own = torch.tensor(trajectory.token_ids)[:, None]
        expected = {
            "s": torch.where(torch.isin(own, torch.tensor(engine.ends)), 1.0, s.gather(-1, own))[:, 0],
            "entropy": -(b.exp() * b).sum(-1), "policy_prob": scored.policy[start:-1],
            **{name: logprobs.gather(-1, own)[:, 0]
               for name, logprobs in (("logprob_positive", p), ("logprob_negative", m), ("logprob", b))},
        }  # fmt: skip
        assert scores.trajectory is trajectory
        assert scores.columns.keys() == expected.keys()
        for name, column in expected.items():
            atol = 1e-5 if name in ("s", "policy_prob") else 1e-4
            np.testing.assert_allclose(scores.columns[name], column, atol=atol, err_msg=name)
        assert float((p - m).abs().max()) > 0.1  # the two adapters say different things


@pytest.mark.parametrize(("cls", "options", "beta"), [
    (None, {}, 0.3), (LlamaConfig, {"tie_word_embeddings": True}, 1.0),
    (Gemma2Config, {"final_logit_softcapping": 2.0, "head_dim": 8}, 1.0), (GraniteConfig, {"logits_scaling": 4.0}, 1.0),
])  # fmt: skip
def test_s_equals_a_naive_float64_computation(lab, tokenizer, tmp_path, cls, options, beta):
    """On the lab model, and on models that do something to their logits."""
    engine = load_engine(build_model(tiny_config(tokenizer, cls, **options)), tokenizer) if cls else lab
    check_against_naive(engine, tmp_path, beta)


def test_a_head_that_is_not_a_plain_matrix_is_refused(tokenizer):
    model = build_model(tiny_config(tokenizer))
    model.get_output_embeddings().register_forward_hook(lambda _, __, logits: logits.sin())
    with pytest.raises(UserError, match="not its hidden states times its output matrix"):
        head_of(model)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor made while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor._base is None:
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.fixture
def wide(tokenizer):
    """A model with far more vocabulary than anything else."""
    return load_engine(build_model(tiny_config(tokenizer, vocab_size=40_000)), tokenizer)


def test_full_logits_are_never_held_and_blocks_do_not_matter(wide, tmp_path, monkeypatch):
    positive, negative = (random_adapter(wide.model, tmp_path, seed) for seed in (1, 2))
    trajectories = trajectories_for(wide)
    with shared_base(wide.model, positive, negative) as base:
        whole = base.score(trajectories, 1.0, Sampling(), wide.ends)
        monkeypatch.setattr("forkpoint.engines.local.head.VOCAB_CHUNK", 1000)
        base.budget = 2**21
        with Largest() as largest:
            parts = base.score(trajectories, 1.0, Sampling(), wide.ends)
    for a, b in zip(whole, parts, strict=True):
        for name, column in a.columns.items():
            np.testing.assert_allclose(column, b.columns[name], atol=1e-5)
    rows = sum(len(t.token_ids) for t in trajectories)
    assert largest.elements <= 2**21 // 4 < rows * 40_000 / 4


def test_both_adapters_share_one_base_which_is_itself_afterwards(wide, tmp_path):
    positive, negative = (random_adapter(wide.model, tmp_path, seed) for seed in (1, 2))
    model = wide.model
    before = {name: p.data_ptr() for name, p in model.named_parameters()}
    attributes, settings = set(vars(model)), dict(vars(model.config))
    (scored,) = wide.score([(5, 6, 7)])
    with shared_base(model, positive, negative):
        assert {p.data_ptr() for n, p in model.named_parameters() if "lora" not in n} == set(before.values())
        adapters = sum(p.numel() for n, p in model.named_parameters() if "lora" in n)
        assert adapters == 2 * 2 * 3 * 4 * (32 + 48)  # adapters x layers x projections x rank x sizes
    assert {name: p.data_ptr() for name, p in model.named_parameters()} == before
    assert set(vars(model)) == attributes
    assert vars(model.config) == settings
    (again,) = wide.score([(5, 6, 7)])
    np.testing.assert_array_equal(scored.logprobs, again.logprobs)


def test_broken_weights_are_one_sentence(tokenizer, tmp_path):
    engine = load_engine(build_model(tiny_config(tokenizer)), tokenizer)
    adapter = random_adapter(engine.model, tmp_path, 1)
    with shared_base(engine.model, adapter, adapter) as base:
        weight = next(p for n, p in engine.model.named_parameters() if "lora_B.negative" in n)
        weight.data.fill_(float("nan"))
        with pytest.raises(UserError, match="an adapter makes the model's logits NaN"):
            base.score(trajectories_for(engine), 1.0, Sampling(), engine.ends)
    with shared_base(engine.model, adapter, adapter) as base:
        engine.model.model.norm.weight.data.fill_(float("nan"))
        with pytest.raises(UserError, match="NaN or infinite"):
            base.score(trajectories_for(engine), 1.0, Sampling(), engine.ends)
