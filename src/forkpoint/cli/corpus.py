"""From the options of a corpus to what they name: documents, and the context of their tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forkpoint.cli.corpus_options import CorpusOptions
from forkpoint.types import UserError

if TYPE_CHECKING:
    from forkpoint.scores.context import Context
    from forkpoint.scores.corpora import Document

LENGTH = 1024  # of a row, where nobody says


def documents_of(options: CorpusOptions) -> Iterator[Document]:
    """The documents of the corpus. UserError where it cannot be opened."""
    from forkpoint.scores.corpora import read_corpus

    assert options.data is not None
    return read_corpus(
        options.data, text_column=options.text_column, split=options.split, subset=options.subset,
        revision=options.data_revision, whole_files=options.whole_files,
    )  # fmt: skip


def context_of(options: CorpusOptions) -> Context:
    """The context policy of the options. UserError for one that gives no rows."""
    from forkpoint.scores.context import Context, check_context

    length = LENGTH if options.length is None else options.length
    context = Context(options.documents or "isolated", length, length if options.stride is None else options.stride)
    check_context(context)
    return context


def expected_context(options: CorpusOptions) -> dict[str, Any]:
    """The fields of the context that the options name, for a store that should have them."""
    names = ("documents", "length", "stride")
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def source_of(options: CorpusOptions, out: Path) -> Mapping[str, Any]:
    """What the corpus is, so that a run is not resumed on another one. UserError where `out` lies in it."""
    from forkpoint.scores.corpora import corpus_files

    assert options.data is not None
    path = Path(options.data).expanduser()
    if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
        raise UserError(f"{out} lies in the corpus {options.data}; choose a directory outside of it with --out")
    try:
        size = sum(Path(file).stat().st_size for file in corpus_files(options.data))
    except OSError as error:
        raise UserError(f"cannot read {options.data}: {error.strerror}") from error
    return {
        "data": options.data, "text_column": options.text_column, "split": options.split, "subset": options.subset,
        "data_revision": options.data_revision, "whole_files": options.whole_files, "bytes": size,
    }  # fmt: skip
