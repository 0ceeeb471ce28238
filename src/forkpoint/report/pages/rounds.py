"""The page of a `rounds` run: what each round was tuned on, and the figures on held-out problems after it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from forkpoint.files import SUMMARY
from forkpoint.jsonl import Row
from forkpoint.report.content import Chart, Page, Table, cut_off_hint
from forkpoint.report.figures.charts import rounds_svg
from forkpoint.training.heldout_eval import ks

FILES = (SUMMARY,)


def page(summary: Row, run: Path | None = None) -> Page:
    """What `tune_in_rounds` returns."""
    rule = summary["filter"]
    filters = {
        "none": "no filter",
        "example": f"the {100 * rule['keep_quantile']:g}% least likely right responses",
        "token": f"tokens of a probability up to {rule['max_token_probability']:g}",
    }
    lines = [
        f"tuned on its own right responses: {filters[rule['kind']]}",
        f"rounds {summary['rounds']}, n {summary['n']}, eval_n {summary['eval_n']}, prompt {summary['prompt']}, "
        f"temperature {summary['sampling']['temperature']:g}, seed {summary['sampling']['seed']}",
        *cut_off_hint(*(
            (f"round {row['round']}{where}, ", row[key]["cut_off"], row[key]["samples"])
            for row in summary["results"]
            for key, where in (("samples", ""), ("held_out", " on held-out problems"))
            if key in row
        )),
    ]  # fmt: skip
    if summary["stopped"]:
        lines.append(summary["stopped"])
    chart = Chart(
        "On held-out problems, after each round", partial(rounds_svg, {rule["kind"]: summary}),
        "Bands: 95% intervals. Round 0 is the model before any tuning.", wide=True,
    )  # fmt: skip
    return Page(f"Rounds: {summary['model']} on {summary['task']}", lines, [_table(summary), chart])


def _table(summary: Row) -> Table:
    """A row a round: what it was tuned on, and the figures on the held-out problems."""
    k = ks(summary["eval_n"])[-1]
    rows = [
        (
            str(row["round"]), *(_tuned_on(row["samples"]) if "samples" in row else [""] * 4),
            *(_figures(row["held_out"], k) if "held_out" in row else [""] * 6),
        )
        for row in summary["results"]
    ]  # fmt: skip
    columns = (
        "round", "right", "cut off", "tuned on", "tokens", "greedy", "sampled", f"pass@{k}", "answers", "responses",
        "cut off",
    )  # fmt: skip
    note = (
        f"right, cut off: of the samples; tokens: with loss. greedy, sampled, pass@{k}: on held-out problems, 95% "
        f"interval. answers, responses: how many of {summary['eval_n']} differ. cut off, last: of the held-out samples."
    )
    return Table("What each round was tuned on, and what came of it", columns, rows, left=0, note=note)


def _tuned_on(samples: Row) -> list[str]:
    right = (samples["samples"] - samples["wrong"]) / samples["samples"]
    tokens = samples["tokens"] - samples["masked_tokens"]
    return [f"{right:.1%}", f"{samples['cut_off']:,}", f"{samples['trained']:,}", f"{tokens:,}"]


def _figures(held_out: Row, k: int) -> list[str]:
    cells = []
    for name in ("greedy_accuracy", "sampled_accuracy", f"pass@{k}"):
        low, high = held_out[f"{name}_ci95"]
        cells.append(f"{held_out[name]:.1%} ({100 * low:.0f} to {100 * high:.0f})")
    distinct = (f"{held_out[name]:.2f}" for name in ("distinct_answers", "distinct_responses"))
    return [*cells, *distinct, f"{held_out['cut_off']:,}"]
