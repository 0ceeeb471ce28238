"""What forkpoint's metadata asks for, what is installed of it, and the command that installs the rest.

Reads metadata alone: nothing is imported. Whether an import works is for `forkpoint.cli.probes`.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from forkpoint.types import FailedError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PURPOSES = {
    "train": "train, rounds, contrast",
    "ray": "--engine ray",
    "openai": "--engine openai",
    "serve": "serve",
    "lm-eval": "lm-eval",
}
"""What each extra is for; another extra has a line of its own all the same."""
NOT_FOR_USERS = ("dev", "docs")
IMPORTS = {"pyyaml": "yaml", "ray": "ray.data"}  # where it is not the distribution's name with _ for -


@dataclass(frozen=True)
class Package:
    """A required distribution. `version` is None where it is not installed."""

    name: str
    wanted: str
    version: str | None
    fits: bool

    @property
    def module(self) -> str:
        """What is imported of it."""
        return IMPORTS.get(self.name, self.name.replace("-", "_"))


@dataclass(frozen=True)
class Installation:
    """What forkpoint needs: always, and with each of its extras."""

    version: str
    core: tuple[Package, ...]
    extras: dict[str, tuple[Package, ...]]
    source: str | None
    editable: bool

    def command(self, extra: str | None = None) -> str:
        """The pip command that installs forkpoint with an extra, from where it came."""
        brackets = f"[{extra}]" if extra else ""
        where = shlex.quote(f"{self.source or 'forkpoint'}{brackets}")
        return f"pip install {'-e ' if self.editable else ''}{where}"


def read_installation() -> Installation:
    """What the installed metadata says. FailedError where there is none."""
    try:
        import packaging.requirements as requirements
    except ImportError as error:
        raise FailedError("packaging, which transformers needs, is not installed: pip install forkpoint") from error
    try:
        own = metadata.distribution("forkpoint")
    except metadata.PackageNotFoundError as error:
        raise FailedError("forkpoint is imported but not installed: run pip install . in its directory") from error
    needed = [requirements.Requirement(text) for text in own.requires or ()]
    known = [extra for extra in own.metadata.get_all("Provides-Extra") or () if extra not in NOT_FOR_USERS]
    source, editable = _source(own)
    return Installation(
        own.version, tuple(_package(one) for one in needed if _asked(one, "")),
        {extra: _of_extra(needed, extra) for extra in dict.fromkeys([*PURPOSES, *known])}, source, editable,
    )  # fmt: skip


def plugin_found() -> bool:
    """Whether vLLM finds our logits processor, by its entry point."""
    return any(entry.value.startswith("forkpoint.") for entry in metadata.entry_points(group="vllm.logits_processors"))


def version_of(*names: str) -> str | None:
    """The version of the first of these distributions that is installed."""
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _of_extra(needed: list[Requirement], extra: str) -> tuple[Package, ...]:
    return tuple(_package(one) for one in needed if _asked(one, extra) and not _asked(one, ""))


def _asked(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _package(requirement: Requirement) -> Package:
    version = version_of(requirement.name)
    fits = version is not None and requirement.specifier.contains(version, prereleases=True)
    return Package(requirement.name, str(requirement.specifier), version, fits)


def _source(own: metadata.Distribution) -> tuple[str | None, bool]:
    """The directory that forkpoint was installed from, if it was one, and whether it is used in place."""
    try:
        told = json.loads(own.read_text("direct_url.json") or "{}")
        url, info = urlparse(told["url"]), told["dir_info"]
    except (ValueError, KeyError):
        return None, False
    return unquote(url.path), bool(info.get("editable"))
