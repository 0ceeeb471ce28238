"""The page of a recipe's run: its stages with their pages, and side by side what evaluations and trainings came to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from forkpoint.evaluation.results import differences
from forkpoint.files import CONFIG, RESULTS, SAMPLES, SUMMARY, read_json
from forkpoint.jsonl import Row
from forkpoint.recipe import RECORDS, REFERENCE, UNIMPORTANT, Record, read_records
from forkpoint.report.content import Chart, Link, Page, Table, number, percents
from forkpoint.report.figures.charts import accuracy_svg, ratios_svg
from forkpoint.report.page import REPORT
from forkpoint.report.pages.eval import differences_table, lines_of
from forkpoint.weights.rules import UNIFORM

FILES = (RECORDS,)
Stages = Mapping[str, Record]
Results = Mapping[str, Row]  # what a stage's file holds, by the stage's name
APART = ("ratio", "snapshots", *UNIMPORTANT)  # options without which trainings are on one line of the ratios' chart


def page(_: Row, run: Path) -> Page:
    """What recipe.json and the stages' results hold. UserError where one of them is broken."""
    name, verbs, records = read_records(run / RECORDS)
    stages = {stage: records.get(stage, Record(verb, None)) for stage, verb in verbs.items()}
    evaluations = _results(run, stages, "eval", RESULTS)
    trainings = {
        stage: {**summary, "eval_loss": losses[-1]}
        for stage, summary in _results(run, stages, "train", SUMMARY).items()
        if (losses := [entry["eval_loss"] for entry in summary.get("history", []) if "eval_loss" in entry])
    }
    sections: list[Table | Chart] = [_stages(run, stages)]
    for task in dict.fromkeys(results["task"] for results in evaluations.values()):
        on_task = {stage: results for stage, results in evaluations.items() if results["task"] == task}
        sections += [*_accuracies(task, on_task), *_differences(run, task, on_task)]
    if trainings:
        sections += [*_ratios(trainings, stages), _losses(trainings)]
    done = [record for record in stages.values() if record.done]
    many = "All" if len(done) == len(stages) else f"{len(done):,} of"
    line = f"{many} {len(stages):,} stages are done, in {sum(record.seconds for record in done):,.1f} seconds."
    return Page(f"Recipe {name}", [line], sections)


def _results(run: Path, stages: Stages, verb: str, file: str) -> Results:
    """The results of the finished stages of a verb."""
    return {
        name: read_json(run / name / file)
        for name, record in stages.items()
        if record.done and record.verb.split()[0] == verb and (run / name / file).is_file()
    }


def _stages(run: Path, stages: Stages) -> Table:
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


def _accuracies(task: str, evaluations: Results) -> list[Table | Chart]:
    """Every strategy of every evaluation on a task, the same strategy's beneath each other."""
    every = [(stage, results, s) for stage, results in evaluations.items() for s in results["strategies"]]
    specs = list(dict.fromkeys(s["strategy"] for *_, s in every))
    every.sort(key=lambda entry: specs.index(entry[2]["strategy"]))
    rows = [
        (
            s["strategy"], stage, f"{s['accuracy']:.1%}", percents(s["ci95"]), f"{results['n_problems']:,}",
            f"{s['tokens_generated']:,}",
        )
        for stage, results, s in every
    ]  # fmt: skip
    drawn = [{**s, "strategy": f"{s['strategy']}, {stage}"} for stage, _, s in every]
    columns = ("strategy", "stage", "accuracy", "95% interval", "problems", "tokens")
    return [
        Chart(f"Accuracy on {task} with 95% intervals", partial(accuracy_svg, drawn)),
        Table(f"Evaluations on {task}", columns, rows, left=2),
    ]


def _differences(run: Path, task: str, evaluations: Results) -> list[Table]:
    """Where stages evaluate on the same problems, in the same prompt: each strategy of the later against the first."""
    groups: dict[tuple[str, str], list[str]] = {}
    for stage, results in evaluations.items():
        if (run / stage / SAMPLES).is_file():
            problems = read_json(run / stage / CONFIG)["problems"]  # their number and a hash of what they hold
            groups.setdefault((results["prompt"], problems), []).append(stage)
    tables = []
    for first, *later in groups.values():
        scores = {stage: _scores(run / stage / SAMPLES) for stage in (first, *later)} if later else {}
        names = [(spec, stage) for spec in scores.get(first, ()) for stage in later if spec in scores[stage]]
        if names:  # none where they have no strategy in common
            before = {spec: list(scores[first][spec].values()) for spec, _ in names}
            after = [[scores[stage][spec][i] for i in scores[first][spec]] for spec, stage in names]
            compared = differences([(before[spec], own) for (spec, _), own in zip(names, after, strict=True)])
            title = f'Against the stage "{first}" on {task}'
            tables.append(differences_table(title, ("strategy", "stage"), list(zip(names, compared, strict=True))))
    return tables


def _scores(samples: Path) -> dict[str, dict[str, float]]:
    """The score of each problem by strategy and id."""
    scores: dict[str, dict[str, float]] = {}
    for _, [strategy, problem, score] in lines_of(samples, "strategy", "problem_id", "score"):
        scores.setdefault(strategy, {})[problem] = score
    return scores


def _losses(trainings: Results) -> Table:
    rows = [
        (stage, summary["method"], _rule(summary), f"{summary['steps']:,}", number(summary["eval_loss"]))
        for stage, summary in trainings.items()
    ]
    note = (
        "At the end, in nats. Of clm and slm it is the mean over every held-out token, whatever was trained on; "
        "preference methods have losses of their own."
    )
    return Table("Held-out loss of the trainings", ("stage", "method", "tokens", "steps", "eval_loss"), rows, 3, note)


def _rule(summary: Row) -> str:
    """Which tokens a training on text selects."""
    rule = summary.get("rule")
    return "" if not rule else "all" if rule["score"] == UNIFORM else f"{rule['score']} {100 * rule['ratio']:g}%"


def _ratios(trainings: Results, stages: Stages) -> list[Chart]:
    """The held-out loss by the kept share, where trainings differ by it alone."""
    lines: dict[str, list[str]] = {}  # stages with the same other options
    points: dict[str, tuple[float, float]] = {}
    for stage, summary in trainings.items():
        if summary["method"] == "slm":
            points[stage] = summary["rule"]["ratio"], summary["eval_loss"]
            options = {key: value for key, value in (stages[stage].options or {}).items() if key not in APART}
            lines.setdefault(json.dumps(options, sort_keys=True), []).append(stage)
    swept = [line for line in lines.values() if len({points[stage][0] for stage in line}) > 1]
    if not swept:
        return []
    names = [trainings[first]["rule"]["score"].replace("_", " ") for first, *_ in swept]
    drawn = {
        name if names.count(name) == 1 else f"{name} ({line[0]}, …)": [points[stage] for stage in line]
        for name, line in zip(names, swept, strict=True)
    }
    texts = {_texts(trainings[first]) for first, *_ in swept}
    every = {s: t["eval_loss"] for s, t in trainings.items() if t["method"] == "clm" and _texts(t) in texts}
    return [Chart("Held-out loss by the share of the tokens", partial(ratios_svg, drawn, every))]


def _texts(summary: Row) -> tuple[str, str]:
    """What a training read, and what it was held against."""
    return summary["corpus"], summary["eval_data"]
