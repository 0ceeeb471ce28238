"""Whether a server of completions is there, by its list of models."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from http.client import HTTPException

PATIENCE = 3.0  # seconds


def whats_wrong(url: str) -> str | None:
    """None where the server at `url` (http://HOST:PORT/v1) lists its models, else why it does not, in one sentence."""
    key = os.environ.get("OPENAI_API_KEY")
    request = urllib.request.Request(f"{url.rstrip('/')}/models", headers={"Authorization": f"Bearer {key or 'EMPTY'}"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE):
            return None
    except urllib.error.HTTPError as error:
        return f"the server at {url} answers {error.code} when asked for its models"
    except (OSError, HTTPException) as error:
        return f"the server at {url} does not answer: {getattr(error, 'reason', None) or error}"
