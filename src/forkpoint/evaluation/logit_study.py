"""The logits of a model along its responses: statistics, kept sets and histograms as tables, resumable as one unit.

Needs the model itself, not only what every engine says of it, so that the logits are the model's own and not shifted.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from forkpoint import __version__
from forkpoint.engines.local.scoring import logits_at, rows_that_fit
from forkpoint.engines.local.transformers_engine import TransformersEngine
from forkpoint.files import (
    claimed,
    fingerprint,
    read_json,
    to_json,
    write_whole,
)
from forkpoint.sampling.analysis import (
    RowStatistics,
    histogram,
    kept,
    kept_sizes,
    most_probable,
    parse_sampler,
    row_statistics,
)
from forkpoint.text import pieces
from forkpoint.types import Completion, Request, Results, Sampling, TokenIds, UserError, check_texts

SUMMARY = "summary.json"
HISTOGRAM, SORTED, KEPT, DISTANCE = "histogram.csv", "sorted.csv", "kept.csv", "distance.csv"
NAMED = ("first", "uncertain", "certain")
MOST_PROBABLE = 20  # tokens in sorted.csv
ROWS = 32  # rows of logits that samplers see at a time: they make several copies
Table = list[dict[str, Any]]
Progress = Callable[[str, int, int, int], None]


@dataclass(frozen=True, slots=True)
class LogitsConfig:
    """What is looked at: `samplers` as texts (see `parse_sampler`) at `temperatures`, the `positions` of the first
    response that get a histogram (see `parse_positions`), and how responses are drawn."""

    samplers: tuple[str, ...]
    temperatures: tuple[float, ...]
    positions: tuple[str, ...] = NAMED
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.0))


@dataclass(frozen=True, slots=True)
class _Response:
    """A response with what was found along its n tokens; `sizes` are kept-set sizes [samplers, temperatures, n]."""

    name: str
    prompt: TokenIds
    completion: Completion
    statistics: RowStatistics
    probability: Float64[np.ndarray, " n"]
    sizes: Int64[np.ndarray, "s t n"]


def parse_positions(text: str) -> tuple[str, ...]:
    """Positions of a text: `first`, `uncertain`, `certain`, or whole numbers from 0; UserError for anything else."""
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for part in found:
        if part not in NAMED and not (part.isascii() and part.isdecimal()):
            raise UserError(f"a position is one of {', '.join(NAMED)}, or a whole number from 0, but not {part!r}")
    return found


def study_logits(
    engine: TransformersEngine,
    prompts: Mapping[str, TokenIds],
    study: LogitsConfig,
    out: Path,
    *,
    task: str = "custom",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Generate a response to each named prompt and describe the logits along it; returns summary.json's content.

    `out` gets histogram.csv and sorted.csv (of the chosen positions of the first response), kept.csv and distance.csv
    (of all responses), and summary.json. A finished run is read again. Raises UserError for an empty or too long
    prompt and for a position beyond the first response, and then claims no directory.
    """
    check_texts("samplers", study.samplers)
    check_texts("positions", study.positions)
    run = {"verb": "logits", "model": engine.name, "task": task, **asdict(study), "version": __version__}
    prompted = fingerprint([[name, *prompt] for name, prompt in prompts.items()])
    config = run | {"engine": dict(engine.settings), "prompts": prompted}
    with claimed(out, config):
        if not (out / SUMMARY).exists():
            responses = _respond(engine, prompts, study, progress)
            chosen = _resolve(study.positions, responses[0])
            tables = _tables(engine, responses, chosen, study)
            for name, table in tables.items():
                write_whole(out / name, _csv(table))
            summary = run | _summary(engine, responses, chosen, study, tables)
            write_whole(out / SUMMARY, to_json(summary, indent=2) + "\n")
    return Results(read_json(out / SUMMARY))


def read_table(path: Path) -> Table:
    """The rows of a table that a run wrote; numbers are floats."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file, quoting=csv.QUOTE_NONNUMERIC))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _csv(table: Table) -> str:
    """Text quoted, numbers not; floats keep nine digits, which is all of a float32."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(table[0]), quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _short(v) if isinstance(v, float) else v for k, v in row.items()} for row in table)
    return text.getvalue()


def _short(value: float) -> float:
    return float(f"{value:.9g}")


def _respond(
    engine: TransformersEngine, prompts: Mapping[str, TokenIds], study: LogitsConfig, progress: Progress | None
) -> list[_Response]:
    """A response to each prompt, in order, with its statistics. The keys are those of `sample_trajectories`."""
    requests = [Request(f"{name}/0", prompt) for name, prompt in prompts.items()]
    done: dict[str, Completion] = {}
    for completion in engine.generate(requests, study.sampling):
        done[completion.key] = completion
        if progress:
            progress("responses", len(done), len(prompts), sum(len(c.token_ids) for c in done.values()))
    found: list[_Response] = []
    for request, (name, prompt) in zip(requests, prompts.items(), strict=True):
        found.append(_look_along(engine, name, prompt, done[request.key], study))
        if progress:
            progress("analysed responses", len(found), len(prompts), sum(len(r.probability) for r in found))
    return found


def _look_along(
    engine: TransformersEngine, name: str, prompt: TokenIds, completion: Completion, study: LogitsConfig
) -> _Response:
    samplers = [parse_sampler(spec) for spec in study.samplers]
    tokens = completion.token_ids
    parts = []
    for rows, logits in _logits(engine, prompt, tokens, range(len(tokens))):
        taken = torch.tensor([tokens[i] for i in rows], device=logits.device)
        probability = torch.log_softmax(logits.double(), -1).gather(-1, taken[:, None]).exp().squeeze(-1)
        statistics = row_statistics(logits)
        columns = [getattr(statistics, field) for field in RowStatistics.__slots__]
        parts.append([*columns, probability.cpu().numpy(), kept_sizes(logits, samplers, study.temperatures)])
    *statistics_, probability_, sizes = (np.concatenate(column, -1) for column in zip(*parts, strict=True))
    return _Response(name, prompt, completion, RowStatistics(*statistics_), probability_, sizes)


@torch.inference_mode()
def _logits(
    engine: TransformersEngine, prompt: TokenIds, tokens: TokenIds, positions: Sequence[int]
) -> Iterator[tuple[Sequence[int], Float[Tensor, "rows V"]]]:
    """The model's float32 logits for the tokens at positions of a response, in blocks, with the blocks' positions."""
    ids = torch.tensor([[*prompt, *tokens]], device=engine.model.device)
    fitting = rows_that_fit(engine.model, engine.memory_bytes)
    for start in range(0, len(positions), fitting):
        part = positions[start : start + fitting]
        wanted = torch.tensor([len(prompt) + i - 1 for i in part], device=ids.device)
        logits = logits_at(engine.model, ids, wanted)
        for first in range(0, len(part), ROWS):
            block = logits[first : first + ROWS].float()  # mps has no float64, which statistics need
            yield part[first : first + ROWS], block.cpu() if block.device.type == "mps" else block


def _resolve(asked: Sequence[str], response: _Response) -> dict[int, list[str]]:
    """The positions that were asked for, in order, each with the names that it goes by."""
    entropy = response.statistics.entropy
    named = {"first": 0, "uncertain": int(entropy.argmax()), "certain": int(entropy.argmin())}
    found: dict[int, list[str]] = {}
    for name in asked:
        position = named[name] if name in named else int(name)
        if position >= len(entropy):
            raise UserError(
                f"the position {position} is beyond the response of {response.name}, which has {len(entropy)} tokens, "
                f"0 to {len(entropy) - 1}"
            )
        found.setdefault(position, []).extend([name] if name in named else [])
    return dict(sorted(found.items()))


def _tables(
    engine: TransformersEngine, responses: Sequence[_Response], chosen: Mapping[int, list[str]], study: LogitsConfig
) -> dict[str, Table]:
    first = responses[0]
    rows = _logits(engine, first.prompt, first.completion.token_ids, list(chosen))
    by_position = {p: row for positions, block in rows for p, row in zip(positions, block, strict=True)}
    return {
        HISTOGRAM: [line for p, row in by_position.items() for line in _histogram(p, row)],
        SORTED: [line for p, row in by_position.items() for line in _sorted(engine, first, p, row, study)],
        KEPT: _kept(np.concatenate([r.sizes for r in responses], -1), study),
        DISTANCE: [line for response in responses for line in _distances(engine, response)],
    }


def _histogram(position: int, row: Tensor) -> Table:
    counts, edges = histogram(row)
    return [
        {"position": position, "low": low, "high": high, "count": count}
        for low, high, count in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
    ]


def _sorted(engine: TransformersEngine, response: _Response, position: int, row: Tensor, study: LogitsConfig) -> Table:
    """The most probable tokens; a column a sampler says which of them it keeps at temperature 1 (1) or not (0)."""
    ids, probabilities = most_probable(row, MOST_PROBABLE)
    masks = {spec: kept(row[None], parse_sampler(spec), 1.0)[0] for spec in study.samplers}
    taken = response.completion.token_ids[position]
    return [
        {
            "position": position, "rank": rank, "token_id": token,
            "token": _piece(engine, response.completion.token_ids[:position], token),
            "logit": float(row[token]), "probability": probability, "taken": int(token == taken),
            **{spec: int(mask[token]) for spec, mask in masks.items()},
        }
        for rank, (token, probability) in enumerate(zip(ids.tolist(), probabilities.tolist(), strict=True), start=1)
    ]  # fmt: skip


def _kept(sizes: Int64[np.ndarray, "s t n"], study: LogitsConfig) -> Table:
    return [
        {
            "sampler": spec, "temperature": temperature, "mean": float(at.mean()), "median": float(np.median(at)),
            "least": int(at.min()), "most": int(at.max()), "positions": len(at),
        }
        for spec, lines in zip(study.samplers, sizes, strict=True)
        for temperature, at in zip(study.temperatures, lines, strict=True)
    ]  # fmt: skip


def _distances(engine: TransformersEngine, response: _Response) -> Table:
    tokens = response.completion.token_ids
    texts = [text or _name(engine, token) for text, token in zip(pieces(engine.tokenizer, tokens), tokens, strict=True)]
    s = response.statistics
    return [
        {
            "problem_id": response.name, "position": i, "token_id": token, "token": text,
            "probability": float(response.probability[i]), "maximum": float(s.maximum[i]), "mean": float(s.mean[i]),
            "sigma": float(s.sigma[i]), "distance": float(s.distance[i]), "entropy": float(s.entropy[i]),
        }
        for i, (token, text) in enumerate(zip(tokens, texts, strict=True))
    ]  # fmt: skip


def _piece(engine: TransformersEngine, before: TokenIds, token: int) -> str:
    """The text that a token adds, or its name where it adds none."""
    return pieces(engine.tokenizer, (*before, token))[-1] or _name(engine, token)


def _name(engine: TransformersEngine, token: int) -> str:
    """A token's entry in the vocabulary; models often have a few more ids than their tokenizer."""
    return str(engine.tokenizer.convert_ids_to_tokens(token) or f"#{token}")


def _summary(
    engine: TransformersEngine,
    responses: Sequence[_Response],
    chosen: Mapping[int, list[str]],
    study: LogitsConfig,
    tables: Mapping[str, Table],
) -> dict[str, Any]:
    first = responses[0]
    facts = tables[DISTANCE]  # the first response's rows come first
    sizes = {
        spec: {f"{t:g}": lines[i] for i, t in enumerate(study.temperatures)}
        for spec, lines in zip(study.samplers, first.sizes.tolist(), strict=True)
    }
    return {
        "vocabulary": engine.vocab_size,
        "responses": [
            {
                "problem_id": r.name, "tokens": len(r.completion.token_ids), "text": r.completion.text,
                "finish_reason": r.completion.finish_reason,
                "distance": {"mean": float(d.mean()), "least": float(d.min()), "most": float(d.max())},
            }
            for r in responses for d in [r.statistics.distance]
        ],
        "chosen": [
            facts[p] | {"named": names, "kept": {s: {t: at[p] for t, at in by_t.items()} for s, by_t in sizes.items()}}
            for p, names in chosen.items()
        ],
    }  # fmt: skip
