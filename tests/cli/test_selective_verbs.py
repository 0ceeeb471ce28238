"""`score`, `select`, `train clm`, `train slm`, `dynamics` from the command line: one after the other, and mistakes."""

from __future__ import annotations

import json

import pytest

from forkpoint.cli import main

TEXTS = ["Q: Ada has 5 pens.\nA: 5.", "", "Then the number of pens doubles. " * 4, "Q: How many? A: The answer is 10."]
SHORT = ("--quiet", "--max_steps=2", "--per_device_train_batch_size=2", "--logging_steps=1")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 5))
    return path


@pytest.fixture(scope="module")
def store(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("store") / "store"
    assert main(["score", "--data", str(corpus), "--length", "64", "--out", str(out), "--quiet"]) == 0
    return out


def test_one_after_the_other(corpus, store, tmp_path, capsys):
    out = {name: str(tmp_path / name) for name in ("clm", "slm", "online", "labels", "dynamics")}
    common = [*SHORT, f"--eval_data={corpus}"]
    assert main(["train", "clm", f"--data={corpus}", "--length=64", f"--out={out['clm']}", *common]) == 0
    assert main(["train", "slm", f"--store={store}", "--snapshots=2", f"--out={out['slm']}", *common]) == 0
    online = ["--reference", f"{out['clm']}/model", "--scope=sequence", f"--data={corpus}", "--length=64"]
    assert main(["train", "slm", *online, f"--out={out['online']}", *common]) == 0
    assert main(["select", f"--store={store}", "--rule=union", f"--out={out['labels']}", "--quiet"]) == 0
    snapshots = f"--checkpoints={out['slm']}/snapshots"
    assert main(["dynamics", f"--store={store}", snapshots, f"--out={out['dynamics']}", "--quiet"]) == 0
    assert "selection/share" in capsys.readouterr().out
    assert (tmp_path / "dynamics" / "report.html").exists()
    summary = json.loads((tmp_path / "slm" / "summary.json").read_text())
    assert (summary["store"], summary["reference"], summary["eval_data"]) == (str(store), "lab", str(corpus))
    assert json.loads((tmp_path / "online" / "summary.json").read_text())["reference"] == f"{out['clm']}/model"


def test_a_document_is_printed_with_its_scores(store, capsys):
    assert main(["score", "--inspect", "0", "--out", str(store)]) == 0
    lines = capsys.readouterr().out.splitlines()
    first, second = (next(line for line in lines if line.split()[:1] == [str(i)]) for i in (0, 1))
    assert len(first.split()) < len(second.split())  # the first token has no score
    assert main(["score", "--inspect", "1", "--out", str(store)]) == 2  # an empty document
    assert "no tokens of a document 1" in capsys.readouterr().err


def test_parts_without_a_directory_meet_in_one(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for part in ("1/2", "2/2"):
        assert main(["score", "--data", str(corpus), "--length", "64", "--part", part, "--quiet"]) == 0
    assert "part 2 of 2" not in capsys.readouterr().out.splitlines()[-1]
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_only_the_corpus_files_count(corpus, tmp_path, capsys):
    """What lies beside them changes nothing, a broken row leaves the directory free, and none is made among them."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.jsonl").write_text(corpus.read_text() + "{\n")
    command = ["score", "--data", str(folder), "--length", "64", "--quiet", "--out"]
    assert main([*command, str(tmp_path / "out")]) == 2
    assert "a.jsonl line 21" in capsys.readouterr().err
    (folder / "a.jsonl").write_bytes(corpus.read_bytes())
    assert main([*command, str(tmp_path / "out")]) == 0
    (folder / "README.md").write_text("Not of the corpus.")
    assert main([*command, str(tmp_path / "out")]) == 0
    assert main([*command, str(folder / "out")]) == 2
    assert "lies in the corpus" in capsys.readouterr().err


def test_nothing_is_tokenised_for_a_run_that_cannot_be(corpus, tmp_path):
    occupied, out = tmp_path / "occupied", tmp_path / "out"
    occupied.mkdir()
    (occupied / "mine.txt").write_text("mine")
    assert main(["train", "clm", f"--data={corpus}", f"--out={occupied}", *SHORT]) == 2
    assert [path.name for path in occupied.iterdir()] == ["mine.txt"]
    assert main(["train", "clm", f"--data={corpus}", f"--out={out}", "--lr_scheduler_type=none", *SHORT]) == 2
    assert not out.exists()


@pytest.mark.parametrize(("argv", "message"), [
    (["score", "--data", "EMPTY"], "no document with tokens"),
    (["score", "--data", "CORPUS", "--out", "/sys/kernel/store"], "cannot be used"),
    (["train", "slm", "--store", "STORE", "--rule", "loss", "--reference", "lab"], "asks no reference model"),
    (["train", "slm", "--store", "STORE", "--label_smoothing_factor", "0.1"], "label_smoothing_factor"),
    (["score"], "name the corpus with --data"),
    (["score", "--data", "CORPUS", "--length", "1"], "length must be at least 2"),
    (["score", "--data", "CORPUS", "--length", "99999"], "the model reads at most"),
    (["score", "--data", "CORPUS", "--part", "3/2"], "part must be I/N"),
    (["score", "--data", "CORPUS", "--text_column", "txt"], "did you mean 'text'"),
    (["score", "--inspect", "-1", "--out", "STORE"], "from 0"),
    (["select"], "select needs --store"),
    (["select", "--store", "STORE", "--rule", "excess_loss"], "must be one of"),
    (["train", "slm"], "name what to train on"),
    (["train", "slm", "--data", "CORPUS"], "needs a reference model"),
    (["train", "slm", "--data", "CORPUS", "--store", "STORE"], "but not both"),
    (["train", "slm", "--store", "STORE", "--ratio", "0"], "ratio must be above 0"),
    (["train", "slm", "--store", "STORE", "--entropy_ratio", "0.5"], "union and intersection"),
    (["train", "slm", "--store", "STORE", "--length", "32"], "was made with length 64"),
    (["train", "slm", "--store", "STORE", "--snapshots", "1"], "snapshots must be 0 or at least 2"),
    (["train", "clm", "--data", "CORPUS", "--merge"], "--merge is about adapters"),
    (["train", "clm", "--data", "CORPUS", "--eval_strategy", "steps"], "no held-out data"),
    (["dynamics", "--store", "STORE"], "dynamics needs --checkpoints"),
    (["dynamics", "--store", "STORE", "--checkpoints", "nowhere"], "is no model"),
])  # fmt: skip
def test_a_mistake_is_one_sentence_and_exit_code_2(argv, message, corpus, store, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").touch()
    words = [{"CORPUS": str(corpus), "STORE": str(store), "EMPTY": "empty.jsonl"}.get(word, word) for word in argv]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
