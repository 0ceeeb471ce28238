"""The logits of a model along its responses: statistics, kept sets and histograms as tables, resumable as one unit.

Needs the model itself, not only what every engine says of it, so that the logits are the model's own and not shifted.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from forkpoint import __version__
from forkpoint.engines.local.scoring import logits_at, rows_that_fit
from forkpoint.engines.local.transformers_engine import TransformersEngine
from forkpoint.files import Journal, fingerprint, resumed, write_whole
from forkpoint.sampling import analysis
from forkpoint.text import pieces
from forkpoint.types import Completion, Progress, Request, Sampling, TokenIds, UserError, check_texts

SUMMARY = "summary.json"
HISTOGRAM, SORTED, KEPT, DISTANCE = "histogram.csv", "sorted.csv", "kept.csv", "distance.csv"
NAMED = ("first", "uncertain", "certain")
MOST_PROBABLE = 20  # tokens in sorted.csv
ROWS = 32  # rows of logits that samplers see at a time: they make several copies
Table = list[dict[str, Any]]


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
    """A response of n tokens: their rows of distance.csv, and how many tokens each sampler keeps in their place."""

    name: str
    prompt: TokenIds
    completion: Completion
    rows: Table
    sizes: Int64[np.ndarray, "s t n"]


def parse_positions(text: str) -> tuple[str, ...]:
    """Positions of a text: `first`, `uncertain`, `certain`, or whole numbers from 0; UserError for anything else."""
    positions = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for part in positions:
        if part not in NAMED and not (part.isascii() and part.isdecimal()):
            raise UserError(f"a position is one of {', '.join(NAMED)}, or a whole number from 0, but not {part!r}")
    return positions


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
    (of all responses), and summary.json. Raises UserError for a bad prompt and a position beyond the first response.
    """
    check_texts("samplers", study.samplers)
    check_texts("positions", study.positions)
    run = {"verb": "logits", "model": engine.name, "task": task, **asdict(study), "version": __version__}
    prompted = fingerprint([[name, *prompt] for name, prompt in prompts.items()])

    def work(_: Journal) -> dict[str, Any]:
        stages = _LogitRun(engine, study)
        responses = stages.respond(prompts, progress)
        chosen = _resolve(study.positions, responses[0])
        tables = stages.tables(responses, list(chosen))
        for name, table in tables.items():
            write_whole(out / name, _csv(table))
        return run | {"vocabulary": engine.vocab_size} | stages.summary(responses, chosen)

    return resumed(out, run | {"engine": dict(engine.settings), "prompts": prompted}, SUMMARY, work)


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
    writer.writerows({k: float(f"{v:.9g}") if isinstance(v, float) else v for k, v in row.items()} for row in table)
    return text.getvalue()


def _resolve(names: Sequence[str], response: _Response) -> dict[int, list[str]]:
    """The positions of these names or numbers, in order, each with the names that it goes by."""
    entropy = [row["entropy"] for row in response.rows]
    named = {"first": 0, "uncertain": int(np.argmax(entropy)), "certain": int(np.argmin(entropy))}
    positions: dict[int, list[str]] = {}
    for name in names:
        position = named[name] if name in named else int(name)
        if position >= len(entropy):
            raise UserError(
                f"the position {position} is beyond the response of {response.name}, which has {len(entropy)} tokens, "
                f"0 to {len(entropy) - 1}"
            )
        positions.setdefault(position, []).extend([name] if name in named else [])
    return dict(sorted(positions.items()))


class _LogitRun:
    """The stages of one run."""

    def __init__(self, engine: TransformersEngine, study: LogitsConfig) -> None:
        self.engine, self.study = engine, study
        self.samplers = {spec: analysis.parse_sampler(spec) for spec in study.samplers}

    def respond(self, prompts: Mapping[str, TokenIds], progress: Progress | None) -> list[_Response]:
        """A response to each prompt, in order, with what the logits say along it; keys as in `sample_trajectories`."""
        requests = [Request(f"{name}/0", prompt) for name, prompt in prompts.items()]
        done: dict[str, Completion] = {}
        for completion in self.engine.generate(requests, self.study.sampling):
            done[completion.key] = completion
            if progress:
                progress("responses", len(done), len(prompts), sum(len(c.token_ids) for c in done.values()))
        responses: list[_Response] = []
        for name, prompt in prompts.items():
            responses.append(self._analysed(name, prompt, done[f"{name}/0"]))
            if progress:
                progress("analysed responses", len(responses), len(prompts), sum(len(r.rows) for r in responses))
        return responses

    def _analysed(self, name: str, prompt: TokenIds, completion: Completion) -> _Response:
        tokens = completion.token_ids
        texts, sizes = self._texts(tokens), []
        rows: Table = []
        for positions, logits in self._logits(prompt, tokens, range(len(tokens))):
            taken = torch.tensor([tokens[i] for i in positions], device=logits.device)
            probability = torch.log_softmax(logits.double(), -1).gather(-1, taken[:, None]).exp().squeeze(-1)
            columns = {"probability": probability.cpu().numpy(), **asdict(analysis.row_statistics(logits))}
            rows += [
                {"problem_id": name, "position": i, "token_id": tokens[i], "token": texts[i]}
                | {column: float(values[at]) for column, values in columns.items()}
                for at, i in enumerate(positions)
            ]
            sizes.append(analysis.kept_sizes(logits, list(self.samplers.values()), self.study.temperatures))
        return _Response(name, prompt, completion, rows, np.concatenate(sizes, -1))

    @torch.inference_mode()
    def _logits(
        self, prompt: TokenIds, tokens: TokenIds, positions: Sequence[int]
    ) -> Iterator[tuple[Sequence[int], Float[Tensor, "rows V"]]]:
        """The model's float32 logits for the tokens at positions of a response, in blocks, with the positions."""
        model = self.engine.model
        ids = torch.tensor([[*prompt, *tokens]], device=model.device)
        fitting = rows_that_fit(model, self.engine.memory_bytes)
        for start in range(0, len(positions), fitting):
            part = positions[start : start + fitting]
            logits = logits_at(model, ids, torch.tensor([len(prompt) + i - 1 for i in part], device=ids.device))
            for first in range(0, len(part), ROWS):
                block = logits[first : first + ROWS].float()  # mps has no float64, which statistics need
                yield part[first : first + ROWS], block.cpu() if block.device.type == "mps" else block

    def tables(self, responses: Sequence[_Response], positions: Sequence[int]) -> dict[str, Table]:
        """The run's tables by file name: of the positions of the first response, and of all responses."""
        first = responses[0]
        histogram: Table = []
        ordered: Table = []
        for part, block in self._logits(first.prompt, first.completion.token_ids, positions):
            for position, row in zip(part, block, strict=True):
                counts, edges = analysis.histogram(row)
                histogram += [
                    {"position": position, "low": low, "high": high, "count": count}
                    for (low, high), count in zip(pairwise(edges.tolist()), counts.tolist(), strict=True)
                ]
                ordered += self._sorted(first, position, row)
        sizes = np.concatenate([r.sizes for r in responses], -1)
        kept = [
            {
                "sampler": spec, "temperature": temperature, "mean": float(n.mean()), "median": float(np.median(n)),
                "least": int(n.min()), "most": int(n.max()), "positions": len(n),
            }
            for spec, of_sampler in zip(self.samplers, sizes, strict=True)
            for temperature, n in zip(self.study.temperatures, of_sampler, strict=True)
        ]  # fmt: skip
        distance = [row for response in responses for row in response.rows]
        return {HISTOGRAM: histogram, SORTED: ordered, KEPT: kept, DISTANCE: distance}

    def _sorted(self, response: _Response, position: int, row: Tensor) -> Table:
        """The most probable tokens; a column a sampler says which of them it keeps at temperature 1 (1) or not (0)."""
        ids, probabilities = analysis.most_probable(row, MOST_PROBABLE)
        masks = {spec: analysis.kept(row[None], sampler, 1.0)[0] for spec, sampler in self.samplers.items()}
        before, taken = response.completion.token_ids[:position], response.completion.token_ids[position]
        return [
            {
                "position": position, "rank": rank, "token_id": token, "token": self._texts((*before, token))[-1],
                "logit": float(row[token]), "probability": probability, "taken": int(token == taken),
                **{spec: int(mask[token]) for spec, mask in masks.items()},
            }
            for rank, (token, probability) in enumerate(zip(ids.tolist(), probabilities.tolist(), strict=True), start=1)
        ]  # fmt: skip

    def _texts(self, tokens: TokenIds) -> list[str]:
        """The text that each token adds; where it adds none, its entry in the vocabulary, or its number: models often
        have a few more ids than their tokenizer."""
        tokenizer = self.engine.tokenizer
        names = (str(tokenizer.convert_ids_to_tokens(token) or f"#{token}") for token in tokens)
        return [text or name for text, name in zip(pieces(tokenizer, tokens), names, strict=True)]

    def summary(self, responses: Sequence[_Response], chosen: Mapping[int, list[str]]) -> dict[str, Any]:
        """Of each response its text and distances, of each chosen position of the first what is kept."""
        described = []
        for r in responses:
            distances = [row["distance"] for row in r.rows]
            described.append({
                "problem_id": r.name, "tokens": len(r.rows), "text": r.completion.text,
                "finish_reason": r.completion.finish_reason,
                "distance": {"mean": float(np.mean(distances)), "least": min(distances), "most": max(distances)},
            })  # fmt: skip
        temperatures = [f"{t:g}" for t in self.study.temperatures]
        shown = []
        for position, names in chosen.items():
            sizes = responses[0].sizes[:, :, position].tolist()
            kept = {spec: dict(zip(temperatures, n, strict=True)) for spec, n in zip(self.samplers, sizes, strict=True)}
            shown.append(responses[0].rows[position] | {"named": names, "kept": kept})
        return {"responses": described, "chosen": shown}
