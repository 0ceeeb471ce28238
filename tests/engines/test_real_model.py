"""A real language model of 135M parameters, against transformers: `python recipes/real_model.py MODEL` fetches it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from forkpoint.curves.critical_tokens import CriticalConfig, label_trajectories
from forkpoint.engines import load_engine
from forkpoint.tasks import load_problems, render_prompt
from forkpoint.trajectories.rows import sample_trajectories
from forkpoint.types import Problem, Request, Sampling

MODEL = Path(__file__).parents[2] / "models" / "SmolLM2-135M-Instruct"
TOLERANCE = 2e-3  # nats, of float32 sums in another order over 30 layers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine():
    """The model; a test that needs it is skipped where it was not fetched, but not in CI."""
    if not (MODEL / "config.json").is_file():
        why = f"no {MODEL.name}: python recipes/real_model.py models/{MODEL.name}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    return load_engine(str(MODEL))


@pytest.fixture(scope="module")
def prompts(engine):
    """A chat prompt with its template, and two of plain text."""
    problems = load_problems("lab", limit=3)
    styles = ("chat", "plain", "cot")
    return [render_prompt(p, style, engine.tokenizer) for p, style in zip(problems, styles, strict=True)]


def test_greedy_decoding_is_that_of_generate(engine, prompts):
    requests = [Request(str(i), prompt) for i, prompt in enumerate(prompts)]
    found = {c.key: c.token_ids for c in engine.generate(requests, Sampling(temperature=0, max_tokens=24))}
    for request in requests:
        ids = torch.tensor([request.prefix])
        whole = engine.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24)
        assert found[request.key] == tuple(whole[0, len(request.prefix) :].tolist())


def test_log_probabilities_of_samples_are_those_of_a_forward_pass(engine, prompts):
    requests = [Request(f"{i}/{n}", prompt) for i, prompt in enumerate(prompts) for n in range(3)]
    by_key = {request.key: request.prefix for request in requests}
    for c in engine.generate(requests, Sampling(temperature=1.5, top_n_sigma=1, max_tokens=16, seed=1)):
        prefix = by_key[c.key]
        with torch.no_grad():
            logits = engine.model(torch.tensor([[*prefix, *c.token_ids]])).logits[0, len(prefix) - 1 : -1]
        exact = logits.double().log_softmax(-1).gather(1, torch.tensor(c.token_ids)[:, None])[:, 0]
        assert np.allclose(c.logprobs, exact.numpy(), atol=TOLERANCE)


def test_a_curve_of_success_keeps_its_identity(engine):
    """Success before a token is the mean of that after it and of those after the others, so it never jumps more than
    the probability of another token allows; and at first it is that of plain samples."""
    sampling = Sampling(max_tokens=24, seed=3)
    problem = Problem("sum", "What is 2 + 3?", "5", "number")
    (trajectory,) = sample_trajectories(engine, [problem], sampling, n=1, prompt="plain")
    config = CriticalConfig(sampling=sampling, budget=128, until="budget", which="all")
    (label,) = label_trajectories(engine, [trajectory], config)
    success, own = label.success, label.policy.own
    for before, after, kept in zip(success[:-1], success[1:], own, strict=True):
        assert kept * after - 1e-9 <= before <= kept * after + (1 - kept) + 1e-9
    plain = sample_trajectories(engine, [problem], replace(sampling, seed=4), n=200, prompt="plain")
    share = sum(t.correct for t in plain) / len(plain)
    assert 0 < success[0] < 1
    assert abs(success[0] - share) < 3 * (label.success_ci[0, 1] - label.success_ci[0, 0]) / 2 + 0.1
