"""Whole runs of `pairs` on the lab: the files, the account of what was dropped, interruptions, and wrong input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lab_runs import rows_of
from made_up_pairs import written

from forkpoint.cli import main
from forkpoint.engines.loading import load_vocabulary
from forkpoint.lab.problem_generator import load_problems
from forkpoint.pairs.pair_building import PairConfig, pair_responses
from forkpoint.pairs.pair_files import read_pairs
from forkpoint.tasks import stop_strings
from forkpoint.types import Sampling, UserError

COMMAND = ["pairs", "--limit", "12", "--n", "6", "--max-tokens", "100", "--seed", "3"]
Row = dict[str, Any]


def contents(out: Path) -> dict[str, bytes]:
    """The files; where they name their own directory, in the command, it is left out."""
    files = [p for p in sorted(out.iterdir()) if p.name != ".lock"]
    return {p.name: p.read_bytes().replace(str(out).encode(), b"OUT") for p in files}


def made(out: Path, *argv: str) -> tuple[list[Row], Row]:
    """The rows and the summary of a run."""
    assert main(["pairs", *argv, "--out", str(out)]) == 0
    return rows_of(out / "pairs.jsonl"), json.loads((out / "summary.json").read_text())


def refused(capsys, *argv: str) -> str:
    """The one sentence with which a command is refused."""
    assert main(["pairs", *argv]) == 2
    err = capsys.readouterr().err
    assert err.startswith("forkpoint: ")
    assert len(err.strip().splitlines()) == 1
    return err


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """One run that samples."""
    out = tmp_path_factory.mktemp("run") / "out"
    assert main([*COMMAND, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def scores(finished, tmp_path_factory) -> Path:
    """A scores.jsonl of the run's wrong samples, with made-up scores."""
    rows = [row for row in rows_of(finished / "samples.jsonl") if not row["correct"]]
    for row in rows:
        n = len(row["token_ids"])
        row["scores"] = {"s": [1.0 if t == 0 else round((i + 1) / (n + 1), 6) for i, t in enumerate(row["token_ids"])]}
    return written(tmp_path_factory.mktemp("scores") / "scores.jsonl", *rows)


def test_the_pairs_are_of_the_samples(lab, finished):
    samples, rows = rows_of(finished / "samples.jsonl"), rows_of(finished / "pairs.jsonl")
    summary = json.loads((finished / "summary.json").read_text())
    assert len(samples) == 72
    by_ids = {(tuple(s["prompt_ids"]), tuple(s["token_ids"])): s for s in samples}
    assert 3 < len(rows) <= 12
    for row in rows:
        chosen, rejected = (by_ids[tuple(row["prompt_ids"]), tuple(row[f"{n}_ids"])] for n in ("chosen", "rejected"))
        assert (chosen["correct"], rejected["correct"]) == (True, False)
        assert chosen["problem_id"] == rejected["problem_id"] == row["problem_id"]
        assert (row["rejected_weights"], row["weight"]) == (None, 1.0)
        assert row["chosen"] == "".join(chosen["tokens"])
        assert row["prompt"].startswith(f"Q: {chosen['question']}")
    dropped = summary["dropped"]
    assert 2 * len(rows) + sum(dropped["responses"].values()) == 72
    assert len(rows) + sum(dropped["questions"].values()) == 12
    assert summary["counts"]["correct"] == sum(s["correct"] for s in samples)
    assert summary["tokens"]["chosen"]["most"] == max(len(row["chosen_ids"]) for row in rows)
    assert [pair.id for pair in read_pairs(finished, lab.tokenizer, lab.vocab_size)] == [row["id"] for row in rows]
    assert not (finished / "journal.jsonl").exists()


def test_samples_from_a_file(finished, tmp_path, monkeypatch):
    """No model is loaded for them."""
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    rows, summary = made(tmp_path / "out", *COMMAND[1:3], "--samples", str(finished), "--seed", "3")
    assert rows == rows_of(finished / "pairs.jsonl")
    assert "n" not in summary
    assert not (tmp_path / "out" / "samples.jsonl").exists()
    other, _ = made(tmp_path / "other", *COMMAND[1:3], "--samples", str(finished), "--seed", "4")
    assert {row["problem_id"] for row in other} == {row["problem_id"] for row in rows}
    assert other != rows


def test_scores_become_weights(lab, finished, scores, tmp_path):
    run = tmp_path / "contrast"  # its samples come with its scores
    run.mkdir()
    for path in (finished / "samples.jsonl", scores):
        (run / path.name).write_bytes(path.read_bytes())
    rows, summary = made(tmp_path / "out", "--limit", "12", "--scores", str(run), "--seed", "3")
    plain = rows_of(finished / "pairs.jsonl")
    assert [row | {"rejected_weights": None} for row in rows] == plain
    by_ids = {tuple(row["token_ids"]): row["scores"]["s"] for row in rows_of(scores)}
    for row in rows:
        assert row["rejected_weights"] == pytest.approx([1 - s for s in by_ids[tuple(row["rejected_ids"])]], abs=1e-6)
        assert row["rejected_ids"][-1] != 0 or row["rejected_weights"][-1] == 0
    weights = [w for row in rows for w in row["rejected_weights"]]
    assert summary["rejected_weights"]["tokens"] == len(weights)
    assert summary["rejected_weights"]["mean"] == pytest.approx(sum(weights) / len(weights), abs=1e-6)
    read = read_pairs(tmp_path / "out", lab.tokenizer, lab.vocab_size)
    assert [list(pair.rejected_weights or ()) for pair in read] == [row["rejected_weights"] for row in rows]
    one = tuple(plain[0]["rejected_ids"])
    fewer = written(tmp_path / "fewer.jsonl", *(row for row in rows_of(scores) if tuple(row["token_ids"]) != one))
    samples = ["--limit", "12", "--samples", str(finished), "--seed", "3"]
    kept, summary = made(tmp_path / "fewer", *samples, "--scores", str(fewer))
    assert kept == [row for row in rows if tuple(row["rejected_ids"]) != one]
    assert summary["dropped"]["questions"]["no_scores"] == len(plain) - len(kept) > 0
    assert 2 * len(kept) + sum(summary["dropped"]["responses"].values()) == 72


@pytest.fixture
def forks(finished, tmp_path) -> Path:
    """A critical.jsonl of the run's wrong samples: token 7 would have saved each at position 2, and 8 perhaps."""
    rows = [row for row in rows_of(finished / "samples.jsonl") if not row["correct"]][:9]
    for row in rows:
        n = len(row["token_ids"])
        row |= {"success": [0.3] * 3 + [0.0] * (n - 2), "success_ci": [[0.2, 0.4]] * 3 + [[0.0, 0.05]] * (n - 2)}
        row["policy_prob"] = [0.1] * n
        row["alternatives"] = [
            {"position": 2, "token_id": 7, "token": "?", "policy_prob": 0.2, "success": 0.75, "n": 16},
            {"position": 2, "token_id": 8, "token": "?", "policy_prob": 0.2, "success": 0.0625, "n": 16},
        ]  # fmt: skip
    return written(tmp_path / "critical.jsonl", *rows)


def test_forks_make_pairs_of_single_tokens(lab, forks, tmp_path, capsys):
    rows, summary = made(tmp_path / "out", "--forks", str(forks))
    sources = rows_of(forks)
    for row, source in zip(rows, sources, strict=True):
        assert row["prompt_ids"] == source["prompt_ids"] + source["token_ids"][:2]
        assert (row["chosen_ids"], row["rejected_ids"]) == ([7], source["token_ids"][2:3])
        assert (row["problem_id"], row["rejected_weights"]) == (source["problem_id"], None)
        assert row["weight"] == 0.714754  # shrunk from 0.75
    dropped = {"not_evaluated": 0, "not_better": 0, "within_error": 9, "less_likely": 0}
    assert summary["dropped"] == {"alternatives": dropped}
    assert read_pairs(tmp_path / "out", lab.tokenizer, lab.vocab_size)[0].weight == 0.714754
    assert len(made(tmp_path / "first", "--forks", str(forks), "--limit", "4")[0]) == 4
    nothing = written(tmp_path / "none.jsonl", sources[0] | {"alternatives": sources[0]["alternatives"][1:]})
    assert "none of the 1 alternatives in 1 trajectories is better" in refused(
        capsys, "--forks", str(nothing), "--out", str(tmp_path / "none")
    )


def test_a_data_set_of_trls_is_imported(lab, tmp_path, capsys):
    source = [{"prompt": "Q: Ada has", "chosen": f" {i} pens", "rejected": f" {i * (i > 1)} pens"} for i in range(4)]
    path = written(tmp_path / "trl.jsonl", *source)
    rows, summary = made(tmp_path / "out", "--trl", str(path))
    assert [(row["chosen"], row["rejected"]) for row in rows] == [(" 1 pens", " 0 pens")]
    assert summary["dropped"] == {"rows": {"same_response": 3, "no_prompt": 0, "empty_response": 0}}
    assert (rows[0]["problem_id"], rows[0]["rejected_weights"], rows[0]["weight"]) == (None, None, 1.0)
    assert read_pairs(tmp_path / "out", lab.tokenizer, lab.vocab_size)[0].chosen_ids[-1] == 0
    same = written(tmp_path / "same.jsonl", source[0])
    assert "none of the 1 rows makes a pair (same_response 1" in refused(
        capsys, "--trl", str(same), "--out", str(tmp_path / "same")
    )


def test_a_finished_run_returns_at_once_and_another_configuration_is_refused(finished, scores, capsys):
    before = contents(finished)
    assert main([*COMMAND, "--out", str(finished)]) == 0
    assert contents(finished) == before
    assert "n was 6, now 5" in refused(capsys, *COMMAND[1:], "--n", "5", "--out", str(finished))
    assert "weights was None" in refused(capsys, *COMMAND[1:], "--scores", str(scores), "--out", str(finished))


def test_from_python_and_interrupted(lab, finished, tmp_path, monkeypatch):
    """Stopped after each of three units of sampling and begun again, it ends in the bytes of the command."""
    monkeypatch.setattr("forkpoint.trajectories.rows.SAMPLED_UNIT", 24)
    settings = PairConfig(n=6, sampling=Sampling(max_tokens=100, stop=stop_strings("cot"), seed=3))
    problems = load_problems("train", limit=12)
    for last in (4, 8, 12):

        def stop(what, done, *_, last=last):
            if done == last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            pair_responses(lab, problems, settings, tmp_path, task="lab", progress=stop)
        assert (tmp_path / "journal.jsonl").read_text().count("\n") == last / 4
    pair_responses(lab, problems, settings, tmp_path, task="lab")
    page = ("command.json", "report.html")  # of the command line
    assert contents(tmp_path) == {name: text for name, text in contents(finished).items() if name not in page}
    with pytest.raises(UserError, match="there is only the vocabulary"):
        pair_responses(load_vocabulary("lab"), problems, settings, tmp_path / "other")


@pytest.mark.parametrize(("argv", "message"), [
    (["--forks", "x", "--scores", "y"], "own tokens, so it does not go with --scores"),
    (["--trl", "x", "--samples", "y"], "--trl takes its pairs as they are, so it does not go with --samples"),
    (["--n", "1"], "n must be at least 2"), (["--temperature", "0"], "temperature must be above 0"),
    (["--limit", "0"], "limit must be at least 1"), (["--max-tokens", "5000"], "reads at most"),
    (["--samples", "/nowhere.jsonl"], "cannot read /nowhere.jsonl"), (["--forks", "/nowhere"], "cannot read /nowhere"),
    (["--scores", "/nowhere", "--n", "64000"], "cannot read /nowhere"),  # before the time of sampling is tried
    (["--trl", "/nowhere"], "there is no such file"), (["--split", "tset"], "train and test"),
    (["--trl", "GOOD", "--model", "/nowhere"], "is not a model directory"),
    (["--trl", "CHAT"], "CHAT line 1: the pair is a conversation, but the tokenizer has no chat template"),
    (["--trl", "FILE"], "FILE line 1: no column 'chosen'"), (["--forks", "FILE"], "FILE line 1: no column"),
    (["--samples", "FILE"], "FILE line 1: no column 'problem_id'"),
])  # fmt: skip
def test_a_mistake_is_one_sentence(capsys, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text('{"prompt": "a"}\n')
    Path("GOOD").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    said = {name: [{"role": "user", "content": name}] for name in ("prompt", "chosen", "rejected")}
    Path("CHAT").write_text(json.dumps(said))
    assert message in refused(capsys, "--limit", "2", "--out", "out", *argv)
    assert not Path("out").exists()


def test_samples_without_pairs_and_scores_of_others_are_one_sentence(capsys, finished, scores, tmp_path):
    right = [row for row in rows_of(finished / "samples.jsonl") if row["correct"]]
    file = written(tmp_path / "right.jsonl", *right)
    said = refused(capsys, "--limit", "12", "--samples", str(file), "--out", str(tmp_path / "a"))
    assert f"no wrong one: {len({row['problem_id'] for row in right})}" in said
    foreign = rows_of(scores)[0] | {"token_ids": [9], "tokens": None, "scores": {"s": [1]}}
    file = written(tmp_path / "scores.jsonl", foreign)
    argv = ("--limit", "12", "--samples", str(finished), "--scores", str(file), "--out", str(tmp_path / "b"))
    assert "rejected responses has scores" in refused(capsys, *argv)
