"""The options of the verbs that read a corpus."""

from __future__ import annotations

import typing  # jsonargparse knows the names of cli.options here, and typing is one
from dataclasses import dataclass
from pathlib import Path

from forkpoint.cli.options import RunOptions
from forkpoint.types import UserError


@dataclass(frozen=True)
class CorpusOptions:
    """Which text, and what its tokens see."""

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
    documents: typing.Literal["isolated", "packed"] | None = None
    """isolated (rows of their own) or packed (one after the other, seeing those before) (default: isolated)"""
    length: int | None = None
    """longest row in tokens (default: 1024)"""
    stride: int | None = None
    """tokens between the beginnings of rows of one stretch; below length, rows overlap (default: length)"""


@dataclass(frozen=True)
class StoreOptions(RunOptions):
    """Which store."""

    store: Path | None = None
    """a store of `forkpoint score`; or the tokens that `train clm --data` leaves in its directory (.tokens)"""


def store_of(options: StoreOptions) -> Path:
    """The store's directory. UserError where none is named."""
    if options.store is None:
        raise UserError("name the store with --store; `forkpoint score` makes one")
    return options.store
