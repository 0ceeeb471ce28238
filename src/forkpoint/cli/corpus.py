"""The verbs that read a corpus or its score store: `forkpoint score`, `select` and `dynamics`."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from forkpoint.cli.option_groups import LoadingOptions, ModelOptions, RunOptions, at_least, values_of
from forkpoint.cli.progress import progress_bar
from forkpoint.cli.setup import model_settings
from forkpoint.cli.verb import Verb
from forkpoint.types import UserError

if TYPE_CHECKING:
    from forkpoint.scores.context import Context
    from forkpoint.scores.corpora import Document

LENGTH = 1024  # of a row, where nobody says


@dataclass
class TextOptions:
    """Which text."""

    data: str | None = None
    """the corpus: a file (.jsonl, .txt, .csv, .parquet, ...), a directory of such files, or a Hub data set, streamed"""
    text_column: str = "text"
    """the column of the text; rows with input_ids are token ids already"""
    split: str = "train"
    """the Hub data set's split"""
    subset: str | None = None
    """the Hub data set's configuration"""
    data_revision: str | None = None
    """branch, tag or commit of the Hub data set"""
    whole_files: bool = False
    """a text file (.txt) is one document (default: blank lines part its documents)"""


@dataclass
class CorpusOptions(TextOptions):
    """Which text, and what its tokens see."""

    documents: Literal["isolated", "packed"] | None = None
    """isolated (rows of their own) or packed (one after the other, seeing those before) (default: isolated)"""
    length: int | None = None
    """longest row in tokens (default: 1024)"""
    stride: int | None = None
    """tokens between the beginnings of rows of one stretch; below length, rows overlap (default: length)"""


@dataclass
class ScoreOptions(RunOptions, CorpusOptions, ModelOptions):
    """Score every token of a corpus with a reference model: its loss and its entropy, for selective language modeling.

    Writes a store: shards of token ids and scores, and store.json; and report.html, a page about it. Started again, the
    same command goes on where it stopped. Processes of `accelerate launch` or torchrun share the work; so do commands
    that differ in --part alone.
    """

    part: str | None = None
    """I/N: make every N-th shard, from the I-th on; whoever is last finishes the store"""
    batch_tokens: int = at_least(1, default=8192)
    """tokens in one forward pass"""
    inspect: int | None = None
    """print the document of this number (from 0) with its scores"""


@dataclass(kw_only=True)
class StoreOptions(RunOptions):
    """Which store."""

    store: Path
    """a store of `forkpoint score`; or the tokens that `train clm --data` leaves in its directory (.tokens)"""


@dataclass(kw_only=True)
class SelectOptions(StoreOptions):
    """Write a store's rows with labels, -100 for every token that a rule leaves out: a data set for any trainer.

    Only rules that know their tokens before training: excess_loss and loss need the trained model, so `train slm`.
    """

    rule: Literal["reference_loss", "reference_entropy", "union", "intersection", "random"] = "reference_loss"
    """what tokens are ranked by: reference_loss (low), reference_entropy (low), both, or random (the control)"""
    ratio: float = 0.6
    """share of the tokens that is kept; for union and intersection that of reference_loss"""
    entropy_ratio: float | None = None
    """union, intersection: share of reference_entropy (default: ratio)"""
    scope: Literal["sequence", "corpus"] = "sequence"
    """what is ranked together: each row, or all of the store"""
    seed: int = 0
    """seed of the rule random, and of the choice between equal scores"""


@dataclass(kw_only=True)
class DynamicsOptions(StoreOptions, LoadingOptions):
    """Class the tokens of a store by how their loss moves over checkpoints (Rho-1, arXiv 2404.07965).

    Writes the losses, documents.jsonl, summary.json and report.html, a page with the classes' table and curves and
    documents whose tokens are coloured by class or score. Started again, the same command goes on where it stopped.
    """

    checkpoints: list[str]
    """models in the order of training, or a directory of them, such as a training's snapshots/; repeatable"""
    limit: int = at_least(1, default=2000)
    """only the first N rows of the store"""
    shown: int = at_least(1, default=50)
    """rows on the page"""


def documents_of(options: TextOptions) -> Iterator[Document]:
    """The documents of the corpus. UserError where it cannot be opened."""
    from forkpoint.scores.corpora import read_corpus

    names = ("text_column", "split", "subset", "whole_files")
    named = {name: getattr(options, name) for name in names}
    return read_corpus(str(options.data), revision=options.data_revision, **named)


def context_of(options: CorpusOptions) -> Context:
    """The context policy of the options. UserError for one that gives no rows."""
    from forkpoint.scores.context import Context, check_context

    length = LENGTH if options.length is None else options.length
    context = Context(options.documents or "isolated", length, length if options.stride is None else options.stride)
    check_context(context)
    return context


def source_of(options: TextOptions, out: Path) -> Mapping[str, Any]:
    """What the corpus is, so that a run is not resumed on another one. UserError where `out` lies in it."""
    from forkpoint.scores.corpora import corpus_files

    data = str(options.data)
    path = Path(data).expanduser()
    if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
        raise UserError(f"{out} lies in the corpus {data}; choose a directory outside of it with --out")
    try:
        size = sum(Path(file).stat().st_size for file in corpus_files(data))
    except OSError as error:
        raise UserError(f"cannot read {data}: {error.strerror}") from error
    return values_of(options, TextOptions) | {"bytes": size}


def check_score(options: ScoreOptions) -> None:
    """UserError for what can be known to be wrong without a model."""
    if options.data is None and (options.inspect is None or options.out is None):
        raise UserError("name the corpus with --data: a file, a directory, or a Hub data set")
    if options.inspect is not None and options.inspect < 0:
        raise UserError(f"inspect must be a document's number, from 0, but is {options.inspect}")
    _part(options.part)
    context_of(options)


def score(options: ScoreOptions, out: Path) -> list[Path] | None:
    """Make the store, or print one of its documents."""
    if options.data is None:
        _print_document(options, out)
        return None
    documents = documents_of(options)
    from forkpoint.engines.loading import load_pretrained
    from forkpoint.scores.reference_losses import Part, score_corpus

    index, of = _part(options.part)
    model, tokenizer = load_pretrained(**model_settings(options) | {"device": _device(options.device)})
    with progress_bar(options.quiet) as progress:
        facts = score_corpus(
            documents, tokenizer, out, context_of(options), model=model, name=options.model,
            source=source_of(options, out), part=Part(index, of), batch_tokens=options.batch_tokens, progress=progress,
        )  # fmt: skip
    if facts is None:
        print(f"part {index + 1} of {of} is done; the store is finished when all parts are")
        return None
    if options.inspect is not None:
        _print_document(options, out)
    return [out]


def _print_document(options: ScoreOptions, out: Path) -> None:
    """Print a document of a finished store, a token a line with its scores in nats."""
    from forkpoint.engines.identity import vocabulary_digest
    from forkpoint.engines.loading import load_tokenizer
    from forkpoint.report.content import Table
    from forkpoint.report.terminal import print_table
    from forkpoint.scores.store import SCORES, document_rows, open_store

    number = options.inspect
    assert number is not None
    tokenizer = load_tokenizer(options.model, revision=options.revision, trust_remote_code=options.trust_remote_code)
    lines: list[tuple[str, ...]] = []
    for scored, part in document_rows(open_store(out, vocabulary_digest(tokenizer), check=False), number):
        for i in range(part.start, part.stop):
            values = [scored.scores[name][i] if scored.scores else math.nan for name in SCORES]
            cells = ("" if math.isnan(value) else f"{value:.3f}" for value in values)
            lines.append((str(len(lines)), repr(tokenizer.decode([int(scored.row.ids[i])])), *cells))
    print_table(Table(f"document {number}", ("position", "token", *SCORES), lines, left=2))


def _part(text: str | None) -> tuple[int, int]:
    """This process's index among so many, as the option or as `accelerate launch` and torchrun say."""
    if text is None:
        return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"part must be I/N, such as 1/4, with I from 1 to N, but is {text!r}")
    return int(match[1]) - 1, int(match[2])


def _device(device: str) -> str:
    """The device; of several processes on one machine each gets its own GPU."""
    import torch

    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if device == "auto" and rank is not None and torch.cuda.is_available() else device


def select(options: SelectOptions, out: Path) -> list[Path]:
    """Write the labels."""
    from forkpoint.scores.store import open_store
    from forkpoint.training.selection_labels import export_labels
    from forkpoint.weights.rules import Rule

    rule, store = Rule(options.rule, options.ratio, options.entropy_ratio), open_store(options.store)
    with progress_bar(options.quiet) as progress:
        export_labels(store, rule, out, scope=options.scope, seed=options.seed, progress=progress)
    return [out]


def dynamics(options: DynamicsOptions, out: Path) -> list[Path]:
    """Compute the losses and the classes."""
    from forkpoint.engines.loading import load_pretrained
    from forkpoint.scores.checkpoint_losses import checkpoints_of, study
    from forkpoint.scores.store import open_store

    load = partial(load_pretrained, revision=None, **values_of(options, LoadingOptions))
    checkpoints = checkpoints_of([Path(path) for path in options.checkpoints])
    store = open_store(options.store)
    with progress_bar(options.quiet) as progress:
        study(load, checkpoints, store, out, limit=options.limit, shown=options.shown, progress=progress)
    return []


VERBS = (
    Verb("score", ScoreOptions, score, check_score),
    Verb("select", SelectOptions, select),
    Verb("dynamics", DynamicsOptions, dynamics),
)
