"""Names, passwords and keys of servers stand in nothing that comes out."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from completions_server import Behaviour, CompletionsServer
from serving_tools import get, post, serving

from forkpoint.cli import main
from forkpoint.cli.serve import PublicFormatter
from forkpoint.engines.remote import openai_calls
from forkpoint.engines.remote.openai_calls import RefusedError, ServerError
from forkpoint.engines.remote.openai_engine import load_openai
from forkpoint.redaction import public, shown_address, without_secrets
from forkpoint.serving.app import create_app, whats_wrong
from forkpoint.serving.settings import Settings

SECRETS = ("hunter2", "alice", "qwerty77", "zebra-key-99")


@pytest.fixture
def upstream(lab, monkeypatch):
    """A server that repeats what it was sent, its address with a name, a password and a key, and another key."""
    monkeypatch.setenv("OPENAI_API_KEY", "zebra-key-99")
    monkeypatch.setattr(openai_calls, "RETRIES", 0)
    monkeypatch.setattr(openai_calls, "AT_FIRST", {"max_retries": 0, "timeout": 20.0})
    with CompletionsServer(lab, Behaviour(repeats=True)) as server:
        yield server, server.url.replace("//", "//alice:hunter2@") + "?api_key=qwerty77"


def assert_clean(text: object) -> None:
    assert [secret for secret in SECRETS if secret in str(text)] == []


@pytest.mark.parametrize(("text", "shown"), [
    ("at http://me:pw@host:80/v1?a=1 it", "at http://***@host:80/v1?a=1 it"),
    ("http://me:p@w@host/x http://b@c", "http://***@host/x http://***@c"),
    ("http://me:p/w@host/x", "http://***@host/x"),
    ("https://h/v1?api_key=X&n=2&access_token=Y#Z", "https://h/v1?api_key=***&n=2&access_token=***#Z"),
    ("Authorization: Basic YWxpY2U6aHVudGVy", "Authorization: Basic ***"),
    ("{'Authorization': 'Bearer abcdefgh'}", "{'Authorization': 'Bearer ***'}"),
    (f"--engine-args '{{\"hf_token\": \"hf_{'a' * 34}\"}}'", "--engine-args '{\"hf_token\": \"***\"}'"),
    ("the key is zebra-key-99.", "the key is ***."),
    ("hf://datasets/a/b@main/x ./hf_cache_of_this me@host.org 3 tokens?", None),
    ("http://h:8000/v1/model@main?tokenizer=llama&max_tokens=100", None),
])  # fmt: skip
def test_what_is_secret_in_a_text(text, shown, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "zebra-key-99")
    assert without_secrets(text) == (text if shown is None else shown)
    assert public({"a": [text]}) == {"a": [text if shown is None else shown]}
    monkeypatch.setenv("OPENAI_API_KEY", 'a"quoted\\key')
    assert public({"a": 'the a"quoted\\key'}) == {"a": "the ***"}
    assert shown_address("http://a:b@host/v1/?token=x") == "http://***@host/v1"


def test_a_run_keeps_none(upstream, tmp_path, capsys, caplog):
    server, address = upstream
    recipe = tmp_path / "two.yaml"
    stages = "stages: {e: {verb: eval, task: lab, limit: 2, strategy: [greedy], engine: openai, "
    recipe.write_text(f"out: {tmp_path / 'recipe'}\n{stages}base_url: '{address}'}}}}\n")
    eval_ = ["eval", "--engine", "openai", "--task", "lab", "--limit", "2", "--strategy", "greedy"]
    codes = [
        main([*eval_, "--base-url", address, "--out", str(tmp_path / "out")]),
        main([*eval_, "--base-url", address, "--out", str(tmp_path / "out")]),
        main(["run", str(recipe)]),
        main(["run", str(recipe)]),
        main(["run", str(recipe), "--dry-run"]),
    ]
    assert codes == [0] * 5
    server.does.fails_after = 0
    codes = [main([*eval_, "--base-url", one, "--out", str(tmp_path / "no")]) for one in (address, address[5:])]
    codes.append(main([*eval_, "--base-url", "http://alice:hunter2@127.0.0.1:1/v1", "--out", str(tmp_path / "no")]))
    assert codes == [2] * 3
    said = capsys.readouterr()
    assert "done before" in said.out
    assert "out of order" in said.err
    assert_clean([said.out, said.err, caplog.text])
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path != recipe]
    assert {"config.json", "results.json", "report.html", "command.json", "recipe.json"} <= {p.name for p in files}
    for path in files:
        assert_clean(path.read_text(errors="replace"))


def test_a_server_tells_none(upstream, caplog):
    server, address = upstream
    with caplog.at_level(logging.INFO):
        there = [address]
        app = create_app(load_openai("lab", address), Settings(upstream=lambda: whats_wrong(there[0])))
        body = {"model": "greedy", "prompt": "Q: 1 + 1 = ?\nA:", "max_tokens": 5}
        with serving(app) as url:
            assert get(f"{url}/health")[0] == 200  # name, password and key were sent
            answers = [post(f"{url}/v1/completions", body)]
            server.does.fails_after = 0
            answers += [post(f"{url}/v1/completions", body) for _ in range(2)]
            there[0] = address.replace(str(server.server_port), "1")
            answers += [get(f"{url}/health"), get(f"{url}/v1/models")]
    assert [status for status, *_ in answers] == [200, 502, 502, 503, 200]
    assert "Basic YWxpY2U6aHVudGVyMg==" in server.keys  # the login goes to the server, and no further
    assert "YWxpY2U6" not in str(answers)
    assert "out of order" in json.dumps(answers[1][-1])
    assert_clean([*(answer[-1] for answer in answers), *(record.getMessage() for record in caplog.records)])
    for odd in ("http://alice:hunter2@[::1", "http://alice:hunter2@127.0.0.1:port/v1", "http://alice:hunter2@/v1"):
        assert_clean(wrong := whats_wrong(odd))
        assert wrong


def test_errors_and_tracebacks_that_hold_an_address():
    for error in (RefusedError("http://alice:hunter2@h/v1", 400, "no"), ServerError("http://alice:hunter2@h/v1")):
        try:
            raise error
        except Exception as caught:
            record = logging.LogRecord("x", logging.ERROR, str(Path()), 1, "%s", (error,), (None, caught, None))
        assert_clean(PublicFormatter().format(record))
