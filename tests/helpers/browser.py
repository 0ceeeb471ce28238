"""What stands in a page, and what it does, logs and asks for in a headless Chromium, by its DevTools protocol."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from programs import require_program

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe", "--hide-scrollbars",
)  # fmt: skip


class Page:
    """One tab. `events` holds everything that the browser reported so far."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._last, self._rest = write, read, 0, b""
        self.session: str | None = None
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a protocol command."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._last:
            self.events.append(answer)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = os.read(self._read, 1 << 20)
            assert piece, "the browser ended"
            self._rest += piece
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def open(self, url: str) -> None:
        """Go to an address and wait until it has loaded; what happened before is forgotten."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not any(e["method"] == "Page.loadEventFired" for e in self.events):
            self.events.append(self._receive())

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, waited for where it is a promise."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, *keys: str) -> None:
        """Press keys, by their DOM names, one after the other."""
        for key in keys:
            text = {"text": key} if len(key) == 1 else {}
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def choose(self, select: str, value: str) -> None:
        """Choose an option of the <select> with that id."""
        change = f"s.value = {json.dumps(value)}, s.dispatchEvent(new Event('change'))"
        self.run(f"(s => ({change}))(document.getElementById('{select}'))")

    def texts(self, selector: str) -> list[str]:
        """The text of each element that the selector names."""
        return self.run(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)")

    def resize(self, width: int = 1280, height: int = 1000) -> None:
        """Make the tab that large."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def requests(self) -> list[str]:
        """The addresses that were asked for."""
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[dict[str, Any]]:
        """Errors, warnings and everything else on the console, refused scripts included."""
        kinds = (
            "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening",
        )  # fmt: skip
        return [e["params"] for e in self.events if e["method"] in kinds]


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A fresh browser with one empty tab."""
    program = require_program("chromium", "chromium-browser", "google-chrome")
    read_in, write_in = os.pipe()
    read_out, write_out = os.pipe()
    command = 'exec "$0" "$@" 3<&' + str(read_in) + " 4>&" + str(write_out)
    arguments = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(["bash", "-c", command, *arguments], pass_fds=(read_in, write_out), **quiet)
    os.close(read_in), os.close(write_out)
    page = Page(write_in, read_out)
    try:
        target = page.call("Target.createTarget", url="about:blank")["targetId"]
        page.session = page.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.resize()
        yield page
    finally:
        process.terminate()
        process.wait()
        os.close(write_in), os.close(read_out)


class Tags(HTMLParser):
    """The tags, attributes and texts of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(html: str) -> Tags:
    """What stands in a page or a fragment of one."""
    tags = Tags()
    tags.feed(html)
    return tags


def embedded(page: str) -> dict[str, Any]:
    """The viewer's data as the browser reads it, with the tokens of every row."""
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    for row in data["rows"]:
        row.setdefault("tokens", None) or row.update(tokens=[data["texts"][str(token)] for token in row["ids"]])
    return data
