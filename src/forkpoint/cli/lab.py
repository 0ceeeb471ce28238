"""`forkpoint lab ...`: the lab's corpora with noise, worked solutions, and the embedded model made again."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forkpoint.cli.option_groups import RunOptions, at_least
from forkpoint.cli.progress import progress_bar
from forkpoint.cli.verb import Verb
from forkpoint.files import SUMMARY, claimed, to_json, write_rows, write_whole
from forkpoint.lab import CLEAN_CORPUS, CORPUS, HELD_OUT, MODEL_DIR, SOLUTIONS
from forkpoint.types import Progress, UserError

if TYPE_CHECKING:
    from forkpoint.lab.noise import NoisyDocument

IDENTITY = ("documents", "clean_documents", "held_out_documents", "seed")
DOCUMENTS_PER_REPORT = 500  # between two moves of the progress bar


@dataclass
class LabCorpusOptions(RunOptions):
    """Make the lab's corpus with noise, for selective language modeling.

    Writes corpus.jsonl (documents with noise, and the kind of every token), clean.jsonl (for a reference model),
    held-out.jsonl (clean, of the test split), summary.json, and report.html, a page about them, in the tokens of the
    embedded model. No two documents share a question.
    """

    documents: int = at_least(1, default=60_000)
    """documents with noise"""
    clean_documents: int = at_least(1, default=6_000)
    """documents without noise, about other questions"""
    held_out_documents: int = at_least(1, default=1_000)
    """documents without noise, about questions of the test split"""
    seed: int = 0
    """seed of the problems and of the noise"""


@dataclass
class LabTrainOptions:
    """Train the lab's tokenizer and model from nothing, with the recipe of the shipped one."""

    out: Path = Path("runs/lab-model")
    """directory for the model and its tokenizer"""
    steps: int | None = at_least(1, default=None)
    """optimizer steps (default: the shipped model's)"""
    seed: int = 0
    """seed of the corpus, the initial weights and the order of batches"""


@dataclass
class LabSolutionsOptions:
    """Write training problems of the lab with a right and a wrong solution, worked out in text, for any model.

    solutions.jsonl has TRL's columns prompt, chosen and rejected; `forkpoint pairs --trl` reads it.
    """

    out: Path = Path("runs/lab-solutions")
    """directory for the file"""
    problems: int = at_least(1, default=800)
    """how many"""
    seed: int = 0
    """seed of the problems and of the errors"""


def write_solutions(options: LabSolutionsOptions) -> None:
    """Write the file, print where it is."""
    from forkpoint.lab.corpus import solutions

    check_free(options)
    options.out.mkdir(parents=True, exist_ok=True)
    write_rows(options.out / SOLUTIONS, islice(solutions(options.seed), options.problems))
    print(options.out / SOLUTIONS)


def train(options: LabTrainOptions) -> None:
    """Train, reporting on stderr, and print where the model is."""
    check_free(options)
    from forkpoint.lab.train import LabRecipe, train_lab_model

    recipe = LabRecipe(seed=options.seed, **({} if options.steps is None else {"steps": options.steps}))
    train_lab_model(options.out, recipe, lambda line: print(line, file=sys.stderr, flush=True))
    print(options.out)


def check_free(options: LabTrainOptions | LabSolutionsOptions) -> None:
    """UserError for a directory that holds files."""
    if options.out.exists() and any(options.out.iterdir()):
        raise UserError(f"{options.out} is not empty; choose another directory with --out")


def write_corpora(options: LabCorpusOptions, out: Path) -> list[Path]:
    """Write the three files and their summary."""
    from transformers import AutoTokenizer

    from forkpoint.lab.noise import KINDS, clean_documents, noisy_documents

    tokenizer, seed, first = AutoTokenizer.from_pretrained(MODEL_DIR), options.seed, options.clean_documents
    sources = {  # clean and noisy ones are of one stream of distinct questions: no question is in both
        CORPUS: (noisy_documents(seed, tokenizer, start=first), options.documents),
        CLEAN_CORPUS: (clean_documents(seed, tokenizer), options.clean_documents),
        HELD_OUT: (clean_documents(seed, tokenizer, split="test"), options.held_out_documents),
    }
    identity = {"verb": "lab corpus", **{name: getattr(options, name) for name in IDENTITY}}
    with claimed(out, identity), progress_bar(options.quiet) as progress:
        files = {
            name: _write_corpus(out / name, islice(source, size), size, KINDS, progress)
            for name, (source, size) in sources.items()
        }
        summary = {"verb": "lab corpus", "seed": seed, "kinds": KINDS, "files": files}
        write_whole(out / SUMMARY, to_json(summary, indent=2) + "\n")
    return [out / CORPUS]


def _write_corpus(
    path: Path, documents: Iterable[NoisyDocument], size: int, kinds: Sequence[str], progress: Progress | None
) -> dict[str, Any]:
    """Write `size` documents, a line each, and return how many documents and tokens they are, in all and by kind."""
    tokens: Counter[int] = Counter()
    having: Counter[int] = Counter()

    def lines() -> Iterator[str]:
        for done, document in enumerate(documents, 1):
            tokens.update(document.kinds)
            having.update(set(document.kinds))
            if progress and (done % DOCUMENTS_PER_REPORT == 0 or done == size):
                progress(path.name, done, size, tokens.total())
            of_noise = {"kinds": document.kinds} if path.name == CORPUS else {}
            yield to_json({"id": document.id, "input_ids": document.token_ids, **of_noise}) + "\n"

    write_whole(path, lines())
    return {
        "documents": size,
        "tokens": tokens.total(),
        "tokens_by_kind": {name: tokens[code] for code, name in enumerate(kinds)},
        "documents_by_kind": {name: having[code] for code, name in enumerate(kinds)},
    }


VERBS = (
    Verb("lab corpus", LabCorpusOptions, write_corpora),
    Verb("lab solutions", LabSolutionsOptions, write_solutions),
    Verb("lab train", LabTrainOptions, train),
)
