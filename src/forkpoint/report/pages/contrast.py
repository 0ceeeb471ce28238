"""The page of a `contrast` run: the sets and their training, the agreement with rollouts, and the scored tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import mean

from forkpoint.files import SCORES, SUMMARY
from forkpoint.jsonl import Row, column, shortened
from forkpoint.report.content import Chart, Column, Page, Table, Tokens, cut_off_hint, number
from forkpoint.report.figures.charts import MetricLine, curves_svg
from forkpoint.report.shades import COLUMNS
from forkpoint.report.viewer import checked_row
from forkpoint.scores.contrast_sets import about_few
from forkpoint.tasks.data_sets import read_rows
from forkpoint.types import UserError

FILES = (SUMMARY, SCORES)
MODELS = {"positive": ("right", 2), "negative": ("wrong", 1)}  # what each is tuned on, and its curve's style
METRICS = {"hit_rate": "top-1 hits", "mean_reciprocal_rank": "mean 1/rank", "auc": "AUC"}
SCORERS = {
    "contrast": "lowest s", "policy_prob": "lowest probability", "entropy": "highest entropy", "random": "random",
}  # fmt: skip


def page(summary: Row, run: Path | None = None) -> Page:
    """What `estimate` returns, and scores.jsonl."""
    sections: list[Table | Chart] = []
    if figures := summary["agreement"]:
        of = f"{figures['trajectories']:,} trajectories of {figures['problems']:,} problems"
        note = "Top-1 hits and 1/rank: of the critical token among its trajectory's. AUC: over all tokens together."
        sections.append(_scorers(f"Finding the critical token: {of}", figures["scorers"], "scorer", "", note))
        note = "What lowest s has more than each, on the same resamples of problems."
        sections.append(_scorers("Lowest s against the others", figures["comparisons"], "b", "+", note))
        if causes := figures.get("causes"):
            columns: dict[str, Column] = {"cause": "{cause}", "trajectories": "{trajectories:,}"}
            columns |= {name: partial(_hits, scorer) for scorer, name in SCORERS.items()}
            note = "Top-1 hits, with their 95% intervals."
            sections.append(Table.of("By the cause of the first error", causes, columns, note=note))
    sections.append(_losses(summary["training"]))
    tokens = Tokens.of(run, SCORES, _rows, "trajectory", "trajectories")
    return Page(f"Contrastive estimation: {summary['model']} on {summary['task']}", _lines(summary), sections, tokens)


def _lines(summary: Row) -> list[str]:
    sets, scored = summary["sets"], summary["scored"]
    lines = [
        f"{summary['model']} on {summary['task']}: {sets['samples']:,} samples of {sets['questions']:,} questions, "
        f"{sets['correct'] / sets['samples']:.1%} correct, {sets['cut_off']:,} cut off",
        *cut_off_hint(("", sets["cut_off"], sets["samples"])),
    ]
    for name, training in summary["training"].items():
        responses, loss = f"{training['responses']:,} responses", number(mean(training["losses"]))
        lines.append(f"{name} model: {responses}, {training['steps']:,} steps, mean loss {loss}")
    if few := about_few(sets):
        lines.append(f"tuned {few}")
    lines.append(f"scored: {scored['tokens']:,} tokens of {scored['trajectories']:,} trajectories")
    return [*lines, _gain(summary["agreement"])] if summary["agreement"] else lines


def _gain(figures: Row) -> str:
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


def _hits(name: str, figures: Row) -> str:
    """How often a scorer finds the critical token, and the interval."""
    entry = next(entry for entry in figures["scorers"] if entry["scorer"] == name)
    return "{:.3f} ({:.3f} to {:.3f})".format(entry["hit_rate"], *entry["hit_rate_ci95"])


def _losses(trainings: Row) -> Chart:
    curves = []
    for name, (responses, style) in MODELS.items():
        losses = trainings[name]["losses"]
        done = [100 * (i + 1) / len(losses) for i in range(len(losses))]
        curves.append(MetricLine(f"{name} model, on {responses} responses", done, losses, style))
    draw = partial(curves_svg, curves, "mean loss of a response token (nats)", across="share of the training done (%)")
    return Chart("Loss of the two models", draw, "Each point is the mean of a stretch of steps.")


def _scorers(title: str, entries: Sequence[Row], name: str, sign: str, note: str) -> Table:
    """A row a scorer: each metric with its interval."""
    rows = []
    for entry in entries:
        cells = [SCORERS[entry[name]]]
        for metric in METRICS:
            if entry[metric] is None:  # an AUC without other tokens
                cells += ["–", "–"]
            else:
                value, low, high = (f"{one:{sign}z.3f}" for one in (entry[metric], *entry[f"{metric}_ci95"]))
                cells += [value, f"{low} to {high}"]
        rows.append(tuple(cells))
    headings = [heading for metric in METRICS.values() for heading in (metric, "95% interval")]
    return Table(title, ("scorer", *headings), rows, note=note)


def _rows(path: Path) -> Iterator[Row]:
    """The rows of scores.jsonl, their scores as columns, with the critical token where rollouts found one."""
    for where, row in read_rows(path):
        scores = column(row, "scores", where)
        if not isinstance(scores, dict):
            raise UserError(f"{where}: scores must be an object, but is {shortened(scores)}")
        yield checked_row({**row, **{name: scores[name] for name in COLUMNS if name in scores}}, where)
