"""The lab's corpus for selective language modeling: worked problems with noise whose token positions are known.

A document is a list of pieces (kind, token ids), each tokenised by itself, so that the kind of every token is exact.
Without noise a document is the lab's plain prompt and a worked answer without errors. Four kinds of noise come into a
document, each independently with its PROBABILITY:

    random        runs of tokens drawn uniformly from the vocabulary, between sentences
    markup        tags, entities and wiki marks with varying numbers, between sentences
    boilerplate   what surrounds a text on a page, before it, after it and between its sentences
    wrong         every number and sign in whose place the text without errors has another: a misread step, the result
                  of a slip, what later steps carry on of it, and a wrong final answer, with all digits
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from forkpoint.lab.corpus import OPENINGS, worked_text
from forkpoint.lab.mistakes import SLIPS, Errors, draw_errors
from forkpoint.lab.problem_generator import LabProblem, stream, work_out
from forkpoint.types import TokenIds

KINDS = ("clean", "random", "markup", "boilerplate", "wrong")
CLEAN, RANDOM, MARKUP, BOILERPLATE, WRONG = range(len(KINDS))

PROBABILITY = {RANDOM: 0.7, MARKUP: 0.7, BOILERPLATE: 0.6, WRONG: 0.35}
MOST_PIECES = {RANDOM: 6, MARKUP: 5, BOILERPLATE: 3}  # a document with the kind has from one to this many
RANDOM_LENGTHS = (3, 12)
ONLY_THE_LAST = 0.25  # of wrong documents: right steps, and then another number as the answer

MARKUP_TEXTS = (
    '<div class="x%d">', "</div>", '<a href="/p/%d">', "</span>", "<br>", "&nbsp;", "&#%d;", "[edit]", "[%d]",
    "{{cite %d}}",
)  # fmt: skip
MARKUP_NUMBERS = (1, 99)
BOILERPLATE_TEXTS = (
    "Copyright {year} {site}.", "All rights reserved.", "Subscribe to our newsletter.", "Home | About | Page {n}",
    "Sign in to {site}.", "Share this with {n} friends.", "We use cookies.", "{n} comments on {site}.",
    "Next page: {n}",
)  # fmt: skip
SITES = ("Sumpost", "Mathlink", "Quizbox", "Edunet")
YEARS = (2005, 2025)
PAGES = (1, 99)

_NUMBER = re.compile(r"(\d+)")
_SENTENCE_END = re.compile(r"(?<=[.?])(?=\s)")

Piece = tuple[int, TokenIds]
Encode = Callable[[str], TokenIds]
Opening = tuple[str, str]


@dataclass(frozen=True, slots=True)
class NoisyDocument:
    """A document and the kind of each token, as an index into KINDS; both have the same length.

    id="lab/train/0/7", token_ids=(50, 27, ..., 0), kinds=(0, 0, ..., 0)
    """

    id: str
    token_ids: TokenIds
    kinds: tuple[int, ...]


def noisy_documents(seed: int, tokenizer: Any, split: str = "train", start: int = 0) -> Iterator[NoisyDocument]:
    """Documents with noise about distinct problems of a split, without end, from the one of index `start` on.

    Document i is a function of (seed, split, i), and without its noise it is document i of `clean_documents`. The last
    token of every document is the tokenizer's end-of-sequence token.
    """
    encode = _encoder(tokenizer)
    special = set(tokenizer.all_special_ids)
    vocabulary = [i for i in range(len(tokenizer)) if i not in special]
    for name, problem, rng in _problems(seed, split, start):
        opening = _draw_opening(rng)
        exact = _text(problem, opening)
        written = _wrong_text(rng, problem, opening) if rng.random() < PROBABILITY[WRONG] else exact
        noise = [(kind, _noise_ids(rng, kind, encode, vocabulary)) for kind in _noise_kinds(rng)]
        pieces = _put_between(rng, _sentence_pieces(written, exact, encode), noise)
        yield _document(name, [*pieces, (CLEAN, (tokenizer.eos_token_id,))])


def clean_documents(seed: int, tokenizer: Any, split: str = "train", start: int = 0) -> Iterator[NoisyDocument]:
    """The documents of `noisy_documents` without their noise: every kind is CLEAN, every number right."""
    encode = _encoder(tokenizer)
    for name, problem, rng in _problems(seed, split, start):
        exact = _text(problem, _draw_opening(rng))
        pieces = itertools.chain.from_iterable(_sentence_pieces(exact, exact, encode))
        yield _document(name, [*pieces, (CLEAN, (tokenizer.eos_token_id,))])


def _problems(seed: int, split: str, start: int) -> Iterator[tuple[str, LabProblem, random.Random]]:
    """The name, the problem and the random numbers of each document."""
    for i, problem in enumerate(itertools.islice(stream(seed, split), start, None), start):
        yield f"lab/{split}/{seed}/{i}", problem, random.Random(f"noise/{seed}/{split}/{i}")


def _document(name: str, pieces: list[Piece]) -> NoisyDocument:
    ids = tuple(token for _, tokens in pieces for token in tokens)
    return NoisyDocument(name, ids, tuple(kind for kind, tokens in pieces for _ in tokens))


def _encoder(tokenizer: Any) -> Encode:
    """Text to token ids, without special tokens; the pieces of the corpus recur, so they are remembered."""
    return lru_cache(maxsize=2**16)(lambda text: tuple(tokenizer(text, add_special_tokens=False)["input_ids"]))


def _draw_opening(rng: random.Random) -> Opening:
    """One of the corpus's openings, and the word that goes with it before each later step."""
    opening, link, _ = rng.choices(OPENINGS, [weight for *_, weight in OPENINGS])[0]
    return opening, link


def _text(problem: LabProblem, opening: Opening, errors: Errors | None = None) -> str:
    """The plain prompt and a worked answer, without errors or with these."""
    worked = work_out(errors.steps, errors.slips) if errors else work_out(problem.steps)
    return f"Q: {problem.question}\nA:" + worked_text(problem, worked, *opening)


def _wrong_text(rng: random.Random, problem: LabProblem, opening: Opening) -> str:
    """The text with at least one error in its steps, or with nothing wrong but the final answer."""
    exact = _text(problem, opening)
    if rng.random() < ONLY_THE_LAST:
        slip = rng.choice([slip for slip in SLIPS if problem.answer + slip >= 0])
        return exact.removesuffix(f"{problem.answer}.") + f"{problem.answer + slip}."
    while (text := _text(problem, opening, draw_errors(rng, problem))) == exact:
        pass
    return text


def _sentence_pieces(written: str, exact: str, encode: Encode) -> list[list[Piece]]:
    """The pieces of each sentence of `written`: words, signs and numbers, WRONG where `exact` has another one there."""
    return [
        [
            (CLEAN if part == right else WRONG, encode(part))
            for part, right in zip(_NUMBER.split(sentence), _NUMBER.split(model), strict=True)
            if part
        ]
        for sentence, model in zip(_SENTENCE_END.split(written), _SENTENCE_END.split(exact), strict=True)
    ]


def _noise_kinds(rng: random.Random) -> list[int]:
    """The kinds of the pieces that go between a document's sentences, in their order."""
    kinds: list[int] = []
    for kind, most in MOST_PIECES.items():
        if rng.random() < PROBABILITY[kind]:
            kinds += [kind] * rng.randint(1, most)
    rng.shuffle(kinds)
    return kinds


def _noise_ids(rng: random.Random, kind: int, encode: Encode, vocabulary: Sequence[int]) -> TokenIds:
    """One piece of noise; RANDOM draws from the ids of `vocabulary`."""
    if kind == RANDOM:
        return tuple(rng.choices(vocabulary, k=rng.randint(*RANDOM_LENGTHS)))
    if kind == MARKUP:
        return encode(" " + rng.choice(MARKUP_TEXTS).replace("%d", str(rng.randint(*MARKUP_NUMBERS))))
    text = rng.choice(BOILERPLATE_TEXTS)
    return encode(f"\n{text.format(site=rng.choice(SITES), year=rng.randint(*YEARS), n=rng.randint(*PAGES))}\n")


def _put_between(rng: random.Random, sentences: list[list[Piece]], noise: list[Piece]) -> list[Piece]:
    """The sentences' pieces with each piece of noise between two of them; BOILERPLATE also before and after."""
    gaps: list[list[Piece]] = [[] for _ in range(len(sentences) + 1)]
    for kind, tokens in noise:
        edge = 0 if kind == BOILERPLATE else 1
        gaps[rng.randint(edge, len(sentences) - edge)].append((kind, tokens))
    return [*gaps[0], *(piece for pair in zip(sentences, gaps[1:], strict=True) for part in pair for piece in part)]
