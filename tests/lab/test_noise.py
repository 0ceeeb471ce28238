"""The corpus with noise: every token's kind is known, and without its noise a document is the clean one."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from forkpoint.cli import main
from forkpoint.lab.noise import (
    BOILERPLATE,
    CLEAN,
    KINDS,
    MARKUP,
    MOST_PIECES,
    PROBABILITY,
    RANDOM,
    WRONG,
    NoisyDocument,
    clean_documents,
    noisy_documents,
)
from forkpoint.lab.problem_generator import is_held_out, stream, work_out

BETWEEN = (RANDOM, MARKUP, BOILERPLATE)
MANY = 3000
PAGE = Path(__file__).parents[2] / "docs" / "lab.md"


@pytest.fixture(scope="module")
def noisy(tokenizer) -> list[NoisyDocument]:
    return list(itertools.islice(noisy_documents(0, tokenizer), MANY))


@pytest.fixture(scope="module")
def clean(tokenizer) -> list[NoisyDocument]:
    return list(itertools.islice(clean_documents(0, tokenizer), MANY))


@pytest.fixture(scope="module")
def digits(tokenizer) -> set[int]:
    return {tokenizer.convert_tokens_to_ids(str(digit)) for digit in range(10)}


def runs(document: NoisyDocument) -> list[tuple[int, list[int]]]:
    """(kind, ids) of each stretch of tokens of one kind."""
    pairs = zip(document.kinds, document.token_ids, strict=True)
    return [(kind, [token for _, token in group]) for kind, group in itertools.groupby(pairs, key=lambda pair: pair[0])]


def numbers_and_words(ids, kinds, digits) -> list[tuple[bool, tuple[int, ...], set[int]]]:
    """(is a number, ids, kinds) of each number and of each stretch of other tokens."""
    groups = itertools.groupby(zip(ids, kinds, strict=True), key=lambda pair: pair[0] in digits)
    listed = ((number, list(group)) for number, group in groups)
    return [(number, tuple(i for i, _ in group), {k for _, k in group}) for number, group in listed]


def test_every_token_has_a_kind(noisy):
    for document in noisy:
        assert len(document.token_ids) == len(document.kinds)
        assert set(document.kinds) <= set(range(len(KINDS)))


def test_without_the_noise_it_is_the_clean_document(noisy, clean, digits):
    marked = 0
    for document, model in zip(noisy, clean, strict=True):
        assert document.id == model.id
        kept = [(i, k) for i, k in zip(document.token_ids, document.kinds, strict=True) if k not in BETWEEN]
        parts = numbers_and_words([i for i, _ in kept], [k for _, k in kept], digits)
        models = numbers_and_words(model.token_ids, model.kinds, digits)
        restored = []
        for (number, ids, kinds), (_, exact, _) in zip(parts, models, strict=True):
            assert len(kinds) == 1, "a number is wrong as a whole"
            wrong = kinds == {WRONG}
            assert not wrong or (number and ids != exact)
            restored += exact if wrong else ids
            marked += wrong
        assert tuple(restored) == model.token_ids
    assert marked > MANY / 2


def test_the_clean_document_is_prompt_and_right_answer(clean, tokenizer):
    for document, problem in zip(clean, stream(0, "train"), strict=False):
        assert set(document.kinds) == {CLEAN}
        text = tokenizer.decode(document.token_ids)
        end = f" The answer is {problem.answer}.{tokenizer.eos_token}"
        assert text.startswith(f"Q: {problem.question}\nA:")
        assert text.endswith(end)
        assert document.token_ids == (
            *tokenizer(text.removesuffix(tokenizer.eos_token))["input_ids"],
            tokenizer.eos_token_id,
        )
        steps = re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)\.", text)
        assert steps == [tuple(map(str, (w.left, w.op, w.right, w.result))) for w in work_out(problem.steps)]


def test_noise_stands_where_it_should(noisy, tokenizer):
    special = set(tokenizer.all_special_ids)
    for document in noisy:
        kept: list[int] = []
        for kind, ids in runs(document):
            if kind in BETWEEN:
                assert tokenizer.decode(kept)[-1] in ".?" if kept else kind == BOILERPLATE
                assert not special & set(ids)
            else:
                kept += ids
        assert document.token_ids[-1] == tokenizer.eos_token_id
        assert document.kinds[-1] == CLEAN


def test_boilerplate_stands_before_and_behind_too_and_other_noise_only_between(noisy):
    assert {document.kinds[0] for document in noisy} == {CLEAN, BOILERPLATE}
    assert {document.kinds[-2] for document in noisy} >= {CLEAN, BOILERPLATE}
    assert not {document.kinds[-2] for document in noisy} & {RANDOM, MARKUP}


def test_each_kind_is_what_it_says(noisy, tokenizer, digits):
    found: dict[int, set[str]] = {kind: set() for kind in range(len(KINDS))}
    drawn: Counter[int] = Counter()
    for document in noisy:
        for kind, ids in runs(document):
            found[kind].add(tokenizer.decode(ids))
            if kind == WRONG:
                assert set(ids) <= digits
            if kind == RANDOM:
                drawn.update(ids)
                assert 3 <= len(ids) <= 12 * MOST_PIECES[RANDOM]
    mark = r" (<[^>]+>|&[^;]+;|\[\w+\]|\{\{cite \d+\}\})"
    assert all(re.fullmatch(f"({mark})+", text) for text in found[MARKUP])
    assert all(re.fullmatch(r"(\n[A-Z0-9][^\n]+\n)+", text) for text in found[BOILERPLATE])
    assert min(drawn[i] for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids) > 0
    assert max(drawn.values()) < 3 * drawn.total() / len(tokenizer)


def test_wrong_documents_are_wrong_in_a_step_or_only_at_the_end(noisy):
    numbers = [sum(kind == WRONG for kind, _ in runs(document)) for document in noisy]
    wrong = [n for n in numbers if n]
    assert 0.2 < wrong.count(1) / len(wrong) < 0.3  # a slip in a step is in the answer, too


def test_kinds_come_as_often_as_documented(noisy):
    tokens = Counter(kind for document in noisy for kind in document.kinds)
    assert 0.38 < sum(tokens[kind] for kind in BETWEEN) / tokens.total() < 0.42
    page = PAGE.read_text(encoding="utf-8")
    for kind, name in enumerate(KINDS):
        (row,) = re.findall(rf"^\| {kind} \| `{name}` \|.*\| (\S+) \| (\S+)% \|$", page, re.MULTILINE)
        probability = PROBABILITY.get(kind, 1.0)
        assert row[0] == f"{probability:g}"
        assert abs(sum(kind in d.kinds for d in noisy) / len(noisy) - probability) < 0.03
        assert abs(100 * tokens[kind] / tokens.total() - float(row[1])) < 1


def test_kinds_come_independently(noisy):
    for a, b in itertools.combinations((*BETWEEN, WRONG), 2):
        both = sum(a in d.kinds and b in d.kinds for d in noisy) / len(noisy)
        assert abs(both - PROBABILITY[a] * PROBABILITY[b]) < 0.04


def test_the_same_seed_gives_the_same_documents_from_any_start(tokenizer, noisy):
    assert list(itertools.islice(noisy_documents(0, tokenizer, start=40), 20)) == noisy[40:60]
    other = list(itertools.islice(noisy_documents(1, tokenizer), 20))
    assert not {d.token_ids for d in other} & {d.token_ids for d in noisy}


SMALL = ("lab", "corpus", "--documents", "40", "--clean-documents", "15", "--held-out-documents", "10")


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def questions(path: Path, tokenizer) -> set[str]:
    """The questions of a file's documents, without what stands between their sentences."""
    found = set()
    for row in rows(path):
        kinds = row.get("kinds", [CLEAN] * len(row["input_ids"]))
        kept = [i for i, kind in zip(row["input_ids"], kinds, strict=True) if kind not in BETWEEN]
        found.add(re.match(r"Q: (.*)\nA:", tokenizer.decode(kept))[1])
    return found


def test_the_command_writes_three_files_and_their_summary(tmp_path, capsys, tokenizer):
    assert main([*SMALL, "--out", str(tmp_path / "a")]) == 0
    printed = capsys.readouterr().out
    assert "boilerplate" in printed
    assert str(tmp_path / "a" / "corpus.jsonl") in printed.splitlines()
    corpus = rows(tmp_path / "a/corpus.jsonl")
    summary = json.loads((tmp_path / "a/summary.json").read_text())
    assert summary["kinds"] == list(KINDS)
    counts = Counter(KINDS[kind] for row in corpus for kind in row["kinds"])
    assert summary["files"]["corpus.jsonl"]["tokens_by_kind"] == {kind: counts[kind] for kind in KINDS}
    assert all(row.keys() == {"id", "input_ids", "kinds"} for row in corpus)
    for name, size in (("corpus", 40), ("clean", 15), ("held-out", 10)):
        file = rows(tmp_path / "a" / f"{name}.jsonl")
        told = summary["files"][f"{name}.jsonl"]
        assert len(file) == told["documents"] == size
        assert sum(len(row["input_ids"]) for row in file) == told["tokens"]
        assert name == "corpus" or all(row.keys() == {"id", "input_ids"} for row in file)
    assert main([*SMALL, "--out", str(tmp_path / "b"), "--quiet"]) == 0
    for name in ("corpus.jsonl", "clean.jsonl", "held-out.jsonl", "summary.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_no_two_files_share_a_question(tmp_path, tokenizer):
    main([*SMALL, "--out", str(tmp_path)])
    corpus, clean, held_out = (
        questions(tmp_path / f"{name}.jsonl", tokenizer) for name in ("corpus", "clean", "held-out")
    )
    assert [len(corpus), len(clean), len(held_out)] == [40, 15, 10]
    assert not corpus & clean
    assert not (corpus | clean) & held_out
    assert all(map(is_held_out, held_out))
    assert not any(map(is_held_out, corpus | clean))


@pytest.mark.parametrize(
    "argv",
    [("--documents", "0"), ("--documents", "-3"), ("--clean-documents", "0"), ("--held-out-documents", "-1")],
)
def test_a_size_below_one_is_refused(argv, tmp_path, capsys):
    assert main(["lab", "corpus", *argv, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error == f"forkpoint: --{argv[0][2:].replace('-', '_')} must be at least 1, but is {argv[1]}\n"
    assert not (tmp_path / "out").exists()


def test_a_directory_with_other_files_or_another_corpus_is_refused(tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.txt").write_text("mine")
    assert main([*SMALL, "--out", str(tmp_path / "other")]) == 2
    assert re.fullmatch(r"forkpoint: .* holds files but no run of forkpoint; .*\n", capsys.readouterr().err)
    assert [f.name for f in (tmp_path / "other").iterdir()] == ["mine.txt"]
    main([*SMALL, "--out", str(tmp_path / "run")])
    capsys.readouterr()
    assert main([*SMALL, "--seed", "1", "--out", str(tmp_path / "run")]) == 2
    assert re.fullmatch(r"forkpoint: .* another configuration: seed was 0, now 1; .*\n", capsys.readouterr().err)


def test_the_command_loads_nothing_heavy_before_it_is_needed():
    code = "import sys, forkpoint.cli.lab_corpus\nsys.exit(bool({'torch', 'transformers'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
