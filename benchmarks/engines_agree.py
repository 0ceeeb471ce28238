"""The same commands through every engine: what agrees, and how well.

    .venv-vllm/bin/python benchmarks/engines_agree.py [--problems 100] [--trajectories 20]

`forkpoint eval` (greedy, CoT-decoding) and `forkpoint critical` (the same wrong responses for all) on the lab, through
transformers, ray (two replicas of it), vllm, and openai against a `vllm serve` that this starts. Each is compared with
transformers: responses with the same tokens; success curves by z, their difference over its standard error as their 95%
intervals tell it, at prefixes where those are no points; statuses and critical tokens; for ray, whether the files are
equal byte by byte but for timings. Writes benchmarks/results/engines_agree.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import machine
import numpy as np

from forkpoint.lab import MODEL_DIR

ENGINES = {
    "transformers": [],
    "ray": ["--engine", "ray", "--replicas", "2"],
    "vllm": ["--engine", "vllm", "--memory_gib", "2"],
    "openai": ["--engine", "openai"],
}
TIMES = re.compile(r'"seconds": [0-9.e-]+')


def forkpoint(*words: str | Path) -> float:
    """Run a command; the seconds it took."""
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "forkpoint", *map(str, words), "--quiet"], check=True, stdout=subprocess.DEVNULL
    )
    return time.monotonic() - started


@contextmanager
def served() -> Iterator[str]:
    """The address of a vLLM server of the lab model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL_DIR), "--served-model-name",
         "lab", "--host", "127.0.0.1", "--port", port, "--dtype", "float32", "--max-logprobs", "512",
         "--no-enable-chunked-prefill", "--disable-log-stats"],
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_LOGGING_LEVEL": "ERROR"},
    )  # fmt: skip
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                assert process.poll() is None, "the server ended"
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def same_responses(mine: Path, reference: Path) -> dict[str, str]:
    """Of each strategy, how many problems have the same tokens on every path."""
    pairs = list(zip(rows(mine / "samples.jsonl"), rows(reference / "samples.jsonl"), strict=True))
    found = {}
    for strategy in dict.fromkeys(a["strategy"] for a, _ in pairs):
        its = [(a, b) for a, b in pairs if a["strategy"] == strategy]
        same = sum([p["token_ids"] for p in a["paths"]] == [p["token_ids"] for p in b["paths"]] for a, b in its)
        found[strategy] = f"{same} of {len(its)}"
    return found


def curves(mine: Path, reference: Path) -> dict[str, Any]:
    """How far the success curves lie apart, and how many labels are the same."""
    pairs = list(zip(rows(mine / "critical.jsonl"), rows(reference / "critical.jsonl"), strict=True))
    z, labels = [], 0
    for a, b in pairs:
        assert a["token_ids"] == b["token_ids"]
        labels += (a["status"], a["critical_index"]) == (b["status"], b["critical_index"])
        low, high = (np.array([r["success_ci"] for r in (a, b)])[:, :, i] for i in (0, 1))
        error = np.sqrt((((high - low) / 2 / 1.96) ** 2).sum(0))
        apart = np.array(a["success"]) - np.array(b["success"])
        z += (apart[error > 0] / error[error > 0]).tolist()
    z = np.array(z)
    return {
        "labels": f"{labels} of {len(pairs)}", "prefixes": len(z), "mean_z": float(z.mean()),
        "rms_z": float(np.sqrt((z**2).mean())), "within_1.96": float((np.abs(z) <= 1.96).mean()),
    }  # fmt: skip


def different_files(mine: Path, reference: Path) -> list[str]:
    """The files of two runs that are not the same text, timings aside; the pages too."""
    names = sorted({p.name for d in (mine, reference) for p in d.iterdir() if not p.name.startswith(".")})
    text = [[TIMES.sub("", (d / name).read_text()) for name in names] for d in (mine, reference)]
    return [name for name, a, b in zip(names, *text, strict=True) if a != b and not name.endswith(".html")]


def main() -> None:
    """Run, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", default="100")
    parser.add_argument("--trajectories", default="20")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory, served() as url:
        out = Path(directory)
        ENGINES["openai"] += ["--base_url", url]
        for engine, flags in ENGINES.items():
            seconds = forkpoint("eval", "--strategy", "greedy", "--strategy", "cot-decoding:k=10", "--limit",
                                options.problems, "--out", out / engine, *flags)  # fmt: skip
            given = [] if engine == "transformers" else ["--trajectories", out / "transformers-critical/critical.jsonl"]
            taken = forkpoint("critical", "--limit", options.trajectories, "--until", "budget", "--budget", "512",
                              "--which", "all", *given, "--out", out / f"{engine}-critical", *flags)  # fmt: skip
            figures[engine] = {"eval_seconds": seconds, "critical_seconds": taken}
            if engine != "transformers":
                its = out / f"{engine}-critical"
                figures[engine] |= {
                    "same_responses": same_responses(out / engine, out / "transformers"),
                    **curves(its, out / "transformers-critical"),
                }
            print(engine, figures[engine], flush=True)
        forkpoint("critical", "--limit", options.trajectories, "--until", "budget", "--budget", "512", "--which", "all",
                  "--out", out / "ray-sampled", *ENGINES["ray"])  # fmt: skip
        figures["ray"]["different_files"] = different_files(out / "ray", out / "transformers") + different_files(
            out / "ray-sampled", out / "transformers-critical"
        )
        print("ray: different files", figures["ray"]["different_files"])
    print(machine.save("engines_agree", figures))


if __name__ == "__main__":
    main()
