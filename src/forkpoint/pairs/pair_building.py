"""Pairs from beginning to end: of sampled responses, of forks, or of a data set of TRL's; resumable.

Samples are journalled in units of fixed problems; everything after them takes moments and is done again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from forkpoint import __version__
from forkpoint.engines import Engine
from forkpoint.engines.loading import Vocabulary
from forkpoint.files import SAMPLES, SUMMARY, Journal, fingerprint, resumed, to_json, write_rows
from forkpoint.pairs.fork_pairs import Forked, choose_fork_pairs
from forkpoint.pairs.pair import Pair
from forkpoint.pairs.pair_choice import choose_pairs
from forkpoint.pairs.pair_files import PAIRS, TEXTS, make_pair, pair_row, token_texts
from forkpoint.pairs.pair_sources import Weights
from forkpoint.pairs.trl_files import Rows, import_pairs
from forkpoint.trajectories.rows import Units, check_prompts, identities
from forkpoint.types import Problem, Progress, Sampling, Trajectory, UserError

Made = tuple[Sequence[tuple[str | None, Pair]], dict[str, Any]]  # pairs, each with its problem's id, and their counts


@dataclass(frozen=True, slots=True)
class PairConfig:
    """How responses are sampled: `n` to each problem, in the prompt style `prompt`. Its seed also draws the pairs."""

    prompt: str = "cot"
    n: int = 64
    sampling: Sampling = field(default_factory=Sampling)


def pair_responses(
    engine: Engine | Vocabulary,
    problems: Sequence[Problem],
    settings: PairConfig,
    out: Path,
    *,
    task: str = "custom",
    samples: Sequence[Trajectory] | None = None,
    weights: Weights | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """A pair a question, of `samples` (several graded responses each) or of responses drawn from the problems.

    With `weights` the rejected responses get them, and pairs whose rejected response has none are dropped. `out` gets
    samples.jsonl (if they were drawn), pairs.jsonl and summary.json, whose content is returned; a repeated call goes on
    where the last one stopped. With samples a `Vocabulary` is enough. Raises UserError for settings out of range,
    prompts that are too long, and where no pair comes out.
    """
    if samples is None:
        _check(engine, problems, settings)
    drawing = {"seed": settings.sampling.seed} if samples is not None else json.loads(to_json(asdict(settings)))
    identity = {
        "engine": dict(engine.settings) if samples is None else _spelling(engine),
        "problems": fingerprint([asdict(p) for p in problems]) if samples is None else None,
        "samples": None if samples is None else fingerprint([identities(samples), [s.correct for s in samples]]),
        "weights": None if weights is None else fingerprint([[*key, value] for key, value in weights.items()]),
    }

    def make(units: Units) -> Made:
        drawn = samples
        if drawn is None:
            assert not isinstance(engine, Vocabulary)
            rows, drawn = units.sampled(engine, problems, settings.sampling, n=settings.n, prompt=settings.prompt)
            write_rows(out / SAMPLES, rows)
        return _chosen(engine, drawn, settings.sampling.seed, weights)

    return _written(out, engine, "samples", {"task": task} | drawing, identity, make, progress)


def pair_forks(
    model: Engine | Vocabulary, trajectories: Sequence[Forked], out: Path, *, any_alternative: bool = False
) -> dict[str, Any]:
    """Pairs of single tokens, of the forks of labelled trajectories; files and errors as for `pair_responses`."""

    def make(_: Units) -> Made:
        choice = choose_fork_pairs(trajectories, model.tokenizer, any_alternative=any_alternative)
        if not choice.pairs:
            raise UserError(
                f"none of the {choice.counts['alternatives']} alternatives in {len(trajectories)} trajectories is "
                f"better and likelier than the trajectory's own token ({_listed(choice.dropped)}), so there is no "
                "pair; label more wrong responses with forkpoint critical --protocol forks, or with more rollouts "
                "(--budget)"
            )
        return choice.pairs, {"counts": choice.counts, "dropped": {"alternatives": choice.dropped}}

    identity = {"engine": _spelling(model), "forks": fingerprint([asdict(t) for t in trajectories])}
    return _written(out, model, "forks", {"any_alternative": any_alternative}, identity, make)


def pair_imported(
    model: Engine | Vocabulary,
    rows: Rows,
    out: Path,
    *,
    without_end: bool = False,
    bad: list[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Pairs of a preference data set by `import_pairs`; files and errors as for `pair_responses`.

    What stands in `bad` before counts as dropped too.
    """
    if bad is None:
        import_pairs(rows[:1], model.tokenizer)  # refused before anything is written

    def make(units: Units) -> Made:
        imported = import_pairs(rows, model.tokenizer, units.progress, without_end=without_end, bad=bad)
        dropped = imported.dropped | ({} if bad is None else {"bad_row": len(bad)})
        if not imported.pairs:
            first = f"; {bad[0]}" if bad else ""
            raise UserError(f"none of the {len(rows)} rows makes a pair ({_listed(dropped)}){first}")
        return [(None, pair) for pair in imported.pairs], {"counts": imported.counts, "dropped": {"rows": dropped}}

    identity = {"engine": _spelling(model), "rows": fingerprint([row for _, row in rows])}
    return _written(out, model, "trl", {"without_end": without_end}, identity, make, progress)


def _check(engine: Engine | Vocabulary, problems: Sequence[Problem], settings: PairConfig) -> None:
    if isinstance(engine, Vocabulary):
        raise UserError(f"sampling needs a model, and of {engine.name} there is only the vocabulary; give samples")
    if settings.n < 2:
        raise UserError(f"n must be at least 2, one response to choose and one to reject, but is {settings.n}")
    if settings.sampling.temperature == 0:
        raise UserError("the temperature must be above 0: greedy responses to a question are all the same")
    if not problems:
        raise UserError("there are no problems to sample responses to")
    check_prompts(engine, problems, settings.prompt, settings.sampling.max_tokens)


def _chosen(model: Engine | Vocabulary, samples: Sequence[Trajectory], seed: int, weights: Weights | None) -> Made:
    """The pairs of the samples, with weights where there are any, and the account of what was left out."""
    choice = choose_pairs(samples, seed)
    if not choice.pairs:
        c, q = choice.counts, choice.questions
        raise UserError(
            f"none of the {c['questions']} questions has both a right response and a wrong one with an answer (no "
            f"right one: {q['no_correct']}, no wrong one: {q['no_wrong']}, no wrong one with an answer: "
            f"{q['no_wrong_answer']}); sample more responses a question, at another temperature, or other questions"
        )
    pairs: list[tuple[str, Pair]] = []
    for chosen, rejected in choice.pairs:
        own = None if weights is None else weights.get((rejected.prompt_ids, rejected.token_ids))
        if weights is None or own is not None:
            ids = chosen.prompt_ids, chosen.token_ids, rejected.token_ids
            pair = make_pair(f"{chosen.id} > {rejected.id}", *ids, model.tokenizer, rejected_weights=own)
            pairs.append((chosen.problem.id, pair))
    if not pairs:
        raise UserError(
            f"none of the {len(choice.pairs)} rejected responses has scores; let forkpoint contrast score the wrong "
            "samples (its own, unless it is given --trajectories or --against), and name the samples with --samples"
        )
    unscored = len(choice.pairs) - len(pairs)
    dropped = {
        "questions": choice.questions | {"no_scores": unscored},
        "responses": choice.responses | {"no_scores": 2 * unscored},
    }
    return pairs, {"counts": choice.counts | {"pairs": len(pairs)}, "dropped": dropped}


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _spelling(model: Engine | Vocabulary) -> dict[str, Any]:
    """What of a model decides which ids a text has."""
    return {"commit": model.settings.get("commit"), "tokens": len(model.tokenizer)}


def _written(
    out: Path,
    model: Engine | Vocabulary,
    source: str,
    settings: dict[str, Any],
    identity: dict[str, Any],
    make: Callable[[Units], Made],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """pairs.jsonl and summary.json of a run that may have been begun, or finished, before."""
    run = {"verb": "pairs", "model": model.name, "source": source, "version": __version__} | settings

    def work(journal: Journal) -> dict[str, Any]:
        pairs, account = make(Units(journal, progress))
        rows = (pair_row(pair, problem) | token_texts(pair, model.tokenizer) for problem, pair in pairs)
        write_rows(out / PAIRS, rows)
        return run | account | _described([pair for _, pair in pairs])

    return resumed(out, run | identity, SUMMARY, work)


def _described(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Lengths in tokens and weights of pairs; `rejected_weights` is null where no pair has any."""

    def mean(values: Any, digits: int = 6) -> float:
        return round(float(np.mean(values)), digits)

    lengths = {part: [len(getattr(pair, f"{part}_ids")) for pair in pairs] for part in TEXTS}
    rejected = np.array([weight for pair in pairs for weight in pair.rejected_weights or ()])
    weights = [pair.weight for pair in pairs]
    return {
        "tokens": {part: {"mean": mean(n, 2), "most": max(n)} for part, n in lengths.items()},
        "rejected_weights": None if not len(rejected) else {
            "tokens": len(rejected), "mean": mean(rejected), "share_above_half": mean(rejected > 0.5),
        },
        "weight": {"mean": mean(weights), "least": round(min(weights), 6), "most": round(max(weights), 6)},
    }  # fmt: skip
