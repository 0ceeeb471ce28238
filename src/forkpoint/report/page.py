"""The page of a finished run, whatever verb made it: one file that asks the network for nothing.

Jinja2 escapes whatever models and data wrote; a page's Content-Security-Policy lets only the script that forkpoint
ships run, known by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from forkpoint.files import CONFIG, JOURNAL, read_json, write_whole
from forkpoint.jsonl import Row
from forkpoint.redaction import without_secrets
from forkpoint.report.command import COMMAND
from forkpoint.report.content import Page
from forkpoint.report.viewer import SCRIPTS, viewer_data
from forkpoint.types import UserError

REPORT = "report.html"
PAGES = {  # the file in pages/ that knows the runs of a verb, by the verb's first word
    "eval": "eval", "critical": "critical", "contrast": "contrast", "pairs": "pairs", "train": "training",
    "rounds": "rounds", "score": "store", "select": "selection", "dynamics": "documents", "logits": "logits",
    "lm-eval": "lm_eval", "lab": "corpus",
}  # fmt: skip
BY_FILE = {  # of a directory that names no verb
    "results.json": "eval", "critical.jsonl": "critical", "documents.jsonl": "documents", "recipe.json": "recipe",
}  # fmt: skip


TEMPLATES = Environment(
    loader=PackageLoader("forkpoint.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
    lstrip_blocks=True,
)  # fmt: skip


def page_of(run: Path) -> Page:
    """What there is to show of a finished run. UserError where the directory holds none, or a broken file."""
    with as_written(run):
        module = import_module(f"forkpoint.report.pages.{_kind(run)}")
        for name in module.FILES:
            if not (run / name).is_file():
                raise UserError(f"{run} holds no finished run: there is no {name}")
        page: Page = module.page(read_json(run / module.FILES[0]), run)
    return page


def page_of_results(results: Row) -> Page:
    """What there is to show of the results that a verb's function returns: without the run's texts."""
    verb = str(results["verb"]).split(" ")[0]
    page: Page = import_module(f"forkpoint.report.pages.{PAGES[verb]}").page(results)
    return page


def write_report(run: Path, page: Page | None = None) -> Path:
    """Write report.html, a single file, into a finished run's directory; returns its path.

    Raises UserError where the directory holds no finished run, or a broken file.
    """
    page = page or page_of(run)
    with as_written(run):
        write_whole(run / REPORT, html(page, run))
    return run / REPORT


@contextmanager
def as_written(run: Path) -> Iterator[None]:
    """UserError in place of the errors that come of files which forkpoint did not write so."""
    try:
        yield
    except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{run} cannot be shown: a file in it is broken, or of another version of forkpoint "
            f"({type(error).__name__}: {error})"
        ) from error


def html(page: Page, run: Path) -> str:
    """The page of a run as HTML, with its command, versions and configuration."""
    data = viewer_data(page.tokens.rows()) if page.tokens else None
    script = _assets("dom.js", "tables.js", *(SCRIPTS if data and data.shown else ()))
    config, command = (read_json(run / name) if (run / name).is_file() else {} for name in (CONFIG, COMMAND))
    return TEMPLATES.get_template("page.html.j2").render(
        script=Markup(script),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=Markup(_assets("base.css", "viewer.css")),
        page=page, data=data, command=command, settings=list(_settings(config)) if config else [],
    )  # fmt: skip


def _assets(*names: str) -> str:
    """Style sheets or scripts that lie beside the templates, one after the other."""
    templates = resources.files("forkpoint.report") / "templates"
    return "\n".join((templates / name).read_text(encoding="utf-8") for name in names)


def _kind(run: Path) -> str:
    """The file in pages/ that knows this directory's run. UserError where there is none, or none that is finished."""
    if not run.is_dir():
        what = "is a file; name the directory of a run" if run.exists() else "does not exist"
        raise UserError(f"{run} {what}")
    if (run / CONFIG).is_file():
        _check_finished(run)
        verb = str(read_json(run / CONFIG).get("verb", "")).split(" ")[0]
        if verb in PAGES:
            return PAGES[verb]
    for file, name in BY_FILE.items():
        if (run / file).is_file():
            return name
    raise UserError(f"{run} holds no finished run of forkpoint")


def _check_finished(run: Path) -> None:
    """UserError for a run that was stopped: journals are there, or nothing but its configuration, and no results."""
    journals = [*run.glob(JOURNAL), *run.glob(f"*/{JOURNAL}")]  # rounds and lm-eval have one for each part
    is_bare = {path.name for path in run.iterdir() if not path.name.startswith(".")} == {CONFIG}
    if is_bare or (journals and not any((run / name).exists() for name in ("results.json", "summary.json"))):
        units = sum(path.read_bytes().count(b"\n") for path in journals)
        done = f": {units:,} {'unit is' if units == 1 else 'units are'} done" if journals else ""
        raise UserError(f"{run} is not finished{done}; the same command that began it goes on")


def _settings(config: Any, under: str = "") -> Iterator[tuple[str, str]]:
    """Each setting of a configuration with the names that it is under, such as sampling.temperature, and its value."""
    if isinstance(config, dict) and config:
        for key, value in config.items():
            yield from _settings(value, f"{under}.{key}" if under else key)
    else:
        yield under, without_secrets(config if isinstance(config, str) else json.dumps(config, ensure_ascii=False))
