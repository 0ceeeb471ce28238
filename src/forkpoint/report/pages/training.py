"""The page of a `train` run, whatever the method: its metrics at the beginning and the end, and their curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from forkpoint.files import SUMMARY
from forkpoint.jsonl import Row
from forkpoint.report.content import Chart, Page, Table, number
from forkpoint.report.figures.charts import MetricLine, curves_svg

FILES = (SUMMARY,)
History = Sequence[Row]
MetricName = tuple[str, str, int]
SHOWN = (
    "loss", "loss/all", "loss/unselected", "selection/share", "selection/documents_none", "rewards/chosen",
    "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected", "kl/chosen",
    "kl/rejected", "mean_token_accuracy",
)  # fmt: skip
ARGUMENTS = {
    "learning_rate": "learning rate", "num_train_epochs": "epochs", "per_device_train_batch_size": "batch size",
}  # fmt: skip
MOST_STEPS = 2000  # rows of the table of steps: more take a browser long
LOW, MEDIAN, HIGH = (f"selection/documents_p{percent}" for percent in (10, 50, 90))


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart of metrics against the step, there where the first of them is; each is multiplied by `scale`.

    A line is a metric, its name in the chart, and its style's place in LINES.
    """

    title: str
    label: str
    lines: Sequence[MetricName]
    scale: float = 1
    limits: tuple[float, float] | None = None


def _on_pairs(group: str, *names: str) -> list[MetricName]:
    return [line for i, name in enumerate(names) for line in _both(f"{group}/{name}", name, f"{name}, held out", i)]


def _both(metric: str, training: str, held_out: str, style: int = 0) -> list[MetricName]:
    return [(metric, training, style), (f"eval_{metric}", held_out, style)]


SHARES = (-4, 104)  # per cent, with room for the line of 100
TOKEN_LOSS = "mean loss of a token (nats)"
PAIR_LOSS = Panel("Loss", "mean loss of a pair", _both("loss", "training pairs", "held-out pairs"))
LOSSES = {  # by the method; a preference method's is PAIR_LOSS
    "sft": Panel("Loss", TOKEN_LOSS, _both("loss", "chosen responses", "held-out responses")),
    "clm": Panel("Loss", TOKEN_LOSS, _both("loss", "training text", "held-out text")),
    "slm": Panel("Loss", TOKEN_LOSS, [
        ("loss", "selected tokens", 0), ("loss/unselected", "tokens left out", 1), ("loss/all", "all tokens", 2),
        ("eval_loss", "held-out text, all tokens", 3),
    ]),
}  # fmt: skip
PANELS = (
    Panel("Log-probability of the responses", "mean log-probability of a response (nats)",
          _on_pairs("logps", "chosen", "rejected")),
    Panel("Rewards", "mean reward of a response (β × nats above the reference)",
          _on_pairs("rewards", "chosen", "rejected", "margins")),
    Panel("Accuracy of the rewards", "pairs whose chosen response has the higher reward (%)",
          _both("rewards/accuracies", "training pairs", "held-out pairs"), 100, SHARES),
    Panel("Divergence from the reference", "mean KL divergence of a response (nats)",
          _on_pairs("kl", "chosen", "rejected")),
    Panel("Accuracy on tokens", "tokens that are the likeliest (%)",
          _both("mean_token_accuracy", "chosen responses", "held-out responses"), 100),
    Panel("Tokens selected", "share of the tokens (%)",
          [(MEDIAN, "median document", 1), ("selection/share", "all documents", 0)], 100, SHARES),
)  # fmt: skip


def page(summary: Row, run: Path | None = None) -> Page:
    """What `train` and `pretrain` return."""
    method, history = summary["method"], summary["history"]
    sections: list[Table | Chart] = []
    if any("loss" in row for row in history):
        kept = [row for row in history if row["step"] <= summary.get("saved_step", summary["steps"])]
        sections = [_ends(method, kept), *_charts(method, history), _steps(history)]
    return Page(f"Training by {method}: {summary['model']}", _lines(summary), sections)


def _lines(summary: Row) -> list[str]:
    data = f"{summary['pairs']:,} pairs" if "pairs" in summary else f"{summary['rows']:,} rows"
    lines = [
        f"{summary['model']}, {summary['method']}: {data}, {summary['steps']:,} steps, "
        f"{summary['tokens_in_an_epoch']:,} tokens an epoch"
    ]
    if left_out := summary.get("too_long", 0) + summary.get("eval_too_long", 0):
        lines.append(f"{left_out:,} pairs were too long and left out")
    if (step := summary.get("saved_step", summary["steps"])) != summary["steps"]:
        lines.append(f"the model is that of step {step:,}, the best one")
    constants = [f"{name} {summary[name]}" for name in ("beta", "gamma", "alpha") if summary.get(name) is not None]
    if summary["method"] == "slm":
        constants.append("rule {score}, ratio {ratio}, scope {scope}".format(**summary["rule"]))
    arguments = summary["arguments"]
    constants += [f"{word} {arguments[name]:g}" for name, word in ARGUMENTS.items() if name in arguments]
    return [*lines, ", ".join([*constants, f"seed {summary['seed']}"])]


def _ends(method: str, history: History) -> Table:
    """The metrics as they were logged first and last, in training and on what was held out."""
    ends = {}
    for prefix, when in (("", "up to"), ("eval_", "held out,")):
        logged = [row for row in history if f"{prefix}loss" in row]
        for row in (logged[0], logged[-1]) if logged else ():
            ends[f"{when} step {row['step']:,}"] = {name: row.get(prefix + name) for name in SHOWN}
    rows = [
        (name, *(number(values[name]) for values in ends.values()))
        for name in SHOWN if any(values[name] is not None for values in ends.values())
    ]  # fmt: skip
    of_all = method == "slm" and any("eval_loss" in row for row in history)
    note = "The loss of held-out text is that of all its tokens." if of_all else ""
    return Table("Metrics at the beginning and at the end", ("metric", *ends), rows, note=note)


def _charts(method: str, history: History) -> list[Chart]:
    charts: list[Chart] = []
    for panel in (LOSSES.get(method, PAIR_LOSS), *PANELS):
        if any(panel.lines[0][0] in row for row in history):
            note = "" if charts else _points_are(history)
            charts.append(Chart(panel.title, partial(_svg, panel, history), note))
    return charts


def _points_are(history: History) -> str:
    """What a point in the charts is: the trainer averages since it last logged, which it also does at every save."""
    steps = [0, *(row["step"] for row in history if "loss" in row)]
    lengths = sorted({b - a for a, b in pairwise(steps)})
    if lengths == [1]:
        return ""
    over = f"{lengths[0]:,}" if len(lengths) == 1 else f"{lengths[0]:,} to {lengths[-1]:,}"
    held_out = "; a held-out one is of that step alone" if any("eval_loss" in row for row in history) else ""
    return f"A point of the training is the mean over the {over} steps since the point before it{held_out}."


def _svg(panel: Panel, history: History) -> str:
    curves = []
    if panel.lines[0][0] == MEDIAN:
        (steps, low), (_, high) = (_points(history, name, panel.scale) for name in (LOW, HIGH))
        curves.append(MetricLine("documents, 10% to 90% of them", steps, ends=list(zip(low, high, strict=True))))
    for metric, label, style in panel.lines:
        steps, values = _points(history, metric, panel.scale)
        if steps:
            curves.append(MetricLine(label, steps, values, style, metric.startswith("eval_")))
    return curves_svg(curves, panel.label, limits=panel.limits)


def _points(history: History, name: str, scale: float) -> tuple[list[int], list[float]]:
    """The steps at which a metric was logged, and its values."""
    rows = [row for row in history if row.get(name) is not None]
    return [row["step"] for row in rows], [scale * row[name] for row in rows]


def _steps(history: History) -> Table:
    """All that was logged, a row a step; of very many steps one in so many."""
    by_step: dict[int, dict[str, float]] = {}
    for row in history:
        by_step.setdefault(row["step"], {}).update(row)
    every = -(-len(by_step) // MOST_STEPS)
    names = sorted({name for row in history for name in row} - {"step"}, key=_place)
    rows = [(f"{step:,}", *(_cell(name, row.get(name)) for name in names)) for step, row in [*by_step.items()][::every]]
    title = "Every logged step" if every == 1 else f"One in {every:,} of the logged steps"
    return Table(title, ("step", *names), rows, left=0, folded=True)


def _place(name: str) -> tuple[bool, int, str]:
    """Metrics in the order of SHOWN, then others; those on what was held out behind them."""
    own = name.removeprefix("eval_")
    return own != name, SHOWN.index(own) if own in SHOWN else len(SHOWN), name


def _cell(name: str, value: float | None) -> str:
    if name == "learning_rate" and value is not None:
        return f"{value:.2e}"
    return f"{value:,}" if isinstance(value, int) else number(value)
