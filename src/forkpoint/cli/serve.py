"""`forkpoint serve`: decoding strategies in front of an OpenAI-compatible server, as one."""

from __future__ import annotations

import logging
import os
import socket
import sys
from dataclasses import dataclass

from forkpoint.cli.option_groups import at_least, values_of
from forkpoint.cli.verb import Verb
from forkpoint.redaction import shown_address, without_secrets
from forkpoint.types import UserError

KEY = "FORKPOINT_API_KEY"
LOCAL = ("127.0.0.1", "::1", "localhost")
GRACE = 30  # seconds that answers under way have after Ctrl-C


@dataclass
class ServeOptions:
    """Answer OpenAI's API by decoding strategies over an OpenAI-compatible server that takes token ids (vLLM does).

    The `model` of a request names the strategy: greedy, cot-decoding:k=10, self-consistency:n=10,temperature=0.7, ...
    Clients must send the key in FORKPOINT_API_KEY, where that is set; the upstream's is read from OPENAI_API_KEY.
    """

    upstream: str | None = None
    """address of the server that generates: http://HOST:PORT/v1"""
    model: str | None = None
    """where its model's tokenizer is: a model directory or a Hub id, or `lab`"""
    served_model: str | None = None
    """the model's name at the upstream (default: --model)"""
    revision: str | None = None
    """branch, tag or commit of a Hub model"""
    trust_remote_code: bool = False
    """run tokenizer code that the Hub repository brings along"""
    host: str = "127.0.0.1"
    """address to listen at; 0.0.0.0 lets others in"""
    port: int = 8100
    """port to listen at; 0 takes a free one"""
    concurrency: int = at_least(1, default=64)
    """completions that one request may have in flight at the upstream"""
    running: int = at_least(1, default=64)
    """requests worked on at a time"""
    waiting: int = at_least(0, default=256)
    """requests that may wait for that; one more is answered 503"""
    max_tokens: int = at_least(1, default=256)
    """longest response of a request that names none"""
    max_paths: int = at_least(1, default=128)
    """most paths that one request may decode"""
    keep_alive: float = 10.0
    """seconds between the comments of a stream whose strategy is at work"""
    quiet: bool = False
    """no line a request on stderr"""


def check(options: ServeOptions) -> None:
    """UserError for what is missing or out of range."""
    if options.upstream is None:
        raise UserError("serve needs the server that generates: --upstream http://HOST:PORT/v1")
    if options.model is None:
        raise UserError("serve needs the model's tokenizer: --model NAME, a model directory or a Hub id")
    if not options.keep_alive > 0:
        raise UserError(f"--keep_alive must be above 0, but is {options.keep_alive}")
    if not 0 <= options.port < 2**16:
        raise UserError(f"--port must be between 0 and 65535, but is {options.port}")


def serve(options: ServeOptions) -> None:
    """Take the port, ask the upstream what it can do, and serve until interrupted."""
    upstream, model = str(options.upstream), str(options.model)
    try:
        from forkpoint.engines.remote.openai_engine import load_openai
        from forkpoint.serving.app import create_app, serve_until_stopped, whats_wrong
    except ModuleNotFoundError as error:
        raise UserError(f"serve needs the package {error.name}: pip install 'forkpoint[serve]'") from None
    from forkpoint.serving.settings import Settings

    listening = _listen(options.host, options.port)
    engine = load_openai(
        model, upstream, served_model=options.served_model, concurrency=options.concurrency,
        revision=options.revision, trust_remote_code=options.trust_remote_code,
    )  # fmt: skip
    own = {"most_paths": options.max_paths, "key": os.environ.get(KEY) or None}
    settings = Settings(**values_of(options, Settings, **own, upstream=lambda: whats_wrong(upstream)))
    _log_requests(options.quiet)
    if options.host not in LOCAL and settings.key is None:
        print(f"forkpoint: anyone who reaches {options.host} may use this server; set {KEY} for a key", file=sys.stderr)
    host, port = listening.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
    print(f"forkpoint: {address} answers for {shown_address(upstream)}", flush=True)
    serve_until_stopped(create_app(engine, settings), listening, GRACE)


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UserError where the address is taken or none of this machine's."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise UserError(f"cannot listen at {host}, port {port}: {error.strerror or error}") from None


class PublicFormatter(logging.Formatter):
    """Leaves secrets out, also of tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, or lines."""
        return without_secrets(super().format(record))


def _log_requests(quiet: bool) -> None:
    """forkpoint's own log on stderr, a line a request unless quiet; other libraries keep theirs to themselves."""
    handler = logging.StreamHandler()
    handler.setFormatter(PublicFormatter("%(asctime)s %(message)s"))
    log = logging.getLogger("forkpoint")
    log.addHandler(handler)
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    log.propagate = False


VERBS = (Verb("serve", ServeOptions, serve, check),)
