"""What every page shares: the templates' environment, the files embedded in a page, and what the page may run.

A page is one file that asks the network for nothing. Jinja2 escapes whatever models and data wrote; a page's
Content-Security-Policy lets only the script that forkpoint ships run, known by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from forkpoint import __version__

_UNSAFE_IN_SCRIPT = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


def render(template: str, styles: tuple[str, ...], scripts: tuple[str, ...] = (), **values: Any) -> str:
    """A page from a template that extends base.html.j2, with the named style sheets and scripts embedded."""
    script = "\n".join(map(_asset, scripts))
    return (
        _environment()
        .get_template(template)
        .render(
            version=__version__,
            policy=Markup(_policy(script)),
            style=Markup("\n".join(map(_asset, styles))),
            script=Markup(script),
            **values,
        )
    )


def render_fragment(**values: Any) -> str:
    """A piece of HTML without a script, for a notebook."""
    return _environment().get_template("fragment.html.j2").render(**values)


def script_json(value: Any) -> str:
    """Compact JSON text that is safe inside a <script> element, whatever its strings hold. NaN is refused."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE_IN_SCRIPT.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _asset(name: str) -> str:
    """A style sheet or script that lies beside the templates."""
    return (resources.files("forkpoint.report") / "templates" / name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """The page's Content-Security-Policy: styles, the embedded script if there is one, and nothing else."""
    rules = [
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        rules.insert(1, f"script-src 'sha256-{digest}'")
    return "; ".join(rules)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("forkpoint.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["thousands"] = lambda x: f"{x:,}"
    return environment
