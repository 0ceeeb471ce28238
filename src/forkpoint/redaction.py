"""What a text may show to others: addresses without names and passwords, and no keys."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

KEYS = ("OPENAI_API_KEY", "FORKPOINT_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
LEAST_KEY = 6  # letters; a shorter one, such as EMPTY, stands for none and may be a word of any text
_USER = re.compile(r"""(?<=://)(?:[^/\s"'?#]*|[^/\s"'@]*:(?![0-9]+/)[^\s"']*)@""")
_FIELD = re.compile(
    r"""([?&][^=&\s"']*(?:key|token|secret|pass|passw(?:or)?d|pwd|sig|signature|auth|credentials?)=)[^&\s"'#]+""", re.I
)
_TOKEN = re.compile(r"""(Authorization\W+\w+|\bBearer)\s+[\w.~+/=-]{6,}|\b(?:sk-[\w-]{16,}|hf_[A-Za-z0-9]{20,})""")


def without_secrets(text: str, *known: str) -> str:
    """The text without names, passwords and keys in addresses, bearer tokens, the keys in this environment, and the
    `known` ones."""
    for key in {*known, *(os.environ.get(name, "").strip() for name in KEYS)}:
        if len(key) >= LEAST_KEY:
            text = re.sub(rf"(?<!\w){re.escape(key)}(?!\w)", "***", text)
    text = _FIELD.sub(r"\1***", _USER.sub("***@", text))
    return _TOKEN.sub(lambda found: f"{found[1]} ***" if found[1] else "***", text)


def shown_address(url: str) -> str:
    """A server's address without a query, which nobody needs in order to know the server."""
    return without_secrets(re.split("[?#]", url)[0].rstrip("/"))


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address apart: `bare` without a final slash, the fields of its query, and name:password if any."""

    bare: str
    query: dict[str, str]
    login: str

    @property
    def basic(self) -> str:
        """The login as HTTP's basic authentication sends it."""
        return b64encode(self.login.encode()).decode()

    @property
    def secrets(self) -> tuple[str, ...]:
        """What nobody else may see."""
        return self.basic, self.login, *self.login.split(":", 1), *self.query.values()


def parse_address(url: str) -> Address:
    """The parts of an address; ValueError for what is none."""
    parts = urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    bare = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
    return Address(bare, dict(parse_qsl(parts.query)), unquote(login))


def public(value: Any) -> Any:
    """Plain data, as JSON holds it, without secrets."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {without_secrets(str(name)): public(one) for name, one in value.items()}
    return [public(one) for one in value] if isinstance(value, list | tuple) else value
