"""The lab's word problems: questions with exact solutions, generated without end.

A problem is a short chain of events around one quantity. Its solution is a list of arithmetic steps that refer to
each other, so that an error in one step is carried on by the later ones. A step knows the wording it was read from.
The split is a property of the question's text alone: a question belongs to the held-out eighth or to training,
whatever seed produced it.

Knows nothing of models or tokens.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from forkpoint.types import Problem, UserError

LEVELS = (1, 2, 3, 4)
LEVEL_WEIGHTS = (1, 2, 3, 3)
HELD_OUT_ONE_IN = 8
DEFAULT_TEST_SIZE = 1000
LARGEST_VALUE = 300

NAMES = (
    "Ada", "Ben", "Cleo", "Dev", "Emil", "Fay", "Gus", "Hana", "Ivan", "Jun", "Kofi", "Lena", "Mia", "Nils", "Omar",
    "Pia", "Rosa", "Sam", "Tom", "Zoe",
)  # fmt: skip
ITEMS = (
    "apples", "beads", "books", "buttons", "cards", "coins", "eggs", "keys", "marbles", "nuts", "pens", "plums",
    "shells", "stamps", "stones", "tickets",
)  # fmt: skip
EVENTS = {  # kind of event: its wordings by name
    "add": {"buys": "{n} buys {x} more.", "is given": "{o} gives {n} {x} {i}.", "finds": "{n} finds {x} {i}."},
    "take": {"loses": "{n} loses {x} of them.", "gives": "{n} gives {x} {i} to {o}.", "sells": "{n} sells {x} {i}."},
    "pack": {"boxes": "{n} buys {k} boxes with {m} {i} each.", "friends give": "{k} friends give {n} {m} {i} each."},
    "share": {"to friends": "{n} gives {k} friends {m} {i} each.", "bags": "{n} sells {k} bags with {m} {i} each."},
}
TIMES_EVENTS = {2: "doubles", 3: "triples"}  # factor: the wording's name and verb
MORE_THAN, TIMES_AS_MANY = "more than", "times as many"  # the wordings of an opening
QUESTIONS = ("How many {i} does {n} have now?", "How many {i} does {n} have in the end?")


@dataclass(frozen=True, slots=True)
class Ref:
    """The result of an earlier step, by index."""

    step: int


Operand = int | Ref


@dataclass(frozen=True, slots=True)
class Step:
    """One line of arithmetic, `left op right` with op one of + - *, and the question's wording that asks for it."""

    left: Operand
    op: str
    right: Operand
    wording: str


@dataclass(frozen=True, slots=True)
class LabProblem:
    """A question, the steps that solve it, and the exact answer. `level` is the number of steps."""

    question: str
    start: int
    steps: tuple[Step, ...]
    answer: int

    @property
    def level(self) -> int:
        return len(self.steps)

    @property
    def wordings(self) -> tuple[str, ...]:
        """The wordings that its steps were read from, each once, in order."""
        return tuple(dict.fromkeys(step.wording for step in self.steps))


@dataclass(frozen=True, slots=True)
class WorkedStep:
    """A step as somebody wrote it down: its operands' values and the result, right or not."""

    left: int
    op: str
    right: int
    result: int


def value_of(operand: Operand, results: Sequence[int]) -> int:
    """The number itself, or the result that it refers to."""
    return results[operand.step] if isinstance(operand, Ref) else operand


def work_out(steps: Sequence[Step], slips: Sequence[int] | None = None) -> list[WorkedStep]:
    """The steps with their values; `slips[i]` is added to the result of step i and carried on by the later steps."""
    worked: list[WorkedStep] = []
    for i, step in enumerate(steps):
        left, right = (value_of(operand, [w.result for w in worked]) for operand in (step.left, step.right))
        exact = {"+": left + right, "-": left - right, "*": left * right}[step.op]
        worked.append(WorkedStep(left, step.op, right, exact + (slips[i] if slips else 0)))
    return worked


def is_held_out(question: str) -> bool:
    """Whether a question belongs to the test split, by a hash of its text."""
    digest = hashlib.blake2b(question.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % HELD_OUT_ONE_IN == 0


def _opening(rng: random.Random, level: int) -> tuple[str, int, list[Step], int]:
    """The first sentence, its number, its steps (none or one), and the value that the chain starts from."""
    start = rng.randint(3, 40)
    if level > 1 and rng.random() < 0.3:
        other = f"{{o}} has {start} {{i}}. {{n}} has"
        if rng.random() < 0.5:
            more = rng.randint(2, 30)
            return f"{other} {more} more than {{o}}.", start, [Step(start, "+", more, MORE_THAN)], start + more
        times = rng.randint(2, 3)
        return f"{other} {times} times as many.", start, [Step(start, "*", times, TIMES_AS_MANY)], start * times
    return f"{{n}} has {start} {{i}}.", start, [], start


def _event(rng: random.Random, value: int, done: int, room: int) -> tuple[str, list[Step]]:
    """One event and its steps: `value` is the quantity so far, `done` the steps before, `room` how many may follow."""
    here: Operand = Ref(done - 1) if done else value
    one_step, two_steps = ("add", "add", "take", "take", "times"), ("add", "take", "times", "pack", "share")
    kind = rng.choice(two_steps if room > 1 else one_step)
    op = "+" if kind in ("add", "pack") else "-"
    if kind == "times":
        by = rng.choice((2, 3))
        return f"Then the number of {{i}} {TIMES_EVENTS[by]}.", [Step(here, "*", by, TIMES_EVENTS[by])]
    if kind in ("pack", "share"):
        k, m = rng.randint(2, 5), rng.randint(2, 8)
        wording, text = rng.choice(list(EVENTS[kind].items()))
        steps = [Step(k, "*", m, wording), Step(here, op, Ref(done), wording)]
        return text.replace("{k}", str(k)).replace("{m}", str(m)), steps
    x = rng.randint(2, 30)
    wording, text = rng.choice(list(EVENTS[kind].items()))
    return text.replace("{x}", str(x)), [Step(here, op, x, wording)]


def _draw(rng: random.Random, level: int) -> LabProblem | None:
    """One attempt at a problem of a level; None where a value left the range [0, LARGEST_VALUE]."""
    text, start, steps, value = _opening(rng, level)
    sentences = [text]
    while len(steps) < level:
        text, more = _event(rng, value, len(steps), level - len(steps))
        sentences.append(text)
        steps += more
        values = [w.result for w in work_out(steps)]
        value = values[-1]
        if min(values) < 1 or max(values) > LARGEST_VALUE:
            return None
    sentences.append(rng.choice(QUESTIONS))
    name, other = rng.sample(NAMES, 2)
    question = " ".join(sentences).format(n=name, o=other, i=rng.choice(ITEMS))
    return LabProblem(question, start, tuple(steps), value)


def generate_problem(rng: random.Random, level: int | None = None) -> LabProblem:
    """A random problem of the given level (1 to 4 steps), or of a level drawn by LEVEL_WEIGHTS."""
    chosen = level or rng.choices(LEVELS, LEVEL_WEIGHTS)[0]
    while (problem := _draw(rng, chosen)) is None:
        pass
    return problem


def stream(seed: int, split: str, level: int | None = None) -> Iterator[LabProblem]:
    """Distinct problems of a split ("train" or "test") without end; the same for the same arguments."""
    if split not in ("train", "test"):
        raise UserError(f"the lab has the splits train and test, not {split!r}")
    rng = random.Random(f"{seed}/{split}/{level}")
    seen: set[str] = set()
    while True:
        problem = generate_problem(rng, level)
        if is_held_out(problem.question) == (split == "test") and problem.question not in seen:
            seen.add(problem.question)
            yield problem


def load_problems(split: str = "test", limit: int | None = None, seed: int = 0) -> list[Problem]:
    """The first `limit` (default 1000) problems of a split as task problems with stable ids."""
    count = DEFAULT_TEST_SIZE if limit is None else limit
    return [
        Problem(f"lab/{split}/{seed}/{i}", p.question, str(p.answer), "number", wordings=p.wordings)
        for i, p in enumerate(islice(stream(seed, split), count))
    ]


def find_problem(problem_id: str) -> LabProblem:
    """The problem that `load_problems` gave this id."""
    _, split, seed, index = problem_id.split("/")
    return _first_problems(2 ** max(10, int(index).bit_length()), split, int(seed))[int(index)]


@lru_cache(maxsize=8)
def _first_problems(count: int, split: str, seed: int) -> list[LabProblem]:
    return list(islice(stream(seed, split), count))
