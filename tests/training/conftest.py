"""Made-up pairs, tiny models in float64, and a cache of their own."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import launches
import pytest
from made_up_pairs import made_up_pairs
from tiny_models import build_model, tiny_config


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", autouse=True)
def _quick_collections():
    """A training begins with a garbage collection, most of whose time goes to what the imports left."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def pairs(tokenizer):
    """Eight pairs."""
    return made_up_pairs(8, len(tokenizer))


@pytest.fixture
def policy(tokenizer):
    """A model in float64, and another one with the same shape as its reference."""
    config = tiny_config(tokenizer, num_key_value_heads=2)
    return build_model(config, seed=1).double(), build_model(config, seed=2).double()


@pytest.fixture(scope="module")
def launch(workplace):
    """Runs the command line in processes of its own; returns their exit codes, and what each said."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command, pipe = [sys.executable, launches.__file__], subprocess.PIPE
    driver = subprocess.Popen(command, env=environment, cwd=workplace, text=True, stdin=pipe, stdout=pipe)

    def launched(*argv, killed_at=None, processes=2, **environment):
        asked = {"argv": argv, "environment": environment, "killed_at": killed_at, "processes": processes}
        driver.stdin.write(json.dumps(asked) + "\n")
        driver.stdin.flush()
        codes = json.loads(driver.stdout.readline())
        logs = [Path(workplace, f"log-{rank}") for rank in range(processes)]
        return codes, *((log.with_suffix(".out").read_text(), log.with_suffix(".err").read_text()) for log in logs)

    with driver:
        yield launched
        driver.stdin.close()
