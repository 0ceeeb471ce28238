"""What forkpoint's metadata asks for, what is installed of it, and whether that works.

Each import is tried in a process of its own: a broken installation may raise, print, hang or kill the process that
imports it, and none of that reaches the caller.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from forkpoint.types import FailedError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

# what each extra is for; another extra has a line of its own all the same
PURPOSES = {
    "train": "train, rounds, contrast", "ray": "--engine ray", "openai": "--engine openai", "serve": "serve",
    "lm-eval": "lm-eval", "gguf": "GGUF models",
}  # fmt: skip
NOT_FOR_USERS = ("dev", "docs")
IMPORTS = {"pyyaml": "yaml", "ray": "ray.data"}  # where it is not the distribution's name with _ for -
SECONDS = 120  # that a process has for its steps; an import from a cold disk takes 30
IMPORT = "import "
PROMPT = "Q: Hana has 35 beads. Then the number of beads doubles. How many beads does Hana have now?\nA:"
RESPONSE = "The answer is 70."
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}  # nothing here may ask the network


@dataclass(frozen=True)
class Package:
    """A required distribution. `version` is None where it is not installed."""

    name: str
    wanted: str
    version: str | None
    fits: bool

    @property
    def step(self) -> str:
        """The step of `probe` that tries it."""
        return IMPORT + IMPORTS.get(self.name, self.name.replace("-", "_"))


@dataclass(frozen=True)
class Installation:
    """What forkpoint needs: always, and with each of its extras; and the directory it came from, if it was one."""

    version: str
    core: tuple[Package, ...]
    extras: dict[str, tuple[Package, ...]]
    source: str | None
    editable: bool

    def command(self, extra: str | None = None) -> str:
        """The pip command that installs forkpoint with an extra, from where it came."""
        where = shlex.quote((self.source or "forkpoint") + (f"[{extra}]" if extra else ""))
        return f"pip install {'-e ' if self.editable else ''}{where}"


def read_installation() -> Installation:
    """What the installed metadata says. FailedError where there is none."""
    try:
        from packaging.requirements import Requirement
    except ImportError as error:
        raise FailedError("packaging, which transformers needs, is not installed: pip install forkpoint") from error
    try:
        own = metadata.distribution("forkpoint")
    except metadata.PackageNotFoundError as error:
        raise FailedError("forkpoint is imported but not installed: run pip install . in its directory") from error
    needed = [Requirement(text) for text in own.requires or ()]
    core = [one for one in needed if _is_wanted(one, "")]
    known = [extra for extra in own.metadata.get_all("Provides-Extra") or () if extra not in NOT_FOR_USERS]
    extras = {
        extra: tuple(_package(one) for one in needed if one not in core and _is_wanted(one, extra))
        for extra in dict.fromkeys([*PURPOSES, *known])
    }
    try:
        origin = json.loads(own.read_text("direct_url.json") or "{}")
        source, editable = unquote(urlparse(origin["url"]).path), bool(origin["dir_info"].get("editable"))
    except (ValueError, KeyError):  # it comes from an index
        source, editable = None, False
    return Installation(own.version, tuple(map(_package, core)), extras, source, editable)


def version_of(*names: str) -> str | None:
    """The version of the first of these distributions that is installed."""
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def plugin_is_registered() -> bool:
    """Whether vLLM can find our logits processor, by its entry point."""
    return any(entry.value.startswith("forkpoint.") for entry in metadata.entry_points(group="vllm.logits_processors"))


def _is_wanted(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _package(requirement: Requirement) -> Package:
    version = version_of(requirement.name)
    fits = version is not None and requirement.specifier.contains(version, prereleases=True)
    return Package(requirement.name, str(requirement.specifier), version, fits)


def probe(*batches: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What each step (`import NAME`, `devices` or `lab`) returns, its "value", or "error", the first line of what went
    wrong; the batches side by side."""
    with ThreadPoolExecutor() as pool:
        return {step: result for results in pool.map(_tried, batches) for step, result in results.items()}


def _tried(steps: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The results; the step at which a process ended before its time is the broken one, and the rest goes on."""
    command = [sys.executable, "-P", "-m", "forkpoint.cli.installation"]
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    results: dict[str, dict[str, Any]] = {}
    while left := steps[len(results) :]:
        try:
            done = subprocess.run([*command, *left], env=os.environ | OFFLINE, timeout=SECONDS, **pipes)
            code, answers = done.returncode, done.stdout
            why = f"ends the process {f'by {signal.Signals(-code).name}' if code < 0 else f'with code {code}'}"
            if code == -signal.SIGINT:  # Ctrl-C, which reaches every process of the terminal
                raise KeyboardInterrupt
        except subprocess.TimeoutExpired as error:
            why, answers = f"no end after {SECONDS} seconds", error.stdout or b""
        answered = dict(zip(left, map(json.loads, answers.splitlines()), strict=False))
        results |= answered | {step: {"error": why} for step in left[len(answered) :][:1]}
    return results


def devices() -> dict[str, Any]:
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
        "threads": torch.get_num_threads(), "memory": host_memory(), "gpus": gpus,
        "cuda_build": torch.version.cuda or torch.version.hip, "mps": torch.backends.mps.is_available(),
    }  # fmt: skip


def lab() -> str:
    """The embedded model's greedy response to one question. ValueError where it is not the known one."""
    from forkpoint.engines import load_engine
    from forkpoint.types import Request, Sampling

    engine = load_engine("lab")
    prompt = tuple(engine.tokenizer(PROMPT)["input_ids"])
    sampling = Sampling(temperature=0.0, max_tokens=24, stop=("\n",))
    (response,) = engine.generate([Request("lab", prompt)], sampling)
    text = str(engine.tokenizer.decode(response.token_ids, skip_special_tokens=True)).strip()
    if text != RESPONSE:
        raise ValueError(f"the model says {text!r}, where {RESPONSE!r} is known")
    return text


def _try(step: str) -> dict[str, Any]:
    try:
        if not step.startswith(IMPORT):
            return {"value": {"devices": devices, "lab": lab}[step]()}
        import_module(step.removeprefix(IMPORT))
        return {}
    except (Exception, SystemExit) as error:
        lines = str(error).strip().splitlines()
        return {"error": f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__}


def main(steps: Sequence[str]) -> None:
    """Try the steps; a line of JSON each on stdout, where nothing else is printed."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for step in steps:
        print(json.dumps(_try(step)), file=answers, flush=True)
    os._exit(0)  # what the imports registered for the end is not waited for


if __name__ == "__main__":
    main(sys.argv[1:])
