"""The page of a `train` run, whatever the method: its metrics at the beginning and the end, and their curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from forkpoint.report.content import Chart, Page, Table, finished, number
from forkpoint.report.figures.training_figure import Band, MetricLine, curves_svg
from forkpoint.trajectories.rows import SUMMARY

Summary = dict[str, Any]
History = Sequence[dict[str, Any]]
SHOWN = (
    "loss", "loss/all", "loss/unselected", "selection/share", "selection/documents_none", "rewards/chosen",
    "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected", "kl/chosen",
    "kl/rejected", "mean_token_accuracy",
)  # fmt: skip
ARGUMENTS = {
    "learning_rate": "learning rate",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch size",
}
MOST_STEPS = 2000  # rows of the table of steps: more take a browser long
LOW, MEDIAN, HIGH = (f"selection/documents_p{percent}" for percent in (10, 50, 90))


@dataclass(frozen=True, slots=True)
class Line:
    """A metric in a chart: what it is called there, and its style's place in LINES."""

    metric: str
    label: str
    style: int = 0

    @property
    def held_out(self) -> bool:
        """Whether it was measured on what is not trained on."""
        return self.metric.startswith("eval_")


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart of metrics against the step, there where the first of them is; each is multiplied by `scale`."""

    title: str
    label: str
    lines: tuple[Line, ...]
    scale: float = 1
    limits: tuple[float, float] | None = None


def _of_pairs(group: str, *names: str) -> tuple[Line, ...]:
    """Metrics of a group that the training pairs and held-out ones have alike."""
    return tuple(
        Line(f"{start}{group}/{name}", f"{name}{word}", i)
        for i, name in enumerate(names)
        for start, word in (("", ""), ("eval_", ", held out"))
    )


SHARES = (-4, 104)  # per cent, with room for the line of 100
TOKEN_LOSS = "mean loss of a token (nats)"
PAIR_LOSS = Panel(
    "Loss", "mean loss of a pair", (Line("loss", "training pairs"), Line("eval_loss", "held-out pairs"))
)  # fmt: skip
LOSSES = {  # by the method; a preference method's is PAIR_LOSS
    "sft": Panel("Loss", TOKEN_LOSS, (Line("loss", "chosen responses"), Line("eval_loss", "held-out responses"))),
    "clm": Panel("Loss", TOKEN_LOSS, (Line("loss", "training text"), Line("eval_loss", "held-out text"))),
    "slm": Panel("Loss", TOKEN_LOSS, (
        Line("loss", "selected tokens"), Line("loss/unselected", "tokens left out", 1),
        Line("loss/all", "all tokens", 2), Line("eval_loss", "held-out text, all tokens", 3),
    )),
}  # fmt: skip
PANELS = (
    Panel("Log-probability of the responses", "mean log-probability of a response (nats)",
          _of_pairs("logps", "chosen", "rejected")),
    Panel("Rewards", "mean reward of a response (β × nats above the reference)",
          _of_pairs("rewards", "chosen", "rejected", "margins")),
    Panel("Accuracy of the rewards", "pairs whose chosen response has the higher reward (%)", (
        Line("rewards/accuracies", "training pairs"), Line("eval_rewards/accuracies", "held-out pairs"),
    ), 100, SHARES),
    Panel("Divergence from the reference", "mean KL divergence of a response (nats)",
          _of_pairs("kl", "chosen", "rejected")),
    Panel("Accuracy on tokens", "tokens that are the likeliest (%)", (
        Line("mean_token_accuracy", "chosen responses"), Line("eval_mean_token_accuracy", "held-out responses"),
    ), 100),
    Panel("Tokens selected", "share of the tokens (%)", (
        Line(MEDIAN, "median document", 1), Line("selection/share", "all documents"),
    ), 100, SHARES),
)  # fmt: skip


def page(run: Path) -> Page:
    """What summary.json holds. UserError where it is missing or broken."""
    return page_of_summary(finished(run, SUMMARY))


def page_of_summary(summary: Summary) -> Page:
    """The sentences, tables and charts of what `train` and `pretrain` return."""
    history = summary["history"]
    sections: list[Table | Chart] = []
    if any("loss" in row for row in history):
        kept = [row for row in history if row["step"] <= summary.get("saved_step", summary["steps"])]
        sections += [_ends(summary["method"], kept), *_charts(summary["method"], history), _steps(history)]
    return Page(f"Training by {summary['method']}: {summary['model']}", _lines(summary), sections)


def _lines(summary: Summary) -> list[str]:
    data = f"{summary['pairs']:,} pairs" if "pairs" in summary else f"{summary['rows']:,} rows"
    lines = [
        f"{summary['model']}, {summary['method']}: {data}, {summary['steps']:,} steps, "
        f"{summary['tokens_in_an_epoch']:,} tokens an epoch"
    ]
    constants = [f"{name} {summary[name]}" for name in ("beta", "alpha") if summary.get(name) is not None]
    if summary["method"] == "slm":
        rule = summary["rule"]
        constants += [f"rule {rule['score']}, ratio {rule['ratio']}, scope {rule['scope']}"]
    arguments = summary["arguments"]
    constants += [f"{word} {arguments[name]:g}" for name, word in ARGUMENTS.items() if name in arguments]
    if left_out := summary.get("too_long", 0) + summary.get("eval_too_long", 0):
        lines.append(f"{left_out:,} pairs were too long and left out")
    if (step := summary.get("saved_step", summary["steps"])) != summary["steps"]:
        lines.append(f"the model is that of step {step:,}, the best one")
    return [*lines, ", ".join([*constants, f"seed {summary['seed']}"])]


def _ends(method: str, history: History) -> Table:
    """The metrics as they were logged first and last, in training and on what was held out."""
    logged, held_out = ([row for row in history if name in row] for name in ("loss", "eval_loss"))
    columns = [(f"up to step {row['step']:,}", "", row) for row in _first_and_last(logged)]
    columns += [(f"held out, step {row['step']:,}", "eval_", row) for row in _first_and_last(held_out)]
    rows = [
        (name, *(number(row.get(prefix + name)) for _, prefix, row in columns))
        for name in SHOWN
        if any(prefix + name in row for _, prefix, row in columns)
    ]
    headings = ("metric", *(heading for heading, *_ in columns))
    note = "The loss of held-out text is that of all its tokens." if method == "slm" and held_out else ""
    return Table("Metrics at the beginning and at the end", headings, rows, note=note)


def _first_and_last(rows: History) -> History:
    return [*rows[:1], *rows[1:][-1:]]


def _charts(method: str, history: History) -> list[Chart]:
    return [
        Chart(panel.title, partial(_svg, panel, history), _points_are(history) if i == 0 else "")
        for i, panel in enumerate((LOSSES.get(method, PAIR_LOSS), *PANELS))
        if any(panel.lines[0].metric in row for row in history)
    ]


def _points_are(history: History) -> str:
    """What a point in the charts is: the trainer averages since it last logged, which it also does at every save."""
    steps = [0, *(row["step"] for row in history if "loss" in row)]
    lengths = sorted({b - a for a, b in pairwise(steps)})
    if lengths == [1]:
        return ""
    over = f"{lengths[0]:,}" if len(lengths) == 1 else f"{lengths[0]:,} to {lengths[-1]:,}"
    held_out = any("eval_loss" in row for row in history)
    note = f"A point of the training is the mean over the {over} steps since the point before it"
    return f"{note}; a held-out one is of that step alone." if held_out else f"{note}."


def _svg(panel: Panel, history: History) -> str:
    curves = [
        MetricLine(line.label, steps, values, line.style, line.held_out)
        for line in panel.lines
        for steps, values in [_points(history, line.metric, panel.scale)]
        if steps
    ]
    band = None
    if panel.lines[0].metric == MEDIAN:
        (steps, low), (_, high) = (_points(history, name, panel.scale) for name in (LOW, HIGH))
        band = Band("documents, 10% to 90% of them", steps, low, high)
    return curves_svg(curves, panel.label, limits=panel.limits, band=band)


def _points(history: History, name: str, scale: float) -> tuple[list[int], list[float]]:
    """The steps at which a metric was logged, and its values."""
    found = [(row["step"], scale * row[name]) for row in history if row.get(name) is not None]
    return [step for step, _ in found], [value for _, value in found]


def _steps(history: History) -> Table:
    """All that was logged, a row a step; of very many steps one in so many."""
    by_step: dict[int, dict[str, Any]] = {}
    for row in history:
        by_step.setdefault(row["step"], {}).update(row)
    every = -(-len(by_step) // MOST_STEPS)
    names = sorted({name for row in history for name in row} - {"step"}, key=_place)
    rows = [(f"{step:,}", *(_cell(name, row.get(name)) for name in names)) for step, row in [*by_step.items()][::every]]
    title = "Every logged step" if every == 1 else f"One in {every:,} of the logged steps"
    return Table(title, ("step", *names), rows, left=0, folded=True)


def _place(name: str) -> tuple[bool, int, str]:
    """Metrics in the order of SHOWN, then others; those on what was held out behind them."""
    held_out, own = name.startswith("eval_"), name.removeprefix("eval_")
    return held_out, SHOWN.index(own) if own in SHOWN else len(SHOWN), name


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name == "learning_rate":
        return f"{value:.2e}"
    return f"{value:,}" if isinstance(value, int) else number(value)
