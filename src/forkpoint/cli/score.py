"""`forkpoint score`: what a reference model says of every token of a corpus, as a store on disk."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forkpoint.cli.corpus import context_of, documents_of, source_of
from forkpoint.cli.corpus_options import CorpusOptions
from forkpoint.cli.finish import finish
from forkpoint.cli.options import ModelOptions, RunOptions, parse
from forkpoint.cli.setup import default_directory, model_settings
from forkpoint.types import UserError


@dataclass(frozen=True)
class ScoreOptions(RunOptions, CorpusOptions, ModelOptions):
    """Score every token of a corpus with a reference model: its loss and its entropy, for selective language modeling.

    Writes a store: shards of token ids and scores, and store.json; and report.html, a page about it. Started again, the
    same command goes on where it stopped. Processes of `accelerate launch` or torchrun share the work; so do commands
    that differ in --part alone.
    """

    part: str | None = None
    """I/N: make every N-th shard, from the I-th on; whoever is last finishes the store"""
    batch_tokens: int = 8192
    """tokens in one forward pass"""
    inspect: int | None = None
    """print the document of this number (from 0) with its scores"""


OPTIONS = ScoreOptions  # a recipe checks its stages against it


def parse_options(argv: list[str]) -> ScoreOptions:
    """The options. UserError for what can be known to be wrong without a model."""
    options = parse("score", ScoreOptions, argv)
    if options.data is None and (options.inspect is None or options.out is None):
        raise UserError("name the corpus with --data: a file, a directory, or a Hub data set")
    if options.batch_tokens < 1:
        raise UserError(f"batch_tokens must be at least 1, but is {options.batch_tokens}")
    if options.inspect is not None and options.inspect < 0:
        raise UserError(f"inspect must be a document's number, from 0, but is {options.inspect}")
    _part(options.part)
    context_of(options)
    return options


def run(argv: list[str]) -> None:
    """Parse the arguments, make the store, print what it holds, or one of its documents."""
    options = parse_options(argv)
    out = options.out or default_directory("score", options)
    if options.data is None:
        _inspect(options, out)
        return
    documents = documents_of(options)
    from forkpoint.cli.progress import progress_bar
    from forkpoint.engines.loading import load_pretrained
    from forkpoint.scores.reference_losses import Part, score_corpus

    index, of = _part(options.part)
    model, tokenizer = load_pretrained(**model_settings(options) | {"device": _device(options.device)})
    with progress_bar(options.quiet, out) as progress:
        facts = score_corpus(
            documents, tokenizer, out, context_of(options), model=model, name=options.model,
            source=source_of(options, out), part=Part(index, of), batch_tokens=options.batch_tokens, progress=progress,
        )  # fmt: skip
    if facts is None:
        print(f"part {index + 1} of {of} is done; the store is finished when all parts are")
        return
    if options.inspect is not None:
        _inspect(options, out)
    finish("score", argv, out, out)


def _inspect(options: ScoreOptions, out: Path) -> None:
    """Print a document of a finished store with its scores."""
    from forkpoint.cli.score_tables import print_document
    from forkpoint.engines.identity import vocabulary_digest
    from forkpoint.engines.loading import load_tokenizer
    from forkpoint.scores.store import document_rows, open_store

    assert options.inspect is not None
    tokenizer = load_tokenizer(options.model, revision=options.revision, trust_remote_code=options.trust_remote_code)
    store = open_store(out, vocabulary_digest(tokenizer), check=False)
    print_document(document_rows(store, options.inspect), tokenizer, options.inspect)


def _part(given: str | None) -> tuple[int, int]:
    """This process's index among so many, as given or as `accelerate launch` and torchrun say."""
    if given is None:
        return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    found = re.fullmatch(r"(\d+)/(\d+)", given)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"part must be I/N, such as 1/4, with I from 1 to N, but is {given!r}")
    return int(found[1]) - 1, int(found[2])


def _device(asked: str) -> str:
    """The device; of several processes on one machine each gets its own GPU."""
    import torch

    local: Any = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if asked == "auto" and local is not None and torch.cuda.is_available() else asked
