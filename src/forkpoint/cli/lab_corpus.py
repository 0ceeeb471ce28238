"""`forkpoint lab corpus`: the lab's corpus with noise, a clean one, and held-out documents, as token ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forkpoint.cli.finish import finish
from forkpoint.cli.options import RunOptions, parse
from forkpoint.cli.setup import default_directory
from forkpoint.files import SUMMARY, claimed, to_json, write_whole
from forkpoint.lab import CLEAN_CORPUS, CORPUS, HELD_OUT
from forkpoint.types import Progress, UserError

if TYPE_CHECKING:
    from forkpoint.lab.noise import NoisyDocument

DOCUMENTS_PER_REPORT = 500  # between two moves of the progress bar

Summary = dict[str, Any]


@dataclass
class LabCorpusOptions(RunOptions):
    """Make the lab's corpus with noise, for selective language modeling.

    Writes corpus.jsonl (documents with noise, and the kind of every token), clean.jsonl (for a reference model),
    held-out.jsonl (clean, of the test split), summary.json, and report.html, a page about them, in the tokens of the
    embedded model. No two documents share a question.
    """

    documents: int = 60_000
    """documents with noise"""
    clean_documents: int = 6_000
    """documents without noise, about other questions"""
    held_out_documents: int = 1_000
    """documents without noise, about questions of the test split"""
    seed: int = 0
    """seed of the problems and of the noise"""


OPTIONS = LabCorpusOptions  # a recipe checks its stages against it


def run(argv: list[str]) -> None:
    """Parse the arguments, write the three files and their summary, print what they hold."""
    options = parse("lab corpus", LabCorpusOptions, argv)
    sizes = {name: getattr(options, name) for name in ("documents", "clean_documents", "held_out_documents")}
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"--{name} must be at least 1, but is {size}")
    from forkpoint.cli.progress import progress_bar

    out = options.out or default_directory("lab corpus", options)
    identity = {"verb": "lab corpus", **sizes, "seed": options.seed}
    with claimed(out, identity), progress_bar(options.quiet, out) as progress:
        _write(options, out, progress)
    finish("lab corpus", argv, out, out / CORPUS)


def _write(options: LabCorpusOptions, out: Path, progress: Progress | None) -> None:
    """Write the files and their summary."""
    from transformers import AutoTokenizer

    from forkpoint.lab import MODEL_DIR
    from forkpoint.lab.noise import KINDS, clean_documents, noisy_documents

    tokenizer, seed, first = AutoTokenizer.from_pretrained(MODEL_DIR), options.seed, options.clean_documents
    sources = {  # clean and noisy ones are of one stream of distinct questions: no question is in both
        CORPUS: (noisy_documents(seed, tokenizer, start=first), options.documents),
        CLEAN_CORPUS: (clean_documents(seed, tokenizer), options.clean_documents),
        HELD_OUT: (clean_documents(seed, tokenizer, split="test"), options.held_out_documents),
    }
    files = {
        name: _write_file(out / name, islice(source, size), size, KINDS, progress)
        for name, (source, size) in sources.items()
    }
    summary = {"verb": "lab corpus", "seed": seed, "kinds": KINDS, "files": files}
    write_whole(out / SUMMARY, to_json(summary, indent=2) + "\n")


def _write_file(
    path: Path, documents: Iterable[NoisyDocument], size: int, kinds: Sequence[str], progress: Progress | None
) -> Summary:
    """Write `size` documents, a line each, and return how many documents and tokens they are, in all and by kind."""
    tokens: Counter[int] = Counter()
    having: Counter[int] = Counter()

    def lines() -> Iterator[str]:
        for done, document in enumerate(documents, 1):
            tokens.update(document.kinds)
            having.update(set(document.kinds))
            if progress and (done % DOCUMENTS_PER_REPORT == 0 or done == size):
                progress(path.name, done, size, tokens.total())
            yield _line(document, with_kinds=path.name == CORPUS)

    write_whole(path, lines())
    return {
        "documents": size,
        "tokens": tokens.total(),
        "tokens_by_kind": {name: tokens[code] for code, name in enumerate(kinds)},
        "documents_by_kind": {name: having[code] for code, name in enumerate(kinds)},
    }


def _line(document: NoisyDocument, *, with_kinds: bool) -> str:
    row: dict[str, Any] = {"id": document.id, "input_ids": document.token_ids}
    return to_json({**row, "kinds": document.kinds} if with_kinds else row) + "\n"
