"""The page of a `contrast` run: the sets and their training, the agreement with rollouts, and the scored tokens."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from forkpoint.jsonl import column, is_number, shortened, text, tokens_of
from forkpoint.report.content import (
    Chart,
    Page,
    Row,
    Table,
    Tokens,
    cut_off_hint,
    cut_off_words,
    finished,
    number,
    percent,
)
from forkpoint.report.figures.training_figure import MetricLine, curves_svg
from forkpoint.report.shown_scores import COLUMNS
from forkpoint.scores.contrast_sets import about_few
from forkpoint.tasks.data_sets import read_rows
from forkpoint.trajectories.rows import SCORES, SUMMARY
from forkpoint.types import UserError

Summary = dict[str, Any]
STYLES = {"positive": 2, "negative": 1}  # of the two models' curves
METRICS = {"hit_rate": "top-1 hits", "mean_reciprocal_rank": "mean 1/rank", "auc": "AUC"}
SCORERS = {
    "contrast": "lowest s",
    "policy_prob": "lowest probability",
    "entropy": "highest entropy",
    "random": "random",
}


def page(run: Path) -> Page:
    """What scores.jsonl and summary.json hold. UserError where one is missing or broken, with the line."""
    shown = page_of_summary(finished(run, SUMMARY, SCORES))
    tokens = Tokens(partial(_rows, run / SCORES), SCORES, "trajectory", "trajectories")
    return Page(shown.title, shown.lines, shown.sections, tokens)


def page_of_summary(summary: Summary) -> Page:
    """The sentences, tables and charts of what `estimate` returns."""
    figures = summary["agreement"]
    sections = [*([_agreement(figures), _comparisons(figures)] if figures else ()), _losses(summary["training"])]
    return Page(f"Contrastive estimation: {summary['model']} on {summary['task']}", _lines(summary), sections)


def _lines(summary: Summary) -> list[str]:
    sets, scored = summary["sets"], summary["scored"]
    lines = [
        f"{summary['model']} on {summary['task']}: {sets['samples']:,} samples of {sets['questions']:,} questions, "
        f"{percent(sets['correct'] / sets['samples'])} correct{cut_off_words(sets.get('cut_off'))}",
        *cut_off_hint(("", sets.get("cut_off"), sets["samples"])),
    ]
    for name, training in summary["training"].items():
        loss = sum(training["losses"]) / len(training["losses"])
        lines.append(
            f"{name} model: {training['responses']:,} responses, {training['steps']:,} steps, mean loss {number(loss)}"
        )
    if few := about_few(sets):
        lines.append(f"tuned {few}")
    lines.append(f"scored: {scored['tokens']:,} tokens of {scored['trajectories']:,} trajectories")
    return [*lines, _gain(summary["agreement"])] if summary["agreement"] else lines


def _gain(figures: Summary) -> str:
    """Whether the two tuned models find critical tokens better than the model's own probability, which is free."""
    against = next(entry for entry in figures["comparisons"] if entry["b"] == "policy_prob")
    if against["auc"] is None:
        return "the AUC is undefined: no response has a token beside its critical one"
    low, high = against["auc_ci95"]
    verdict = "better than" if low > 0 else "worse than" if high < 0 else "not shown to differ from"
    return (
        f"at finding critical tokens the lowest s is {verdict} the model's own lowest probability "
        f"(AUC {against['auc']:+z.3f}, 95% interval {low:+z.3f} to {high:+z.3f})"
    )


def _losses(trainings: Summary) -> Chart:
    curves = []
    for name, training in trainings.items():
        n = len(training["losses"])
        done = [100 * (i + 1) / n for i in range(n)]
        label = f"{name} model, on {'right' if name == 'positive' else 'wrong'} responses"
        curves.append(MetricLine(label, done, training["losses"], STYLES[name]))
    draw = partial(curves_svg, curves, "mean loss of a response token (nats)", across="share of the training done (%)")
    return Chart("Loss of the two models", draw, "Each point is the mean of a stretch of steps.")


def _agreement(figures: Summary) -> Table:
    rows = [(SCORERS[entry["scorer"]], *_cells(entry, "")) for entry in figures["scorers"]]
    title = f"Finding the critical token: {figures['trajectories']:,} trajectories of {figures['problems']:,} problems"
    note = "Top-1 hits and 1/rank: of the critical token among its trajectory's. AUC: over all tokens together."
    return Table(title, ("scorer", *_headings()), rows, note=note)


def _comparisons(figures: Summary) -> Table:
    rows = [(SCORERS[entry["b"]], *_cells(entry, "+")) for entry in figures["comparisons"]]
    note = "What lowest s has more than each, on the same resamples of problems."
    return Table("Lowest s against the others", ("scorer", *_headings()), rows, note=note)


def _headings() -> list[str]:
    return [heading for metric in METRICS.values() for heading in (metric, "95% interval")]


def _cells(entry: Summary, sign: str) -> list[str]:
    cells = []
    for metric in METRICS:
        if entry[metric] is None:  # an AUC without other tokens
            cells += ["–", "–"]
            continue
        low, high = entry[f"{metric}_ci95"]
        cells += [f"{entry[metric]:{sign}z.3f}", f"{low:{sign}z.3f} to {high:{sign}z.3f}"]
    return cells


def _rows(path: Path) -> Iterator[Row]:
    """The rows of scores.jsonl, their scores as columns, with the critical token where rollouts found one."""
    for where, row in read_rows(path):
        ids, _ = tokens_of(row, where)
        scores = column(row, "scores", where)
        if not isinstance(scores, dict):
            raise UserError(f"{where}: scores must be an object, but is {shortened(scores)}")
        columns = {name: scores[name] for name in COLUMNS if name in scores}
        for name, values in columns.items():
            if not isinstance(values, list) or len(values) != len(ids) or not all(map(is_number, values)):
                raise UserError(f"{where}: the scores {name} must be numbers, one for each of the {len(ids)} tokens")
        critical = row.get("critical_index")
        if critical is not None and not (isinstance(critical, int) and 0 <= critical < len(ids)):
            raise UserError(f"{where}: critical_index must be one of the {len(ids)} tokens, but is {critical!r}")
        yield {**row, "id": text(row, "id", where), **columns}
