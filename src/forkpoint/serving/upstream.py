"""Whether a server of completions is there, by its list of models."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from forkpoint.engines.remote.openai_calls import CompletionsServer
from forkpoint.types import FailedError, UserError

ONCE: Any = {"max_retries": 0, "timeout": 3.0}  # seconds


def whats_wrong(url: str) -> str | None:
    """None where the server at `url` (http://HOST:PORT/v1) lists its models, else why it does not, in one sentence."""
    try:
        _server(url).get("/models", ONCE)
    except (UserError, FailedError) as error:
        return str(error)
    return None


@cache
def _server(url: str) -> CompletionsServer:
    return CompletionsServer(url, "", os.environ.get("OPENAI_API_KEY", "").strip())
