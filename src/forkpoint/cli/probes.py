"""What can only be found out by trying: imports, devices, the embedded model. Each is tried in a process of its own.

A broken installation may raise, print, hang or kill the process that imports it; here none of that reaches the caller.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

SECONDS = 120  # that a process has for its steps; an import from a cold disk takes 30
IMPORT = "import "
QUESTION, ANSWER = "Hana has 35 beads. Then the number of beads doubles. How many beads does Hana have now?", "70"
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}  # nothing here may ask the network


@dataclass(frozen=True)
class ProbeResult:
    """What a step found, or the first line of what went wrong."""

    found: Any = None
    error: str | None = None


def probe(*batches: Sequence[str]) -> dict[str, ProbeResult]:
    """The outcome of each step, the batches side by side: `import NAME`, `devices` or `lab`."""
    started = [_start(batch) for batch in batches]
    try:
        return {k: v for batch, process in zip(batches, started, strict=True) for k, v in _wait(batch, process).items()}
    finally:
        for process in started:
            process.kill()
            process.wait()


def _start(steps: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "forkpoint.cli.probes", *steps], text=True, env=os.environ | OFFLINE,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _wait(steps: Sequence[str], process: subprocess.Popen[str]) -> dict[str, ProbeResult]:
    """The outcomes; the step at which the process ended before its time is the broken one, and the rest goes on."""
    try:
        answers, _ = process.communicate(timeout=SECONDS)
        why = _end_of(process.returncode)
    except subprocess.TimeoutExpired:
        process.kill()
        answers, _ = process.communicate()
        why = f"no end after {SECONDS} seconds"
    lines = answers.splitlines()
    done = {step: ProbeResult(**json.loads(line)) for step, line in zip(steps, lines, strict=False)}
    if not (left := steps[len(done) :]):
        return done
    done[left[0]] = ProbeResult(error=why)
    return done | (probe(left[1:]) if left[1:] else {})


def _end_of(code: int) -> str:
    return f"ends the process by {signal.Signals(-code).name}" if code < 0 else f"ends the process with code {code}"


def _devices() -> dict[str, Any]:
    """What torch sees. Memory in bytes."""
    import torch

    from forkpoint.engines.local.memory import host_memory

    gpus = []
    for i in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(i)
        with torch.cuda.device(i):
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        gpus.append({"name": facts.name, "memory": facts.total_memory, "bf16": bf16})
    return {
        "threads": torch.get_num_threads(),
        "memory": host_memory(),
        "cuda_build": torch.version.cuda or torch.version.hip,
        "gpus": gpus,
        "mps": torch.backends.mps.is_available(),
    }


def _lab() -> str:
    """The embedded model's greedy response to one question. ValueError where it is not the known one."""
    from forkpoint.engines import load_engine
    from forkpoint.types import Request, Sampling

    engine = load_engine("lab")
    prompt = tuple(engine.tokenizer(f"Q: {QUESTION}\nA:")["input_ids"])
    sampling = Sampling(temperature=0.0, max_tokens=24, stop=("\n",))
    (response,) = engine.generate([Request("lab", prompt)], sampling)
    text = str(engine.tokenizer.decode(response.token_ids, skip_special_tokens=True)).strip()
    if text != f"The answer is {ANSWER}.":
        raise ValueError(f"the model says {text!r}, where 'The answer is {ANSWER}.' is known")
    return text


def _try(step: str) -> Mapping[str, Any]:
    try:
        if step.startswith(IMPORT):
            import_module(step.removeprefix(IMPORT))
            return {}
        return {"found": {"devices": _devices, "lab": _lab}[step]()}
    except (Exception, SystemExit) as error:
        lines = str(error).strip().splitlines()
        return {"error": f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__}


def main(steps: Sequence[str]) -> None:
    """Try the steps; a line of JSON each on stdout, where nothing else is printed."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for step in steps:
        print(json.dumps(_try(step)), file=answers, flush=True)
    answers.flush()
    os._exit(0)  # what the imports registered for the end is not waited for


if __name__ == "__main__":
    main(sys.argv[1:])
