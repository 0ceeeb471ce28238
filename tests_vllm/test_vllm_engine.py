"""The vllm engine on the CPU build: the contract of engines, and what is its own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import psutil
import pytest
from engine_contract import EngineContract

from forkpoint.curves.rollouts import policies
from forkpoint.engines import Engine
from forkpoint.engines.remote.vllm_engine import VllmEngine, load_vllm
from forkpoint.tasks import load_problems
from forkpoint.trajectories.rows import sample_trajectories
from forkpoint.types import FailedError, Request, Sampling, UserError


@pytest.fixture(scope="module")
def naming_few() -> Iterator[VllmEngine]:
    """One that names 20 tokens, as servers do."""
    engine = load_vllm("lab", memory_gib=1, engine_args={"max_logprobs": 20})
    yield engine
    engine.llm.llm_engine.engine_core.shutdown()


class TestVllm(EngineContract):
    """With `engine`."""


def test_it_keeps_prefixes(engine: VllmEngine) -> None:
    config = engine.llm.llm_engine.vllm_config
    assert config.cache_config.enable_prefix_caching
    assert str(config.model_config.dtype) == "torch.float32"  # as the lab's weights are stored


def test_what_vllm_does_otherwise_is_refused(engine: VllmEngine) -> None:
    with pytest.raises(UserError, match="min_k is not sampled by this engine, which knows temperature, top_k"):
        engine.generate([Request("a", (5, 6))], Sampling(min_k=3.0))


def test_few_named_tokens_bound_the_bias(naming_few: VllmEngine, lab: Engine) -> None:
    """Own probabilities of a policy from 20 named tokens: off by no more than what is not named."""
    assert naming_few.most_top == 20
    sampling = Sampling(temperature=1.5, max_tokens=200)
    problems = load_problems("lab", limit=3)
    drawn = sample_trajectories(lab, problems, sampling, n=1, prompt="cot")
    for few, whole in zip(policies(naming_few, drawn, sampling), policies(lab, drawn, sampling), strict=True):
        assert few.ids.shape[1] == 20
        assert few.unnamed.max() > 1e-4
        assert not few.outside.any()
        named = np.sort(whole.probs, 1)[:, -20:].sum(1) + whole.own
        assert (few.unnamed >= 1 - named - 1e-4).all()  # all that is not named, and the spread of it is the most
        np.testing.assert_allclose(few.own * (1 - few.unnamed), whole.own, atol=float(few.unnamed.max()))


@pytest.mark.parametrize(("model", "options", "words"), [
    ("/nowhere", {}, "is not a model directory"),
    ("lab", {"engine_args": {"no_such": 1}}, "vLLM does not start with lab: .*no_such"),
    ("lab", {"memory_gib": -1}, "memory_gib must be above 0"),
])  # fmt: skip
def test_what_cannot_start_is_refused(model: str, options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_vllm(model, **options)


def test_a_dead_worker_is_one_sentence(naming_few: VllmEngine) -> None:
    """The last test of all: every worker is killed."""
    asked = [Request(str(i), (5, 6, 7)) for i in range(50)]
    started = naming_few.generate(asked, Sampling(max_tokens=200))
    next(started)
    for child in psutil.Process().children(recursive=True):
        if child.name() == "VLLM::Worker":
            child.kill()
    with pytest.raises(FailedError, match=r"vLLM's processes died \(its log: .*forkpoint-vllm-.*\.log\)"):
        list(started)
