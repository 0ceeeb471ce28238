"""What a server is set to do, and how much it takes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# what GET /v1/models lists; `model` takes any other options of these strategies, too
READY_MADE = (
    "greedy", "cot-decoding", "cot-decoding:k=10,aggregate=true", "self-consistency:n=10,temperature=0.7", "sample",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Limits of a server, its own key, and how it learns whether its upstream is there."""

    max_tokens: int = 256
    """longest response of a request that names none; less where the model's context is full before"""
    most_paths: int = 128
    """most paths that one request may decode: its prompts, times the paths of its strategy"""
    running: int = 64
    """requests worked on at a time"""
    waiting: int = 256
    """requests that may wait for that; one more is answered 503"""
    most_bytes: int = 2**21
    """longest body of a request"""
    keep_alive: float = 10.0
    """seconds between comments in a stream that has nothing to say yet"""
    key: str | None = None
    """what clients must send as `Authorization: Bearer KEY`; None for no key"""
    upstream: Callable[[], str | None] | None = None
    """says in one sentence what is wrong with the upstream, None if nothing is; asked by GET /health"""
