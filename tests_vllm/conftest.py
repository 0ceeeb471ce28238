"""A real `vllm serve` on the lab model, and the transformers engine to hold it to.

These tests have their own environment, with vLLM in it: python -m pytest tests_vllm
"""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from forkpoint.engines import Engine, load_engine
from forkpoint.engines.remote.vllm_engine import VllmEngine, load_vllm
from forkpoint.lab import MODEL_DIR

START_UP = 300  # seconds; 30 on an idle machine


@pytest.fixture(scope="session")
def lab() -> Engine:
    """The embedded model in transformers."""
    return load_engine("lab", device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def engine() -> Iterator[VllmEngine]:
    """The lab model in vLLM, all of whose tokens it can name."""
    engine = load_vllm("lab", memory_gib=1)
    yield engine
    engine.llm.llm_engine.engine_core.shutdown()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a `vllm serve` of the lab model, called `lab` there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "serve.log"
    # what `vllm serve` runs; that command itself wants a distribution called vllm, and the CPU build has another name
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server",
               "--model", MODEL_DIR, "--served-model-name", "lab", "--host", "127.0.0.1", "--port", port,
               "--dtype", "float32", "--max-logprobs", 512,
               "--max-num-seqs", 64, "--gpu-memory-utilization", 0.1,
               # vLLM 0.32 dies on a CPU when it splits the prompt of a request with a seed
               "--no-enable-chunked-prefill"]  # fmt: skip
    with log.open("w") as file:
        process = subprocess.Popen(
            [str(word) for word in command], stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            with suppress(ProcessLookupError):  # what is left of it: its engine is a process of its own
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server answers there; fails with the end of its log where it ends or takes too long."""
    until = time.monotonic() + START_UP
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"vllm serve did not start:\n{log.read_text()[-3000:]}")
