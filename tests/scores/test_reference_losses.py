"""Making a score store: what a model says of each token, and the same bytes whatever happens on the way."""

from __future__ import annotations

import copy
import errno
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import selective_stores
import torch
from datasets import load_from_disk
from selective_stores import (
    ISOLATED,
    KILLS,
    PACKED,
    SHARD,
    assert_scores_are_the_models,
    corpus,
    expected_rows,
    files_of,
    made_up_corpus,
    tiny,
)
from tiny_models import build_model, tiny_config
from transformers import Gemma2Config, GPT2Config

from forkpoint.engines.identity import vocabulary_digest
from forkpoint.engines.local import logprobs
from forkpoint.engines.local.head import Head, head_of
from forkpoint.scores import reference_losses as scoring
from forkpoint.scores import row_losses as losses
from forkpoint.scores.context import Context, counted, rows_of
from forkpoint.scores.reference_losses import Part, score_corpus
from forkpoint.scores.row_losses import row_losses
from forkpoint.scores.store import document_rows, open_store
from forkpoint.types import UserError

FAMILIES = {
    "llama": lambda t: tiny_config(t, num_key_value_heads=2),
    "gpt2": lambda t: GPT2Config(
        vocab_size=len(t), n_embd=32, n_layer=2, n_head=4, eos_token_id=t.eos_token_id, bos_token_id=None,
        initializer_range=0.4,
    ),
    "gemma2": lambda t: tiny_config(
        t, Gemma2Config, num_key_value_heads=2, head_dim=8, sliding_window=8, attn_logit_softcapping=5.0,
        final_logit_softcapping=10.0, tie_word_embeddings=True,
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(scoring, "SHARD_CHARACTERS", SHARD)


@pytest.fixture
def model(tokenizer):
    return tiny(tokenizer)


@pytest.fixture(scope="module")
def undisturbed(tokenizer, tmp_path_factory) -> dict[str, bytes]:
    """The files of the made-up corpus's store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "SHARD_CHARACTERS", SHARD)
        out = tmp_path_factory.mktemp("undisturbed") / "store"
        made(out, tokenizer, tiny(tokenizer))
        return files_of(out)


def made(out: Path, tokenizer, model, documents=None, context=ISOLATED, **options):
    """store.json's content."""
    documents = made_up_corpus() if documents is None else documents
    return score_corpus(iter(documents), tokenizer, out, context, model=model, name="tiny", **options)


def refusal(*args, **options) -> str:
    with pytest.raises(UserError) as caught:
        made(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_part_that_comes_late_leaves_a_finished_store_as_it_is(tmp_path, tokenizer, model):
    """While a part is at work, another process makes all that is missing, with other batches."""
    out = tmp_path / "store"

    def documents():
        yield from made_up_corpus()[:4]
        made(out, tokenizer, tiny(tokenizer), part=Part(1, 2))
        made(out, tokenizer, tiny(tokenizer), batch_tokens=1)  # a whole run: what the part has not done yet
        done.update(files_of(out))
        yield from made_up_corpus()[4:]

    done: dict[str, bytes] = {}
    assert made(out, tokenizer, model, documents=documents(), part=Part(0, 2)) is not None
    assert files_of(out) == done
    open_store(out)


@pytest.mark.parametrize("context", [ISOLATED, PACKED, Context("packed", 16, 16)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_whole_logits_in_float64(tmp_path, tokenizer, family, context):
    model = build_model(FAMILIES[family](tokenizer), seed=1)
    made(tmp_path / "store", tokenizer, model, context=context, batch_tokens=64)
    expected = expected_rows(made_up_corpus(), tokenizer, context)
    assert_scores_are_the_models(open_store(tmp_path / "store"), expected, model)


def test_the_size_of_batches_hardly_matters(tmp_path, tokenizer, model, monkeypatch):
    """They are as large as asked for, and halved where memory runs out."""
    sizes, forward, most = [], losses.hidden_at, 99

    def limited(model, ids, *args):
        sizes.append(ids.numel())
        if len(ids) > most:
            raise torch.OutOfMemoryError("no memory")
        return forward(model, ids, *args)

    monkeypatch.setattr(losses, "hidden_at", limited)
    made(tmp_path / "large", tokenizer, model, batch_tokens=10_000)
    made(tmp_path / "small", tokenizer, model, batch_tokens=1)
    sizes.clear()
    made(tmp_path / "middle", tokenizer, model, batch_tokens=40)
    assert max(sizes) in range(32, 41)
    most = 2
    made(tmp_path / "halved", tokenizer, model)
    assert max(sizes) > 4 * 16
    for other in ("small", "middle", "halved"):
        for a, b in zip(open_store(tmp_path / "large"), open_store(tmp_path / other), strict=True):
            assert a.row.ids.tolist() == b.row.ids.tolist()
            for name in a.scores:  # but for the last digit of float16
                np.testing.assert_allclose(a.scores[name], b.scores[name], rtol=2**-10, atol=2**-24)
    most = 0
    assert "memory ran out on a single row of 16 tokens: lower --length" in refusal(tmp_path / "no", tokenizer, model)
    monkeypatch.setattr(losses, "hidden_at", lambda *_: [].pop())
    with pytest.raises(IndexError):
        made(tmp_path / "other", tokenizer, model)


def test_documents_end_with_the_end_of_text_once(tmp_path, tokenizer):
    """A document of one token has nothing to predict but that; the end of text alone has nothing at all."""
    end, other = tokenizer.eos_token_id, copy.deepcopy(tokenizer)
    other.eos_token = None
    wanted = [(0, [*tokenizer("a b")["input_ids"], end]), (1, [5, 6, end]), (2, [7, end]), (3, [8, end])]
    for one, rows in ((tokenizer, wanted), (other, [(0, wanted[0][1][:-1]), (1, [5, 6]), (2, [7, end])])):
        out = tmp_path / str(one.eos_token_id)
        made(out, one, None, corpus("a b", (5, 6), (7, end), (8,), (end,)))
        assert [(found.row.document, found.row.ids.tolist()) for found in open_store(out)] == rows


@pytest.mark.parametrize("documents", ["isolated", "packed"])
def test_empty_documents_are_counted_and_numbered(tmp_path, tokenizer, model, documents):
    values = corpus("", (), (5, 6, 7), "", (8, 9), (), ())
    facts = made(tmp_path / "store", tokenizer, model, values, Context(documents, 16, 16))
    assert (facts["documents"], facts["empty_documents"], facts["tokens"], facts["counted_tokens"]) == (7, 5, 7, 5)
    store = open_store(tmp_path / "store")
    assert [one.row.document for one in store] == ([2, 4] if documents == "isolated" else [2])
    for number, ids in ((2, [5, 6, 7, 0]), (4, [8, 9, 0])):
        ((scored, part),) = document_rows(store, number)
        assert scored.row.ids[part].tolist() == ids


def test_a_shard_without_tokens(tmp_path, tokenizer, model, monkeypatch):
    """Also as the first one, which tells readers the types of columns."""
    monkeypatch.setattr(scoring, "SHARD_CHARACTERS", 0)  # a document each
    facts = made(tmp_path / "store", tokenizer, model, corpus("", (5, 6), (), (7, 8, 9), ""))
    assert [shard["rows"] for shard in facts["shards"]] == [0, 1, 0, 1, 0]
    assert [one.row.ids.tolist() for one in open_store(tmp_path / "store")] == [[5, 6, 0], [7, 8, 9, 0]]
    assert load_from_disk(str(tmp_path / "store"))["input_ids"][:] == [[5, 6, 0], [7, 8, 9, 0]]


def test_what_cannot_be_scored_is_one_sentence(tmp_path, tokenizer, model):
    size = len(tokenizer)
    for bad, one in itertools.product((size, -1), (model, None)):
        said = refusal(tmp_path / f"{bad} {one is None}", tokenizer, one, corpus((size - 1,), (5, bad, 5), (6,)))
        assert said == f"corpus line 2: token id {bad} is not one of the tokenizer's 0 to {size - 1}"
    for documents in ([], ["", (), (0,)], ["", (), (0,)]):  # also when it is started again
        said = refusal(tmp_path / "store", tokenizer, model, corpus(*documents))
        assert said == "the corpus holds no document with tokens to predict"
    said = refusal(tmp_path / "store", tokenizer, model, context=Context("packed", 1024, 1024))
    assert said == "length is 1024, but the model reads at most 512 tokens"
    assert "stride must be from 1 to" in refusal(tmp_path / "s", tokenizer, model, context=Context("packed", 8, 9))
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 3] = torch.nan
    assert "NaN or infinite" in refusal(tmp_path / "broken", tokenizer, model)


def test_a_masked_token_of_the_vocabulary_adds_nothing(model):
    head, rows = head_of(model), list(rows_of([(0, [5, 6, 7])], ISOLATED))
    bias = torch.zeros(len(head.weight))
    masked, unlikely = bias.clone(), bias.clone()
    masked[100], unlikely[100] = -torch.inf, -1e4
    for column, same in zip(*(row_losses(model, Head(head.weight, b, 1.0, None), rows)[0] for b in (masked, unlikely)),
                            strict=True):  # fmt: skip
        np.testing.assert_allclose(column, same, rtol=1e-6)


def test_dropout_is_off(tmp_path, tokenizer, undisturbed):
    model = tiny(tokenizer, attention_dropout=0.5).train()
    made(tmp_path / "dropout", tokenizer, model)
    assert model.training
    assert files_of(tmp_path / "dropout")["shard-00000.arrow"] == undisturbed["shard-00000.arrow"]


def test_what_a_store_says_of_itself(undisturbed, tokenizer):
    facts = json.loads(undisturbed["store.json"])
    shards = len(facts["shards"])
    assert shards > 4
    described = {"config.json", "store.json", "state.json", "dataset_info.json", "documents.jsonl"}
    assert undisturbed.keys() == described | {f"shard-{i:05}.arrow" for i in range(shards)}
    assert facts["vocabulary"] == vocabulary_digest(tokenizer)
    assert facts["reference"].items() >= {"model": "tiny", "dtype": "float32"}.items()
    rows = expected_rows(made_up_corpus(), tokenizer, ISOLATED)
    marks = [counted(len(row.ids), row.starts, row.context).tolist() for row in rows]
    assert (facts["rows"], facts["counted_tokens"], facts["documents"]) == (len(rows), sum(map(sum, marks)), 24)
    lines = [json.loads(line) for line in undisturbed["documents.jsonl"].splitlines()]
    assert len(lines) == facts["shards"][0]["rows"] > 0
    for line, row, mark in zip(lines, rows, marks, strict=False):
        assert line["token_ids"] == row.ids.tolist()
        assert "".join(line["tokens"]).replace("�", "") == tokenizer.decode(line["token_ids"]).replace("�", "")
        assert [value is not None for value in line["reference_entropy"]] == mark


@pytest.mark.slow
def test_kill_9_at_any_moment_changes_no_byte(tmp_path, tokenizer, model, undisturbed, monkeypatch):
    out = tmp_path / "store"
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, selective_stores.__file__, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    codes, shards = zip(*json.loads(done.stdout), strict=True)
    assert codes == (-signal.SIGKILL,) * len(KILLS)
    total = sum(name.endswith(".arrow") for name in undisturbed)
    assert [len(found) for found in shards] == [1, 3, total, total]
    for before, after in itertools.pairwise(shards):  # only what was not known to be whole is made again
        assert {name for name in before if after[name] != before[name]} <= {"shard-00002.arrow"}
    monkeypatch.setattr(scoring, "row_losses", None)
    made(out, tokenizer, model)
    files = files_of(out)
    assert {name: files[name] for name in undisturbed} == undisturbed


def test_a_finished_store_is_not_read_again(tmp_path, tokenizer, model, undisturbed):
    calls: list[tuple[str, int, int, int]] = []
    facts = made(tmp_path / "store", tokenizer, model, progress=lambda *args: calls.append(args))
    with_rows = {f"shard {i + 1}, rows": 2 * (s["rows"],) for i, s in enumerate(facts["shards"]) if s["rows"]}
    assert {label: (done, total) for label, done, total, _ in calls} == with_rows
    assert calls[-1][3] == facts["tokens"]
    nothing = (pytest.fail("the corpus was read") for _ in range(1))
    assert score_corpus(nothing, tokenizer, tmp_path / "store", ISOLATED, model=model, name="tiny") == facts
    assert files_of(tmp_path / "store") == undisturbed


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 1, 0)])
def test_processes_that_make_a_part_each_end_in_the_same_bytes(tmp_path, tokenizer, model, undisturbed, order):
    results = [made(tmp_path / "store", tokenizer, model, part=Part(index, 2)) for index in order]
    assert [result is None for result in results] == [True] + [False] * (len(order) - 1)
    assert files_of(tmp_path / "store") == undisturbed


def test_a_whole_run_makes_what_parts_left_missing_or_cut_short(tmp_path, tokenizer, model, undisturbed):
    assert made(tmp_path / "store", tokenizer, model, part=Part(0, 2)) is None
    path = tmp_path / "store" / "shard-00000.arrow"
    os.truncate(path, path.stat().st_size - 8)
    path.with_name("shard-00002.json").write_text("{")
    assert made(tmp_path / "store", tokenizer, model) == json.loads(undisturbed["store.json"])
    assert files_of(tmp_path / "store") == undisturbed


@pytest.mark.parametrize("full", ["shard-00001.arrow", "shard-00001.json", "store.json", "state.json"])
def test_a_full_disk(tmp_path, tokenizer, model, undisturbed, monkeypatch, full):
    replace = os.replace

    def refuse(source, target):
        if Path(target).name == full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        assert "cannot be written: No space left on device; the shards before it" in refusal(
            tmp_path / "store", tokenizer, model
        )
    made(tmp_path / "store", tokenizer, model)
    assert files_of(tmp_path / "store") == undisturbed


def test_a_directory_that_is_another_runs_or_none(tmp_path, tokenizer, model):
    made(tmp_path / "store", tokenizer, model, part=Part(0, 2))
    other = build_model(tiny_config(tokenizer, num_key_value_heads=2), seed=1)
    for one, context in ((other, ISOLATED), (None, ISOLATED), (model, PACKED)):
        assert "holds a run with another configuration" in refusal(
            tmp_path / "store", tokenizer, one, context=context, part=Part(1, 2)
        )
    (tmp_path / "file").write_text("")
    assert "cannot be used" in refusal(tmp_path / "file", tokenizer, model)


def dense_logs(hidden, weight, bias, head):
    logits = (hidden @ weight.T + bias) * head.scale
    return (logits if head.cap is None else torch.tanh(logits / head.cap) * head.cap).log_softmax(-1)


@pytest.mark.parametrize(("scale", "cap", "rows"), [(1.0, None, [0, 3, 4, 9]), (1.0, 3.0, [2]), (0.3, None, [])])
def test_blocks_give_losses_entropies_and_gradients_of_dense_float64(monkeypatch, scale, cap, rows):
    """Rows without a gradient get none, and change no other."""
    monkeypatch.setattr(logprobs, "LEAST_ROWS", 3)  # so that there are several blocks
    monkeypatch.setattr(logprobs, "BLOCK_ELEMENTS", 0)
    torch.manual_seed(0)
    values = [torch.randn(shape, dtype=torch.float64) for shape in ((10, 8), (50, 8), (50,))]
    values[0][0] *= 200  # a distribution of almost one token
    targets, mask = torch.randint(50, (10,)), torch.zeros(10)
    mask[rows] = torch.rand(len(rows)) + 0.5
    losses, entropy = logprobs.token_losses_and_entropy(
        values[0].float(), Head(values[1].float(), values[2].float(), scale, cap), targets
    )
    dense, ours = ([value.clone().requires_grad_() for value in values] for _ in range(2))
    logs = dense_logs(*dense, head := Head(ours[1], ours[2], scale, cap))
    torch.testing.assert_close(losses.double(), -logs.detach()[range(10), targets], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(entropy.double(), -(logs.exp() * logs).sum(-1).detach(), rtol=1e-5, atol=1e-5)
    assert (entropy >= 0).all()
    (-(logs[range(10), targets] * mask).sum()).backward()
    (-(logprobs.token_logprobs(ours[0], head, targets) * mask).sum()).backward()
    for found, wanted in zip(ours, dense, strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-5, atol=1e-6)
    assert (ours[0].grad[mask == 0] == 0).all()
