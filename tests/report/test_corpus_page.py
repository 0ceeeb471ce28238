"""The page of `lab corpus`: its files, the kinds of its tokens, and its first documents with the noise coloured."""

from __future__ import annotations

import json

import pytest
from test_critical_page import embedded

from forkpoint.cli import main
from forkpoint.report import page_of
from forkpoint.types import UserError

SIZES = ["--documents=60", "--clean_documents=7", "--held_out_documents=5"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus") / "run"
    assert main(["lab", "corpus", *SIZES, f"--out={out}", "--quiet"]) == 0
    return out


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_tables_count_what_the_files_hold(run):
    rows = {name: lines_of(run / name) for name in ("corpus.jsonl", "clean.jsonl", "held-out.jsonl")}
    files, kinds = page_of(run).sections
    assert [tuple(row) for row in files.rows] == [
        (name, str(len(found)), f"{sum(len(row['input_ids']) for row in found):,}") for name, found in rows.items()
    ]
    codes = [code for row in rows["corpus.jsonl"] for code in row["kinds"]]
    for code, row in enumerate(kinds.rows):
        having = sum(code in one["kinds"] for one in rows["corpus.jsonl"])
        assert row[1:] == (str(having), f"{codes.count(code):,}", f"{100 * codes.count(code) / len(codes):.1f}%")
    assert [row[0] for row in kinds.rows] == ["clean", "random", "markup", "boilerplate", "wrong"]
    noise = 100 * sum(code != 0 for code in codes) / len(codes)
    assert f"{noise:.1f}% of them noise" in page_of(run).lines[0]


def test_the_first_documents_have_their_noise(run, tokenizer):
    data = embedded((run / "report.html").read_text(encoding="utf-8"))
    (score,) = data["scores"]
    assert score["key"] == "noise"
    kinds = ["clean", "random", "markup", "boilerplate", "wrong"]
    rows = lines_of(run / "corpus.jsonl")[:50]
    assert len(data["rows"]) == 50
    for row, shown in zip(rows, data["rows"], strict=True):
        assert (shown["id"], shown["ids"]) == (row["id"], row["input_ids"])
        wanted = [kinds[code] if code else None for code in row["kinds"]]
        cells = shown["columns"].get("noise", [None] * len(wanted))
        assert [None if cell is None else score["values"][cell] for cell in cells] == wanted
        text = tokenizer.decode(row["input_ids"], skip_special_tokens=False)
        assert "".join(shown["tokens"]).replace("�", "") == text.replace("�", "")


def test_the_command_says_and_names_what_it_made(run, tmp_path, capsys):
    out = tmp_path / "again"
    for _ in range(2):
        assert main(["lab", "corpus", *SIZES, f"--out={out}", "--quiet"]) == 0
        said = capsys.readouterr().out
        assert "Kinds of tokens in corpus.jsonl" in said
        assert said.endswith(f"\n{out / 'corpus.jsonl'}\n{out / 'report.html'}\n")
    assert json.loads((out / "command.json").read_text())["command"].startswith("forkpoint lab corpus --documents=60")


def test_a_broken_line_is_one_sentence(run, tmp_path):
    for name in ("summary.json", "config.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    row = lines_of(run / "corpus.jsonl")[0]
    (tmp_path / "corpus.jsonl").write_text(json.dumps(row | {"kinds": row["kinds"][:-1]}) + "\n")
    with pytest.raises(UserError, match=r"corpus\.jsonl line 1: kinds must be one of 0 to 4"):
        list(page_of(tmp_path).tokens.rows())
