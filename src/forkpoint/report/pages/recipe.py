"""The page of a recipe's run: its stages with their pages, and side by side what evaluations and trainings came to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from forkpoint.evaluation.results import differences
from forkpoint.files import CONFIG, RESULTS, SAMPLES, SUMMARY, read_json
from forkpoint.jsonl import Row
from forkpoint.recipe import RECORDS, REFERENCE, UNIMPORTANT, Record, read_records
from forkpoint.report.content import Chart, Column, Link, Page, Table, number
from forkpoint.report.figures.charts import accuracy_svg, ratios_svg
from forkpoint.report.page import REPORT
from forkpoint.report.pages.eval import FIGURES, differences_table, lines_of
from forkpoint.weights.rules import UNIFORM

FILES = (RECORDS,)
APART = ("ratio", "snapshots", *UNIMPORTANT)  # options without which trainings are on one line of the ratios' chart
NAMES: dict[str, Column] = {"strategy": "{strategy}", "stage": "{stage}"}
LOSSES: dict[str, Column] = {
    "stage": "{stage}", "method": "{method}", "tokens": lambda training: _selected(training), "steps": "{steps:,}",
    "eval_loss": lambda training: number(training["eval_loss"]),
}  # fmt: skip


def page(_: Row, run: Path) -> Page:
    """What recipe.json and the stages' results hold. UserError where one of them is broken."""
    name, verbs, records = read_records(run / RECORDS)
    stages = {stage: records.get(stage, Record(verb, None)) for stage, verb in verbs.items()}
    evaluations = _results(run, stages, "eval", RESULTS)
    trainings = [
        {**summary, "eval_loss": losses[-1]}
        for summary in _results(run, stages, "train", SUMMARY)
        if (losses := [entry["eval_loss"] for entry in summary.get("history", []) if "eval_loss" in entry])
    ]
    sections: list[Table | Chart] = [_stages(run, stages)]
    for task in dict.fromkeys(results["task"] for results in evaluations):
        on_task = [results for results in evaluations if results["task"] == task]
        sections += [*_accuracies(task, on_task), *_differences(run, task, on_task)]
    if trainings:
        note = (
            "At the end, in nats. Of clm and slm it is the mean over every held-out token, whatever was trained on; "
            "preference methods have losses of their own."
        )
        table = Table.of("Held-out loss of the trainings", trainings, LOSSES, left=3, note=note)
        sections += [*_ratios(trainings), table]
    done = [record for record in stages.values() if record.done]
    many = "All" if len(done) == len(stages) else f"{len(done):,} of"
    line = f"{many} {len(stages):,} stages are done, in {sum(record.seconds for record in done):,.1f} seconds."
    return Page(f"Recipe {name}", [line], sections)


def _results(run: Path, stages: Mapping[str, Record], verb: str, file: str) -> list[Row]:
    """What the file of each finished stage of a verb holds, with the stage's name and options."""
    return [
        {**read_json(run / name / file), "stage": name, "options": record.options or {}}
        for name, record in stages.items()
        if record.done and record.verb.split()[0] == verb and (run / name / file).is_file()
    ]


def _stages(run: Path, stages: Mapping[str, Record]) -> Table:
    """The stages, each name a link to the stage's own page, with the earlier stages that their options refer to."""
    rows = [
        (
            Link(name, f"{name}/{REPORT}") if (run / name / REPORT).is_file() else name, record.verb,
            ", ".join(dict.fromkeys(REFERENCE.findall(json.dumps(record.options or {})))),
            "done" if record.done else "not done", number(record.seconds, 1) if record.done else "",
        )
        for name, record in stages.items()
    ]  # fmt: skip
    return Table("Stages", ("stage", "verb", "made from", "state", "seconds"), rows, left=4)


def _accuracies(task: str, evaluations: Sequence[Row]) -> list[Table | Chart]:
    """Every strategy of every evaluation on a task, the same strategy's beneath each other."""
    every = [{**results, **figures} for results in evaluations for figures in results["strategies"]]
    specs = [row["strategy"] for row in every]
    every.sort(key=lambda row: specs.index(row["strategy"]))
    drawn = [{**row, "strategy": f"{row['strategy']}, {row['stage']}"} for row in every]
    columns = NAMES | {
        "accuracy": FIGURES["accuracy"], "95% interval": FIGURES["95% interval"], "problems": "{n_problems:,}",
        "tokens": FIGURES["tokens"],
    }  # fmt: skip
    return [
        Chart(f"Accuracy on {task} with 95% intervals", partial(accuracy_svg, drawn)),
        Table.of(f"Evaluations on {task}", every, columns, left=2),
    ]


def _differences(run: Path, task: str, evaluations: Sequence[Row]) -> list[Table]:
    """Where stages evaluate on the same problems, in the same prompt: each strategy of the later against the first."""
    groups: dict[tuple[str, str], list[str]] = {}
    for results in evaluations:
        stage = results["stage"]
        if (run / stage / SAMPLES).is_file():
            problems = read_json(run / stage / CONFIG)["problems"]  # their number and a hash of what they hold
            groups.setdefault((results["prompt"], problems), []).append(stage)
    tables = []
    for first, *later in groups.values():
        if not later:
            continue
        before = _scores(run / first / SAMPLES)
        after = {stage: _scores(run / stage / SAMPLES) for stage in later}
        both = [(spec, stage) for spec in before for stage in later if spec in after[stage]]
        if both:  # else they have no strategy in common
            pairs = [
                ([*before[spec].values()], [after[stage][spec][problem] for problem in before[spec]])
                for spec, stage in both
            ]
            compared = [
                {"strategy": spec, "stage": stage, **figures}
                for (spec, stage), figures in zip(both, differences(pairs), strict=True)
            ]
            tables.append(differences_table(f'Against the stage "{first}" on {task}', compared, NAMES))
    return tables


def _scores(samples: Path) -> dict[str, dict[str, float]]:
    """The score of each problem by strategy and id."""
    scores: dict[str, dict[str, float]] = {}
    for _, [strategy, problem, score] in lines_of(samples, "strategy", "problem_id", "score"):
        scores.setdefault(strategy, {})[problem] = score
    return scores


def _selected(training: Row) -> str:
    """Which tokens a training on text selects."""
    rule = training.get("rule")
    return "" if not rule else "all" if rule["score"] == UNIFORM else f"{rule['score']} {100 * rule['ratio']:g}%"


def _ratios(trainings: Sequence[Row]) -> list[Chart]:
    """The held-out loss by the kept share, where trainings differ by it alone."""
    lines: dict[str, list[Row]] = {}  # by the other options
    for training in trainings:
        if training["method"] == "slm":
            others = {key: value for key, value in training["options"].items() if key not in APART}
            lines.setdefault(json.dumps(others, sort_keys=True), []).append(training)
    swept = [line for line in lines.values() if len({training["rule"]["ratio"] for training in line}) > 1]
    if not swept:
        return []
    names = [line[0]["rule"]["score"].replace("_", " ") for line in swept]
    drawn = {
        name if names.count(name) == 1 else f"{name} ({line[0]['stage']}, …)": [
            (training["rule"]["ratio"], training["eval_loss"]) for training in line
        ]
        for name, line in zip(names, swept, strict=True)
    }
    read = {(line[0]["corpus"], line[0]["eval_data"]) for line in swept}
    on_all = {
        training["stage"]: training["eval_loss"]
        for training in trainings
        if training["method"] == "clm" and (training["corpus"], training["eval_data"]) in read
    }
    return [Chart("Held-out loss by the share of the tokens", partial(ratios_svg, drawn, on_all))]
