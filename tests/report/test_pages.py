"""The page of every verb shows the run's numbers, in browser, terminal and notebook alike; broken files are refused."""

from __future__ import annotations

import json
import math
import shutil

import made_up_runs as made
import numpy as np
import pytest
from browser import embedded, parsed
from made_up_runs import RUNS, rows_of, write

import forkpoint
import forkpoint.report.notebook  # which shows what functions return
from forkpoint.cli import main
from forkpoint.evaluation.logit_study import read_table
from forkpoint.evaluation.statistics import paired_difference
from forkpoint.report import Chart, Link, Table, page_of, write_report
from forkpoint.report.figures.logits_figure import logits_figures
from forkpoint.report.page import BY_FILE, PAGES
from forkpoint.report.pages import contrast, critical, eval, lm_eval, pairs, rounds, store, training
from forkpoint.scores.store import SCORES, open_store
from forkpoint.text import visible_pieces
from forkpoint.types import UserError


def tables(page):
    return {section.title: section for section in page.sections if isinstance(section, Table)}


def charts(page):
    return {section.title: section for section in page.sections if isinstance(section, Chart)}


def squeezed(text):
    return "".join(text.split())


# Every page


def test_no_page_is_left_out():
    assert RUNS.keys() == {*PAGES.values(), *BY_FILE.values()}


@pytest.mark.parametrize("name", RUNS)
def test_browser_notebook_and_terminal_show_the_same(run_of, name, capsys):
    run = run_of(name)
    page = page_of(run)
    text = write_report(run, page).read_text()
    html, notebook = parsed(text), parsed(page._repr_html_())
    capsys.readouterr()
    assert main(["show", str(run)]) == 0
    browser, cell, terminal = map(squeezed, ("".join(html.text), "".join(notebook.text), capsys.readouterr().out))
    for line in map(squeezed, (page.title, *page.lines)):
        assert all(line in shown for shown in (browser, cell, terminal))
    for table in tables(page).values():
        for row in [table.columns, *table.rows]:
            line = squeezed("".join(cell.text if isinstance(cell, Link) else cell for cell in row))
            assert line in browser
            assert table.folded or line in cell
            words = " ".join(cell.text if isinstance(cell, Link) else cell for cell in row).split()
            assert table.folded or all(word in terminal for word in words)
    assert html.tags.count("svg") == notebook.tags.count("svg") == len(charts(page))
    assert "script" not in notebook.tags
    if page.tokens:
        data, rows = embedded(text), list(page.tokens.rows())
        assert [(row["id"], row["ids"], row["tokens"]) for row in data["rows"]] == [
            (row["id"], list(row["token_ids"]), list(row["tokens"])) for row in rows
        ]
        for shown, row in zip(data["rows"], rows, strict=True):
            for key, values in shown.get("columns", {}).items():
                names = next((s["values"] for s in data["scores"] if s["key"] == key and "values" in s), None)
                if names is None:
                    assert values == [None if v is None else pytest.approx(v, rel=1e-3) for v in row[key]]
                else:
                    own = [names[v] if isinstance(v, int) else v for v in row[key]]
                    assert [None if v is None else names[v] for v in values] == own


@pytest.mark.parametrize("verb", ["eval", "rounds", "score", "logits"])
def test_a_run_without_results_is_not_finished(tmp_path, verb):
    with pytest.raises(UserError, match="no finished run"):
        write_report(tmp_path)
    write(tmp_path, config={"verb": verb})
    with pytest.raises(UserError, match="is not finished; the same command"):
        write_report(tmp_path)
    write(tmp_path, other={})
    with pytest.raises(UserError, match="no finished run: there is no"):
        write_report(tmp_path)


def test_a_run_with_a_journal_says_how_far_it_is_and_one_of_another_version_that_it_is(tmp_path):
    write(tmp_path, config={"verb": "rounds"})
    write(tmp_path / "round-1", journal=[{}, {}])
    with pytest.raises(UserError, match="2 units are done"):
        page_of(tmp_path)
    with pytest.raises(UserError, match="of another version of forkpoint"):
        page_of(write(tmp_path / "other", config={"verb": "train"}, summary={"method": "sft"}))


@pytest.mark.parametrize(("name", "file", "change", "fact"), [
    ("contrast", "scores", {"critical_index": 3}, "critical_index must be one of the 3 tokens"),
    ("contrast", "scores", {"tokens": [" four"]}, "differ in length"),
    ("contrast", "scores", {"scores": [1, 2, 3]}, "scores must be an object"),
    ("contrast", "scores", {"scores": {"s": [1, 2]}}, "s must be a list with one value for each of the 3 tokens"),
    ("contrast", "scores", {"scores": {"entropy": [1, 2, "x"]}}, "entropy holds 'x'"),
    ("contrast", "scores", {"class": [0, 4, 0]}, "class holds 4"),
    ("contrast", "scores", {"id": 7}, "'id' should be a string"),
    ("critical", "critical", {"entropy": [1.0] * 999}, "entropy must be a list"),
    ("corpus", "corpus", {"kinds": [0]}, "kinds must be one of 0 to 4"),
    ("pairs", "pairs", {"rejected_weights": [0.5]}, "one number for each of the 2 tokens"),
])  # fmt: skip
def test_a_broken_row_is_named(run_of, tmp_path, name, file, change, fact):
    run = shutil.copytree(run_of(name), tmp_path / "run")
    first, *_ = rows_of(run / f"{file}.jsonl")
    write(run, **{file: [first, first | change]})
    with pytest.raises(UserError, match=rf"{file}\.jsonl line 2: .*({fact})"):
        write_report(run)


NO_AUC = made.contrast_summary()
for entry in (*NO_AUC["agreement"]["scorers"], *NO_AUC["agreement"]["comparisons"]):
    entry |= {"auc": None, "auc_ci95": None}


def contrast_gain(interval):
    summary = made.contrast_summary()
    summary["agreement"]["comparisons"][0]["auc_ci95"] = interval
    return summary


@pytest.mark.parametrize(("page", "summary", "facts"), [
    (pairs, made.pairs_summary(), ["1,600 responses to 1,100 questions, 797 right, 161 cut off", "3.5% above one half",
                                   "161 of 1,600 responses; raise", "another one with that answer was drawn|1,697|"]),
    (pairs, made.pairs_summary("forks"), ["33 pairs of 479 other tokens", "mean 0.583, from 0.042 to 1.000"]),
    (pairs, made.pairs_summary("trl"), ["1,100 pairs of 1,200 rows", "4 prompts end in tokens that change"]),
    (contrast, contrast_gain([0.1, 0.2]), ["is better than the model's own", "161 of 1,600", "|0.125 to 0.375|",
                                           "|+0.125 to +0.375|"]),
    (contrast, contrast_gain([-0.2, -0.1]), ["is worse than the model's own"]),
    (contrast, contrast_gain([-0.1, 0.1]), ["is not shown to differ from the model's own"]),
    (contrast, NO_AUC, ["the AUC is undefined", "|–|–|"]),
    (contrast, made.contrast_summary(agreement=None), ["scored: 1,777 tokens"]),
    (rounds, made.rounds_summary("none", "nothing left"), ["no filter", "nothing left", "|2|48.8%|60|1,067|2,212||",
                                                           "|0|||||50.0% (40 to 60)|51.0% (41 to 61)|53.0%"]),
    (rounds, made.rounds_summary("example"), ["the 25% least likely", "60 of 480 responses; round 1 on held-out"]),
    (rounds, made.rounds_summary("token"), ["tokens of a probability up to 0.9", "|0.54|0.55|5|"]),
    (training, made.preference_summary(alpha=None, saved_step=20), ["that of step 20, the best", "beta 0.5, learning"]),
    (training, made.preference_summary(too_long=2), ["2 pairs were too long", "|loss|0.510|0.525|0.508|0.525|"]),
    (training, made.selective_summary(), ["rule excess_loss, ratio 0.6", "|loss|0.505|0.510|0.334|"]),
    (training, made.preference_summary(history=[]), ["1,200 pairs, 25 steps"]),
])  # fmt: skip
def test_sentences_and_tables_say_what_the_summary_holds(page, summary, facts):
    shown = page.page(summary)
    rows = ["|".join(("", *row, "")) for table in tables(shown).values() for row in table.rows]
    text = "\n".join([*shown.lines, *rows])
    assert [fact for fact in facts if fact not in text] == []


# eval


def test_every_path_is_there_under_its_problem(run_of):
    samples = rows_of(run_of("eval") / "samples.jsonl")
    rows = {row["id"]: row for row in page_of(run_of("eval")).tokens.rows()}
    assert len(rows) == sum(len(row["paths"]) for row in samples)
    for sample in samples:
        several = len(sample["paths"]) > 1
        for i, path in enumerate(sample["paths"]):
            row = rows[f"{sample['problem_id']}/{sample['strategy']}" + (f"/{i}" if several else "")]
            assert (row["group"], row["gap"], row["span"]) == (sample["problem_id"], path["gaps"], path["span"])
            assert row["picked"] == (several and i == sample["chosen"])
            assert ("votes" in row["note"]) == (row["picked"] and sample["strategy"].startswith("self-consistency"))
            assert path["confidence"] is None or f"Δ {path['confidence']:.3f}" in row["note"]
            if path["answer"] == sample["answer"] is not None:
                assert row["correct"] == sample["correct"]
            assert row["marks"] == [s["correct"] for s in samples if s["problem_id"] == sample["problem_id"]]


@pytest.mark.parametrize(("strategy", "votes", "note"), [
    ("self-consistency:n=9", {"7": 1.0, "8": 6.0, "9": 2.0}, "; votes: 8 ×6, 9 ×2, 7 ×1"),
    ("self-consistency", dict.fromkeys("54321", 1), "; votes: 5 ×1, 4 ×1, 3 ×1, 2 ×1 and 1 more"),
    ("cot-decoding:aggregate=True", {"7": 1.0, "8": 1.256}, "; votes: 8 ×1.26, 7 ×1.00"),
    ("cot-decoding:k=3", {"7": 1.0, "8": 1.256}, ""), ("self-consistency", {}, "; no votes"),
])  # fmt: skip
def test_votes_stand_with_the_path_that_they_picked_and_unknown_answers_have_no_verdict(
    run_of, tmp_path, strategy, votes, note
):
    run = shutil.copytree(run_of("eval"), tmp_path / "run")
    path = rows_of(run / "samples.jsonl")[0]["paths"][0] | {"confidence": None, "continuation": None, "dropped": None}
    for key in ("correct", "cause"):
        path.pop(key, None)
    row = {"problem_id": "p", "strategy": strategy, "question": "q", "gold": "7", "answer": "8", "correct": False,
           "chosen": 1, "votes": votes, "paths": [path | {"answer": answer} for answer in ("7", "8", "6", None)],
           }  # fmt: skip
    rows = list(page_of(write(run, samples=[row])).tokens.rows())
    assert [row["note"] for row in rows] == ["", f"its answer was taken{note}", "", ""]
    assert [row["correct"] for row in rows] == [True, False, None, None]


def test_a_sweep_compares_by_value(run_of):
    results = json.loads((run_of("eval") / "results.json").read_text())
    lines = [{"strategy": name, "values": [2.0, 4.5], "specs": [f"{name}:2", f"{name}:4"]} for name in ("x", "y")]
    one = {"difference": 0.125, "ci95": [0.0, 0.25], "p_value": 0.5, "p_holm": 1.0, "test": "t"}
    compared = [one | {"a": a, "b": b} for a, b in (("x:2", "y:2"), ("x:4", "y:4"), ("x:4", "greedy"))]
    table = tables(eval.page(results | {"comparisons": compared, "sweep": {"option": "k", "lines": lines}}))
    rows = table["Against x at each k, problem by problem"].rows
    assert [row[:3] for row in rows] == [("2", "y", "+12.5"), ("4.5", "y", "+12.5"), ("4.5", "greedy", "+12.5")]


# critical, contrast, pairs


def test_critical_shows_what_it_found(run_of):
    run = run_of("critical")
    summary, page = json.loads((run / "summary.json").read_text()), page_of(run)
    assert f"{100 * summary['share_critical']:.1f}% of {summary['n_wrong']:,} wrong" in "\n".join(page.lines)
    nothing = {"n_wrong": 0, "share_critical": None, "critical_position": None, "token_kinds": [], "causes": [],
               "replacement": {"n_trajectories": 0, "table": []}}  # fmt: skip
    page = critical.page(summary | nothing)
    assert "replacement: no response has a critical token to replace" in page.lines
    assert (list(page.sections), "in the median" in "".join(page.lines)) == ([], False)
    empty = critical.page(summary | {"n_trajectories": 0, "which": "wrong"})
    assert empty.lines[-1].startswith("no response is wrong, so there is nothing to label")


def test_a_pair_is_two_rows_and_opens_with_the_weighted_one(run_of, tmp_path):
    rows = list(page_of(run_of("pairs")).tokens.rows())
    assert [(row["group"], row["label"], row["picked"]) for row in rows] == [
        ("right > wrong", "chosen", False), ("right > wrong", "rejected", True), ("other", "chosen", False),
        ("other", "rejected", False),
    ]  # fmt: skip
    assert [row["weight"] for row in rows] == [None, (0.125, 1.0), None, None]
    fork = made.pair_row(rejected_ids=[9], rejected_tokens=[" five"], rejected_weights=None, prompt="")
    forks = write(tmp_path, config={"verb": "pairs"}, summary=made.pairs_summary("forks"), pairs=[fork])
    chosen, rejected = page_of(forks).tokens.rows()
    assert (chosen["note"], rejected["note"]) == ("' four' in place of ' five' raises the success by 0.172", "")


# training, rounds


def test_of_very_many_steps_some_are_listed(monkeypatch):
    monkeypatch.setattr(training, "MOST_STEPS", 10)
    page = training.page(made.preference_summary(history=[made.logged(step, "loss") for step in range(1, 26)]))
    assert [row[0] for row in tables(page)["One in 3 of the logged steps"].rows] == [str(n) for n in range(1, 26, 3)]


@pytest.mark.parametrize(("summary", "titles"), [
    (made.preference_summary(), ["Loss", "Log-probability of the responses", "Rewards", "Accuracy of the rewards",
                            "Divergence from the reference"]),
    (made.selective_summary(), ["Loss", "Tokens selected"]), (made.selective_summary("clm"), ["Loss"]),
    (made.preference_summary(method="sft", history=[made.logged(5, "loss", "mean_token_accuracy")]),
     ["Loss", "Accuracy on tokens"]),
])  # fmt: skip
def test_a_training_has_the_charts_of_its_metrics(summary, titles):
    page = training.page(summary)
    assert list(charts(page)) == titles
    steps = [row["step"] for row in summary["history"] if "loss" in row]
    assert ("5 to 10 steps" in charts(page)["Loss"].note) == (steps == [10, 20, 25])


# lm-eval, recipes


def test_lm_eval_shows_every_metric_and_the_samples_side_by_side(run_of, tmp_path, monkeypatch):
    run = shutil.copytree(run_of("lm_eval"), tmp_path / "run")
    tasks, _, samples = page_of(run).sections
    assert tasks.rows[0][1:] == ("exact_match ↑, strict", "greedy", "0.5000", "0.0500")
    first, second, third = samples.rows
    assert first == ("maths", "strict", "What is 1 and 1?", "2", "✓ 2", "✓ 2")
    assert second == ("maths", "strict", "What is 2 and 1?", "3", "✗ 7", "✓ 3")
    assert (len(third[2]), third[3:]) == (lm_eval.LONGEST, ("yes", "✗ no", "✓ yes"))
    for path in run.glob("*/samples_choice.jsonl"):
        path.unlink()
    monkeypatch.setattr(lm_eval, "SAMPLES_SHOWN", 1)
    samples = page_of(run).sections[-1]  # of one task and filter, which need no column
    assert (samples.columns[0], len(samples.rows)) == ("question", 1)
    assert "The first 1 rows" in samples.note
    for broken in ("{", '{"doc_id": 1}'):
        (run / "greedy/samples_maths.jsonl").write_text(broken + "\n")
        with pytest.raises(UserError, match="cannot be shown: a file in it is broken"):
            page_of(run)


def test_a_recipe_shows_its_stages_with_their_pages(run_of, tmp_path):
    page = page_of(run_of("recipe"))
    assert page.lines == ["7 of 8 stages are done, in 87.5 seconds."]
    rows = dict(zip(made.STAGES, tables(page)["Stages"].rows, strict=True))
    assert rows["before"] == (Link("before", "before/report.html"), "eval", "", "done", "12.5")
    assert rows["last"] == ("last", "critical", "after", "not done", "")
    assert '<a href="before/report.html">before</a>' in write_report(run_of("recipe")).read_text()
    write(tmp_path, recipe={"stages": 3})
    with pytest.raises(UserError, match="is not what `forkpoint run` writes"):
        page_of(tmp_path)


AGAINST = 'Against the stage "before" on lab, problem by problem'


def test_a_recipe_compares_evaluations_of_the_same_problems(run_of, tmp_path):
    run = shutil.copytree(run_of("recipe"), tmp_path / "run")
    shown = tables(page_of(run))
    assert [row[:5] for row in shown["Evaluations on lab"].rows] == [
        ("greedy", "before", "25.0%", "15.0 to 35.0", "1,300"), ("greedy", "after", "87.5%", "77.5 to 97.5", "1,300"),
    ]  # fmt: skip
    low, high = paired_difference(list(made.BEFORE.values()), list(reversed(made.AFTER.values()))).ci95
    interval = f"{100 * low:+.1f} to {100 * high:+.1f}"
    assert shown[AGAINST].rows == [("greedy", "after", "+62.5", interval, f"{16 / 128:.2g}", f"{16 / 128:.2g}")]
    for changes in ({"problems": "3 (contents cd)"}, {"prompt": "cot"}):
        made.recipe_evaluation(run / "after", made.AFTER, **changes)
        assert AGAINST not in tables(page_of(run))
    made.recipe_evaluation(run / "after", made.AFTER)
    with (run / "after/samples.jsonl").open("a") as file:
        file.write('{"strategy": 3}\n')
    with pytest.raises(UserError, match=r"after/samples\.jsonl line 10 is broken"):
        page_of(run)


def test_a_recipe_shows_held_out_losses_and_a_sweep_of_ratios(run_of, tmp_path):
    run, title = shutil.copytree(run_of("recipe"), tmp_path / "run"), "Held-out loss by the share of the tokens"
    page = page_of(run)
    assert [tuple(row) for row in tables(page)["Held-out loss of the trainings"].rows] == [
        ("clm", "clm", "all", "10", "2.500"), ("slm-60", "slm", "excess_loss 60%", "10", "1.250"),
        ("slm-30", "slm", "excess_loss 30%", "10", "1.500"), ("drawn", "slm", "random 60%", "10", "2.750"),
    ]  # fmt: skip
    drawn = charts(page)[title].svg()
    assert all(f"<!-- {words} -->" in drawn for words in ("excess loss", "clm, all tokens"))
    write(run / "clm", summary=made.recipe_training("clm", 2.5, corpus="clean.jsonl"))
    assert "all tokens" not in charts(page_of(run))[title].svg()
    made.write_recipe(
        run, made.STAGES | {"slm-30": made.stage("train slm", store="{score}", ratio=0.3, learning_rate=1)}
    )
    assert title not in charts(page_of(run))


# plain documents, logits


def test_documents_show_their_classes(run_of, tmp_path):
    run = run_of("documents")
    dynamics = json.loads((run / "summary.json").read_text())["dynamics"]
    page = page_of(run)
    name, *numbers = tables(page)["Classes of tokens"].rows[0]
    facts = dynamics["classes"][name]
    losses = [f"{loss:.3f}" for loss in facts["mean_loss"]]
    assert numbers == [str(facts["tokens"]), f"{100 * facts['share']:.1f}%", *losses]
    assert page.lines[0] == "model lab, documents 3, ratio 0.6"
    empty = page_of(write(tmp_path, summary={"title": "Mine"}, documents=[]))
    assert (empty.title, list(empty.sections)) == ("Mine", [])
    assert "This run holds no documents." in write_report(tmp_path).read_text()


def test_the_corpus_counts_what_its_files_hold(run_of):
    run = run_of("corpus")
    page, rows = page_of(run), rows_of(run / "corpus.jsonl")
    files, kinds = tables(page).values()
    assert files.rows[0] == ("corpus.jsonl", str(len(rows)), f"{sum(len(row['input_ids']) for row in rows):,}")
    codes = [code for row in rows for code in row["kinds"]]
    for code, row in enumerate(kinds.rows):
        assert row[1:3] == (str(sum(code in one["kinds"] for one in rows)), f"{codes.count(code):,}")
    names = [row[0] for row in kinds.rows]
    shown = list(page.tokens.rows())
    assert [row["noise"] for row in shown] == [[names[c] if c else None for c in row["kinds"]] for row in rows[:50]]


def test_a_store_shows_how_its_scores_are_spread(run_of, tokenizer, tmp_path, monkeypatch):
    run = run_of("store")
    page, held = page_of(run), open_store(run)
    for row, name in zip(tables(page)["Scores in nats"].rows, SCORES, strict=True):
        values = np.concatenate([held[i].scores[name] for i in range(len(held))])
        values = values[np.isfinite(values)].astype(float)
        quantiles = np.quantile(values, store.QUANTILES, method="inverted_cdf")
        assert [float(cell) for cell in row[1:]] == pytest.approx([values.mean(), *quantiles, values.max()], abs=1e-3)
    for i, row in enumerate(page.tokens.rows()):
        assert row["token_ids"] == held[i].row.ids.tolist()
        assert row["tokens"] == visible_pieces(tokenizer, row["token_ids"])
        for name in SCORES:
            values = [math.nan if value is None else value for value in row[name]]
            assert values == pytest.approx(held[i].scores[name], rel=1e-3, nan_ok=True)

    class Shards:
        shards = [None] * 5

        def values(self, i, name):
            return np.array([i, np.nan], np.float16)

    monkeypatch.setattr(store, "SHARDS", 3)
    _, table = store.spread(Shards())
    assert table.note.startswith("Of 3 shards of 5")
    assert table.rows[0] == ("reference loss", "2.000", "0.000", "0.000", "2.000", "4.000", "4.000", "4.000")
    bare = shutil.copytree(run, tmp_path / "bare", ignore=shutil.ignore_patterns("documents.jsonl"))
    assert (page_of(bare).tokens, len(page_of(bare).sections)) == (None, 2)
    write(bare, store=json.loads((bare / "store.json").read_text()) | {"reference": None})
    assert page_of(bare).lines[0].endswith("scored by nobody: only tokenised")
    next(bare.glob("shard*")).unlink()
    with pytest.raises(UserError, match=r"shard-00000\.arrow is missing"):
        page_of(bare)


@pytest.mark.parametrize("options", [["--rule=union", "--ratio=0.5", "--entropy_ratio=0.2"], ["--ratio=1"]])
def test_a_selection_shows_the_selected_tokens(run_of, tmp_path, options):
    from datasets import load_from_disk

    out = made.command("select", f"--store={run_of('store')}", *options, out=tmp_path / "labels")
    page, summary = page_of(out), json.loads((out / "summary.json").read_text())
    kept, of = summary["selected_tokens"], summary["counted_tokens"]
    assert f"{kept:,} of {of:,} tokens ({kept / of:.1%}) are selected" in page.lines[0]
    for row, label in zip(page.tokens.rows(), load_from_disk(str(out)), strict=False):
        assert [mark == 1 for mark in row["selected"]] == [one != -100 for one in label["labels"]]
    assert charts(page)["Scores of what is selected and left out"].svg().startswith("<svg")
    (out / "documents.jsonl").unlink()
    assert (page_of(out).tokens, list(page_of(out).sections)) == (None, [])


def test_logits_show_the_figures_of_the_tables(run_of, tmp_path):
    run = run_of("logits")
    summary, page, text = json.loads((run / "summary.json").read_text()), page_of(run), write_report(run).read_text()
    for name in logits_figures(run):
        assert (run / f"{name}.svg").read_text().strip() in text
    for row, one in zip(page.sections[0].rows, summary["chosen"], strict=True):
        numbers = [one[name] for name in ("probability", "maximum", "mean", "sigma", "distance", "entropy")]
        assert [float(cell) for cell in row[2:]] == pytest.approx(numbers, abs=0.005)
    table = read_table(run / "distance.csv")
    for row in page.tokens.rows():
        own = [entry for entry in table if entry["problem_id"] == row["id"]]
        assert row["logprob"] == pytest.approx([math.log(entry["probability"]) for entry in own])
        assert [row["entropy"], row["distance"]] == [[e[name] for e in own] for name in ("entropy", "distance")]
    bare = shutil.copytree(run, tmp_path / "bare", ignore=shutil.ignore_patterns("sorted.csv", "*.svg"))
    with pytest.raises(UserError, match=r"no sorted\.csv"):
        page_of(bare)


def test_a_function_returns_what_a_notebook_shows(lab):
    results = forkpoint.evaluate(lab, forkpoint.load_problems("lab", limit=2), ["greedy"], task="lab")
    assert f"{100 * results['strategies'][0]['accuracy']:.1f}%" in results._repr_html_()
