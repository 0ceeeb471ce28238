"""`forkpoint logits` as a user meets it: its files, their agreement with the model, resuming, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import build_model, tiny_config

from forkpoint.cli import main
from forkpoint.cli.logits import SAMPLERS
from forkpoint.engines import load_engine
from forkpoint.evaluation import logit_study as logits
from forkpoint.evaluation.logit_study import LogitsConfig, read_table, study_logits
from forkpoint.report.figures.logits_figure import draw_logits
from forkpoint.tasks import load_problems, render_prompt
from forkpoint.types import Request, Sampling

ASKED = ("--positions", "first,uncertain,3", "--sampler", "top_n_sigma=1", "--sampler", "top_k=50,top_p=0.9",
         "--sampler", "p_less=true", "--temperatures", "1,3", "--temperature", "1.5", "--seed", "5",
         "--prompt", "cot", "--limit", "2", "--max-tokens", "60", "--device", "cpu", "--quiet")  # fmt: skip
SPECS = ["top_n_sigma=1", "top_k=50,top_p=0.9", "p_less=true"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("logits") / "run"
    assert main(["logits", *ASKED, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def summary(finished) -> dict:
    return json.loads((finished / "summary.json").read_text())


@pytest.fixture(scope="module")
def responses(lab) -> list[tuple[str, list[int], list[int]]]:
    """Of each problem: its id, the prompt's ids, and those of the response that the run should have drawn."""
    problems = load_problems("lab", limit=2)
    prompts = {p.id: render_prompt(p, "cot", lab.tokenizer) for p in problems}
    sampling = Sampling(temperature=1.5, max_tokens=60, stop=("\n\nQ:", "\nQ:"), seed=5)
    found = {c.key: c for c in lab.generate([Request(f"{k}/0", p) for k, p in prompts.items()], sampling)}
    return [(k, list(p), list(found[f"{k}/0"].token_ids)) for k, p in prompts.items()]


@pytest.fixture(scope="module")
def model_logits(lab, responses) -> dict[str, torch.Tensor]:
    """The model's own logits [n, V] for each response's tokens, by plain forward passes."""
    with torch.inference_mode():
        return {
            name: lab.model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1].double()
            for name, prompt, tokens in responses
        }


def test_every_file_is_there(finished, summary):
    figures = {"kept", "distance"} | {f"{kind}-{one['position']}" for kind in ("histogram", "sorted") for one in
                                      summary["chosen"]}  # fmt: skip
    tables = {"histogram.csv", "sorted.csv", "kept.csv", "distance.csv", "summary.json", "config.json"}
    images = {f"{name}.{kind}" for name in figures for kind in ("svg", "png")}
    pages = {"report.html", "command.json"}
    assert {p.name for p in finished.iterdir() if p.name[0] != "."} == tables | images | pages
    for name in figures:
        assert ElementTree.parse(finished / f"{name}.svg").getroot().tag.endswith("svg")
        assert Image.open(finished / f"{name}.png").width == 1320


def test_the_table_along_the_responses_is_the_models(finished, responses, model_logits):
    table = read_table(finished / "distance.csv")
    for name, _, tokens in responses:
        rows = [row for row in table if row["problem_id"] == name]
        assert [row["position"] for row in rows] == list(range(len(tokens)))
        assert [row["token_id"] for row in rows] == tokens
        logits = model_logits[name]
        sigma, mean, top = logits.std(-1, unbiased=False), logits.mean(-1), logits.amax(-1)
        entropy = torch.distributions.Categorical(logits=logits).entropy()
        taken = logits.softmax(-1).gather(-1, torch.tensor(tokens)[:, None])[:, 0]
        for column, wanted in {
            "maximum": top, "mean": mean, "sigma": sigma, "distance": (top - mean) / sigma, "entropy": entropy,
            "probability": taken,
        }.items():  # fmt: skip
            np.testing.assert_allclose([row[column] for row in rows], wanted, rtol=1e-4, atol=1e-5)


def test_chosen_positions_are_the_asked_ones(summary, finished, responses, model_logits):
    name, _, tokens = responses[0]
    entropy = torch.distributions.Categorical(logits=model_logits[name]).entropy()
    named = {one["position"]: one["named"] for one in summary["chosen"]}
    assert named == {0: ["first"], int(entropy.argmax()): ["uncertain"], 3: []}
    rows = read_table(finished / "distance.csv")
    for p, one in ((one["position"], one) for one in summary["chosen"]):
        assert one["token_id"] == tokens[p]
        for column in ("maximum", "mean", "sigma", "distance", "entropy"):
            assert one[column] == pytest.approx(rows[p][column], rel=1e-8)


def test_kept_sizes_are_counted_over_all_responses(finished, summary, model_logits):
    rows = torch.cat(list(model_logits.values())).float()
    counts = {}
    for t in (1.0, 3.0):
        top = rows.amax(-1, keepdim=True)
        counts["top_n_sigma=1", t] = (rows >= top - rows.std(-1, unbiased=False, keepdim=True)).sum(-1)
        p = (rows / t).softmax(-1)
        counts["p_less=true", t] = (p >= p.square().sum(-1, keepdim=True)).sum(-1)
    table = {(row["sampler"], row["temperature"]): row for row in read_table(finished / "kept.csv")}
    assert list(table) == [(spec, t) for spec in SPECS for t in (1.0, 3.0)]
    for key, wanted in counts.items():
        found = table[key]
        assert found["mean"] == pytest.approx(float(wanted.float().mean()), rel=1e-6)
        assert (found["least"], found["most"], found["positions"]) == (wanted.min(), wanted.max(), len(rows))
    for one in summary["chosen"]:
        assert one["kept"]["p_less=true"]["3"] == counts["p_less=true", 3.0][one["position"]]
        assert one["kept"]["top_n_sigma=1"]["1"] == one["kept"]["top_n_sigma=1"]["3"]


def test_histograms_and_sorted_tokens_are_the_models(finished, summary, responses, model_logits):
    histograms, ordered = read_table(finished / "histogram.csv"), read_table(finished / "sorted.csv")
    name, _, tokens = responses[0]
    for one in summary["chosen"]:
        p = one["position"]
        logits = model_logits[name][p]
        bins = [row for row in histograms if row["position"] == p]
        assert sum(row["count"] for row in bins) == len(logits)
        assert bins[0]["low"] == pytest.approx(float(logits.min()), abs=1e-4)
        assert bins[-1]["high"] == pytest.approx(float(logits.max()), abs=1e-4)
        rows = [row for row in ordered if row["position"] == p]
        assert [row["rank"] for row in rows] == list(range(1, 21))
        np.testing.assert_allclose([row["probability"] for row in rows], logits.softmax(-1).topk(20).values, rtol=1e-3)
        assert {row["token_id"] for row in rows if row["taken"]} == {tokens[p]} & {row["token_id"] for row in rows}
        assert sum(row["p_less=true"] for row in rows) == min(20, one["kept"]["p_less=true"]["1"])


def test_a_finished_run_is_drawn_again(capsys, finished):
    before = {p.name: p.read_bytes() for p in finished.iterdir()}
    (finished / "kept.png").unlink()
    assert main(["logits", *ASKED, "--out", str(finished)]) == 0
    assert {p.name: p.read_bytes() for p in finished.iterdir()} == before
    assert main(["logits", *ASKED, "--temperatures", "1,2", "--out", str(finished)]) == 2
    assert "another configuration: temperatures" in capsys.readouterr().err


def test_rows_come_in_blocks(lab, tmp_path, monkeypatch):
    """Logits that do not fit at once are taken in parts, and say the same."""
    prompt = {"p": tuple(lab.tokenizer("Q: Ada has 5 pens.\nA:")["input_ids"])}
    study = LogitsConfig(("top_n_sigma=1", "top_p=0.9"), (1.0, 2.0), sampling=Sampling(temperature=0.0, max_tokens=11))
    study_logits(lab, prompt, study, tmp_path / "whole")
    monkeypatch.setattr(logits, "rows_that_fit", lambda *_: 4)
    monkeypatch.setattr(logits, "ROWS", 3)
    study_logits(lab, prompt, study, tmp_path / "parts")
    for name in ("distance.csv", "kept.csv", "histogram.csv", "sorted.csv"):
        whole, parts = (read_table(tmp_path / run / name) for run in ("whole", "parts"))
        for one, other in zip(whole, parts, strict=True):
            for column, value in one.items():
                same = other[column] if isinstance(value, str) else pytest.approx(other[column], rel=1e-4, abs=1e-5)
                assert value == same


def test_ids_that_the_tokenizer_does_not_know(tokenizer, tmp_path):
    """Models often have a few more ids than their tokenizer."""
    engine = load_engine(build_model(tiny_config(tokenizer, vocab_size=len(tokenizer) + 400)), tokenizer)
    study = LogitsConfig(("top_k=50",), (1.0,), sampling=Sampling(temperature=0.0, max_tokens=6))
    study_logits(engine, {"p": (5, 6, 7)}, study, tmp_path / "run")
    unknown = [row for row in read_table(tmp_path / "run" / "sorted.csv") if row["token_id"] >= len(tokenizer)]
    assert unknown
    assert all(row["token"] == f"#{row['token_id']:.0f}" for row in unknown)
    assert draw_logits(tmp_path / "run")


def test_a_text_of_ones_own(tmp_path):
    out = tmp_path / "own"
    argv = ("--prompt-text", "Q: Ada has 5 pens.\nA:", "--max-tokens", "9", "--out", str(out), "--quiet")
    assert main(["logits", *argv]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["samplers"] == SAMPLERS
    assert (summary["sampling"]["temperature"], summary["sampling"]["stop"]) == (0, [])
    assert {row["taken"] for row in read_table(out / "sorted.csv") if row["rank"] == 1} == {1.0}  # greedy
