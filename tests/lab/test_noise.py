"""The corpus with noise: every token's kind is known, and without its noise a document is the clean one."""

from __future__ import annotations

import itertools
import json
import re
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


def test_without_the_noise_it_is_the_clean_document(noisy, clean, digits, tokenizer):
    marked = 0
    for document, model in zip(noisy, clean, strict=True):
        assert document.id == model.id
        kept = [(i, k) for i, k in zip(document.token_ids, document.kinds, strict=True) if k not in BETWEEN]
        parts = numbers_and_words([i for i, _ in kept], [k for _, k in kept], digits)
        models = numbers_and_words(model.token_ids, model.kinds, digits)
        restored = []
        for (number, ids, kinds), (_, exact, _) in zip(parts, models, strict=True):
            assert len(kinds) == 1, "a number or a sign is wrong as a whole"
            wrong = kinds == {WRONG}
            assert not wrong or (ids != exact and (number or tokenizer.decode(exact) in (" + ", " - ", " * ")))
            restored += exact if wrong else ids
            marked += wrong
        assert tuple(restored) == model.token_ids
    assert marked > MANY / 2


def test_the_clean_document_is_prompt_and_right_answer(clean, tokenizer):
    for document, problem in zip(clean, stream(0, "train"), strict=False):
        assert set(document.kinds) == {CLEAN}
        text = tokenizer.decode(document.token_ids)
        assert text.startswith(f"Q: {problem.question}\nA:")
        assert text.endswith(f" The answer is {problem.answer}.{tokenizer.eos_token}")
        assert [*document.token_ids[:-1]] == tokenizer(text.removesuffix(tokenizer.eos_token))["input_ids"]
        steps = re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)\.", text)
        assert steps == [tuple(map(str, (w.left, w.op, w.right, w.result))) for w in work_out(problem.steps)]


def test_noise_stands_where_it_should(noisy, tokenizer):
    """Between sentences; boilerplate also before and behind. The last token is the end."""
    special = set(tokenizer.all_special_ids)
    for document in noisy:
        assert len(document.token_ids) == len(document.kinds)
        kept: list[int] = []
        for kind, ids in runs(document):
            if kind in BETWEEN:
                assert tokenizer.decode(kept)[-1] in ".?" if kept else kind == BOILERPLATE
                assert not special & set(ids)
            else:
                kept += ids
        assert (document.token_ids[-1], document.kinds[-1]) == (tokenizer.eos_token_id, CLEAN)
    last = {document.kinds[-2] for document in noisy}
    assert {document.kinds[0] for document in noisy} == {CLEAN, BOILERPLATE}
    assert last >= {CLEAN, BOILERPLATE}
    assert not last & {RANDOM, MARKUP}


def test_each_kind_is_what_it_says(noisy, tokenizer):
    stretches = [stretch for document in noisy for stretch in runs(document)]
    assert all(re.fullmatch(r"[-+*\d ]+", tokenizer.decode(ids)) for kind, ids in stretches if kind == WRONG)
    assert all(3 <= len(ids) <= 12 * MOST_PIECES[RANDOM] for kind, ids in stretches if kind == RANDOM)
    mark = r" (<[^>]+>|&[^;]+;|\[\w+\]|\{\{cite \d+\}\})"
    for of_kind, form in ((MARKUP, f"({mark})+"), (BOILERPLATE, r"(\n[A-Z0-9][^\n]+\n)+")):
        assert all(re.fullmatch(form, tokenizer.decode(ids)) for kind, ids in stretches if kind == of_kind)


def test_wrong_documents_are_wrong_in_a_step_or_only_at_the_end(noisy):
    numbers = [sum(kind == WRONG for kind, _ in runs(document)) for document in noisy]
    wrong = [n for n in numbers if n]
    assert 0.2 < wrong.count(1) / len(wrong) < 0.3  # an error in a step is in the answer, too


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


def test_the_same_seed_gives_the_same_documents_from_any_start(tokenizer, noisy):
    assert list(itertools.islice(noisy_documents(0, tokenizer, start=40), 20)) == noisy[40:60]
    other = list(itertools.islice(noisy_documents(1, tokenizer), 20))
    assert not {d.token_ids for d in other} & {d.token_ids for d in noisy}


SMALL = ("lab", "corpus", "--documents=40", "--clean_documents=15", "--held_out_documents=10")
SIZES = {"corpus": 40, "clean": 15, "held-out": 10}


def questions(rows: list[dict], tokenizer) -> set[str]:
    """The questions of documents, without what stands between their sentences."""
    texts = []
    for row in rows:
        kinds = row.get("kinds", [CLEAN] * len(row["input_ids"]))
        kept = [i for i, kind in zip(row["input_ids"], kinds, strict=True) if kind not in BETWEEN]
        texts.append(tokenizer.decode(kept))
    return {re.match(r"Q: (.*)\nA:", text)[1] for text in texts}


def test_the_command_writes_three_files_that_share_no_question(tmp_path, capsys, tokenizer):
    assert main([*SMALL, "--out", str(tmp_path / "a")]) == 0
    assert str(tmp_path / "a" / "corpus.jsonl") in capsys.readouterr().out.splitlines()
    summary = json.loads((tmp_path / "a/summary.json").read_text())
    asked = {}
    for name, size in SIZES.items():
        rows = [json.loads(line) for line in (tmp_path / "a" / f"{name}.jsonl").read_text().splitlines()]
        counts = summary["files"][f"{name}.jsonl"]
        assert len(rows) == counts["documents"] == size
        assert sum(len(row["input_ids"]) for row in rows) == counts["tokens"]
        assert all(
            row.keys() == {"id", "input_ids", "kinds"} - ({"kinds"} if name != "corpus" else set()) for row in rows
        )
        asked[name] = questions(rows, tokenizer)
        assert len(asked[name]) == size
        assert set(map(is_held_out, asked[name])) == {name == "held-out"}
        if name == "corpus":
            kinds = Counter(KINDS[kind] for row in rows for kind in row["kinds"])
            assert counts["tokens_by_kind"] == {kind: kinds[kind] for kind in summary["kinds"]}
    assert summary["kinds"] == list(KINDS)
    assert not asked["corpus"] & asked["clean"]
    assert main([*SMALL, "--out", str(tmp_path / "b"), "--quiet"]) == 0
    for name in (*(f"{name}.jsonl" for name in SIZES), "summary.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert main([*SMALL, "--seed", "1", "--out", str(tmp_path / "b")]) == 2
    assert "another configuration: seed was 0, now 1" in capsys.readouterr().err


def test_a_size_below_one_is_refused(tmp_path, capsys):
    for name in ("documents", "clean_documents", "held_out_documents"):
        assert main(["lab", "corpus", f"--{name}=0", "--out", str(tmp_path / "out")]) == 2
        assert f"--{name} must be at least 1, but is 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
