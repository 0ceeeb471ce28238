"""The page of a recipe's run: its stages with their pages, and side by side what evaluations and trainings came to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from forkpoint.evaluation.evaluate import RESULTS, SAMPLES
from forkpoint.evaluation.results import differences
from forkpoint.files import CONFIG, read_json
from forkpoint.recipe import RECORDS, REFERENCE, UNIMPORTANT, Record, read_records
from forkpoint.report.content import Chart, Link, Page, Table, number, percent, percents
from forkpoint.report.figures.accuracy import accuracy_svg
from forkpoint.report.figures.ratios import ratios_svg
from forkpoint.report.page import REPORT
from forkpoint.report.pages.eval import DIFFERENCE, difference_cells, tests_note
from forkpoint.trajectories.rows import SUMMARY
from forkpoint.types import UserError
from forkpoint.weights.rules import NONE

Found = dict[str, dict[str, Any]]  # what a stage's file holds, by the stage's name
APART = ("ratio", "snapshots", *UNIMPORTANT)  # options without which trainings are on one line of the ratios' chart


def page(run: Path) -> Page:
    """What recipe.json and the stages' results hold. UserError where one of them is broken."""
    name, verbs, records = read_records(run / RECORDS)
    stages = {stage: records.get(stage, Record(verb, None)) for stage, verb in verbs.items()}
    evaluations = _results(run, stages, "eval", RESULTS)
    trainings = {
        stage: summary | {"eval_loss": loss}
        for stage, summary in _results(run, stages, "train", SUMMARY).items()
        if (loss := _held_out_loss(summary)) is not None
    }
    sections: list[Table | Chart] = [_stages(run, stages)]
    for task in dict.fromkeys(results["task"] for results in evaluations.values()):
        on_task = {s: r for s, r in evaluations.items() if r["task"] == task}
        sections += [*_accuracies(task, on_task), *_differences(run, task, on_task)]
    if trainings:
        sections += [*_ratios(trainings, stages), _losses(trainings)]
    return Page(f"Recipe {name}", [_state(stages)], sections)


def _results(run: Path, stages: Mapping[str, Record], verb: str, file: str) -> Found:
    """The results of the finished stages of a verb."""
    return {
        name: read_json(run / name / file)
        for name, record in stages.items()
        if record.done and record.verb.split()[0] == verb and (run / name / file).is_file()
    }


def _state(stages: Mapping[str, Record]) -> str:
    done = [record for record in stages.values() if record.done]
    many = "All" if len(done) == len(stages) else f"{len(done):,} of"
    return f"{many} {len(stages):,} stages are done, in {sum(record.seconds for record in done):,.1f} seconds."


def _stages(run: Path, stages: Mapping[str, Record]) -> Table:
    """The stages, each name a link to the stage's own page."""
    rows = [
        (
            Link(name, f"{name}/{REPORT}") if (run / name / REPORT).is_file() else name,
            record.verb, ", ".join(_from(record)), "done" if record.done else "not done",
            number(record.seconds, 1) if record.done else "",
        )
        for name, record in stages.items()
    ]  # fmt: skip
    return Table("Stages", ("stage", "verb", "made from", "state", "seconds"), rows, left=4)


def _from(record: Record) -> list[str]:
    """The earlier stages that a stage's options refer to."""
    return list(dict.fromkeys(REFERENCE.findall(json.dumps(record.options or {}))))


def _accuracies(task: str, evaluations: Found) -> list[Table | Chart]:
    """Every strategy of every evaluation on a task, the same strategy's beneath each other."""
    specs = dict.fromkeys(s["strategy"] for results in evaluations.values() for s in results["strategies"])
    found = [
        (stage, results, s)
        for spec in specs
        for stage, results in evaluations.items()
        for s in results["strategies"]
        if s["strategy"] == spec
    ]
    rows = [
        (
            s["strategy"], stage, percent(s["accuracy"]), percents(s["ci95"]), f"{results['n_problems']:,}",
            f"{s['tokens_generated']:,}",
        )
        for stage, results, s in found
    ]  # fmt: skip
    drawn = [s | {"strategy": f"{s['strategy']}, {stage}"} for stage, _, s in found]
    columns = ("strategy", "stage", "accuracy", "95% interval", "problems", "tokens")
    return [
        Chart(f"Accuracy on {task} with 95% intervals", partial(accuracy_svg, drawn)),
        Table(f"Evaluations on {task}", columns, rows, left=2),
    ]


def _differences(run: Path, task: str, evaluations: Found) -> list[Table]:
    """Where stages evaluate on the same problems, in the same prompt: each strategy of the later against the first."""
    alike: dict[tuple[str, str], list[str]] = {}
    for stage, results in evaluations.items():
        if (run / stage / SAMPLES).is_file():
            problems = read_json(run / stage / CONFIG)["problems"]  # their number and a hash of what they hold
            alike.setdefault((results["prompt"], problems), []).append(stage)
    tables = [_against(run, task, first, later) for first, *later in alike.values() if later]
    return [table for table in tables if table.rows]  # none where they have no strategy in common


def _against(run: Path, task: str, first: str, later: list[str]) -> Table:
    before, after = _scores(run / first / SAMPLES), {stage: _scores(run / stage / SAMPLES) for stage in later}
    named = [(spec, stage) for spec in before for stage in later if spec in after[stage]]
    pairs = [[(score, after[stage][spec][i]) for i, score in before[spec].items()] for spec, stage in named]
    compared = differences([([a for a, _ in pair], [b for _, b in pair]) for pair in pairs])
    rows = [(*names, *difference_cells(figures)) for names, figures in zip(named, compared, strict=True)]
    title = f'Against the stage "{first}" on {task}, problem by problem'
    return Table(title, ("strategy", "stage", *DIFFERENCE), rows, left=2, note=tests_note(compared))


def _scores(samples: Path) -> dict[str, dict[str, float]]:
    """The score of each problem by strategy and id; all else in the file is read past, line by line."""
    scores: dict[str, dict[str, float]] = {}
    with samples.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                scores.setdefault(row["strategy"], {})[row["problem_id"]] = row["score"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{samples} line {number} is broken: {error}") from error
    return scores


def _held_out_loss(summary: dict[str, Any]) -> float | None:
    """The last one that a training's log holds."""
    losses = [entry["eval_loss"] for entry in summary.get("history", []) if "eval_loss" in entry]
    return losses[-1] if losses else None


def _losses(trainings: Found) -> Table:
    rows = [
        (
            stage, summary["method"], _rule(summary), f"{summary['steps']:,}", number(summary["eval_loss"]),
        )
        for stage, summary in trainings.items()
    ]  # fmt: skip
    note = (
        "At the end, in nats. Of clm and slm it is the mean over every held-out token, whatever was trained on; "
        "preference methods have losses of their own."
    )
    return Table("Held-out loss of the trainings", ("stage", "method", "tokens", "steps", "eval_loss"), rows, 3, note)


def _rule(summary: dict[str, Any]) -> str:
    """Which tokens a training on text selects."""
    rule = summary.get("rule")
    return "" if not rule else "all" if rule["score"] == NONE else f"{rule['score']} {100 * rule['ratio']:g}%"


def _ratios(trainings: Found, stages: Mapping[str, Record]) -> list[Chart]:
    """The held-out loss by the kept share, where trainings differ by it alone."""
    lines: dict[str, list[tuple[str, float, float]]] = {}
    for stage, summary in trainings.items():
        if summary["method"] == "slm":
            options = {key: value for key, value in (stages[stage].options or {}).items() if key not in APART}
            point = (stage, summary["rule"]["ratio"], summary["eval_loss"])
            lines.setdefault(json.dumps(options, sort_keys=True), []).append(point)
    swept = [points for points in lines.values() if len({ratio for _, ratio, _ in points}) > 1]
    if not swept:
        return []
    texts = {_texts(trainings[points[0][0]]) for points in swept}
    every = {s: t["eval_loss"] for s, t in trainings.items() if t["method"] == "clm" and _texts(t) in texts}
    names = [trainings[points[0][0]]["rule"]["score"].replace("_", " ") for points in swept]
    drawn = {
        name if names.count(name) == 1 else f"{name} ({points[0][0]}, …)": [(ratio, loss) for _, ratio, loss in points]
        for name, points in zip(names, swept, strict=True)
    }
    return [Chart("Held-out loss by the share of the tokens", partial(ratios_svg, drawn, every))]


def _texts(summary: dict[str, Any]) -> tuple[str, str]:
    """What a training read, and what it was held against."""
    return summary["corpus"], summary["eval_data"]
