"""Running the app with uvicorn, and its end: answers under way have some time, then those who wait are told."""

from __future__ import annotations

import asyncio
import socket
import threading
from types import FrameType

import uvicorn
from fastapi import FastAPI


def serve_until_stopped(app: FastAPI, listening: socket.socket, grace: float) -> None:
    """Serve until SIGINT or SIGTERM; then for `grace` seconds more, or to a second signal, what is under way."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=int(grace) + 5  # bodies that never end
    )  # fmt: skip
    DrainingServer(config, app, grace).run(sockets=[listening])


class DrainingServer(uvicorn.Server):
    """Uvicorn's, but instead of cancelling work it answers 503 to those who wait for it."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, grace: float) -> None:
        super().__init__(config)
        self._app, self._grace, self._dropped = app, grace, False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the end, the second ends what is under way, a third ends at once."""
        if not self.should_exit:
            loop = asyncio.get_running_loop()
            timer = threading.Timer(self._grace, lambda: loop.call_soon_threadsafe(self._drop))
            timer.daemon = True
            timer.start()
        elif not self._dropped:
            asyncio.get_running_loop().call_soon_threadsafe(self._drop)
            return
        super().handle_exit(sig, frame)

    def _drop(self) -> None:
        self._dropped = True
        self._app.state.pool.close()
