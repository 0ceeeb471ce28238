"""Stores of random tokens, and a selective step as its definition says: whole logits, one token at a time."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from fractions import Fraction

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from forkpoint.engines.local.head import head_of
from forkpoint.scores.context import Context, rows_of
from forkpoint.scores.row_losses import row_losses
from forkpoint.scores.store import SCORES, ScoredRow, open_store, write_facts, write_shard
from forkpoint.training.store_batches import Rows

VOCABULARY = 60


def tiny_llama(seed, **options):
    """A model in float64 whose losses differ much from token to token."""
    sizes = {
        "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.4, "bos_token_id": None,
        "eos_token_id": 1,
    }  # fmt: skip
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(LlamaConfig(**(sizes | options))).double().eval()


def made_up_documents(lengths, seed=0, vocabulary=VOCABULARY):
    """Numbered documents of random tokens."""
    rng = random.Random(seed)
    return [(i, [rng.randrange(2, vocabulary) for _ in range(length)]) for i, length in enumerate(lengths)]


def made_up_store(path, documents, context, *, reference=None, scores=None, vocabulary="made up"):
    """The store of documents, in two shards; scores are a model's, or `scores(row)` by name."""
    path.mkdir()
    rows = list(rows_of(documents, context))
    if reference is not None:
        columns = [dict(zip(SCORES, both, strict=True)) for both in row_losses(reference, head_of(reference), rows)]
    else:
        columns = [scores(row) if scores else {} for row in rows]
    scored, names, half = list(map(ScoredRow, rows, columns)), tuple(columns[0]), len(rows) // 2
    shards = [
        write_shard(path / f"shard-{i:05}.arrow", part, names, len(part), 0)
        for i, part in enumerate((scored[:half], scored[half:]))
    ]
    facts = {"source": {}, "tokenizer": "made-up", "reference": {"model": "made-up"} if names else None}
    write_facts(path, facts | {"vocabulary": vocabulary}, context, shards)
    return open_store(path)


def in_rows(longest, stride=None, documents="isolated"):
    """A context."""
    return Context(documents, longest, stride or longest)


def is_predicted(row, t):
    """Whether a token counts: neither the row's first, nor a document's, nor there as context only."""
    return t > 0 and t >= row.context and t not in row.starts


def plain_scores(model, row):
    """A model's loss and entropy at each token of a row, NaN at the first."""
    ids = row.ids.tolist()
    logs = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    both = -logs.gather(1, torch.tensor(ids)[1:, None])[:, 0], -(logs.exp() * logs).sum(-1)
    return [torch.cat([logs.new_tensor([math.nan]), column]) for column in both]


def plain_tokens(model, store, indices, reference=None):
    """The predicted tokens of rows, in columns: `losses` with their graph, `index` of the row, `document`, and what
    rules rank by; scores are the store's unless a reference is given."""
    rows, columns = Rows(store, 0), defaultdict(list)
    for index in indices:
        example = rows[index]
        row, scores = example.scored.row, example.scored.scores
        if reference is not None:
            with torch.no_grad():
                scores = dict(zip(SCORES, plain_scores(reference, row), strict=True))
        losses, predicted = plain_scores(model, row)[0], [t for t in range(len(row.ids)) if is_predicted(row, t)]
        columns["losses"] += [losses[t] for t in predicted]
        columns["index"] += [index for _ in predicted]
        columns["document"] += [row.document + sum(0 < start <= t for start in row.starts) for t in predicted]
        for name, column in {**scores, "loss": losses.detach(), "chance": example.chance}.items():
            columns[name] += [float(column[t]) for t in predicted]
    losses = torch.stack(columns.pop("losses"))
    return {name: np.array(column) for name, column in columns.items()} | {"losses": losses}


def plain_selection(columns, rule, groups):
    """Which tokens are selected, a bool each: of each group those that come first, and of equal ones by chance.

    `columns` hold a number a token; tokens of one group have the same entry of `groups`.
    """

    def value(score, i):
        if score == "excess_loss":
            return columns["reference_loss"][i] - columns["loss"][i]
        if score == "loss":
            return -columns["loss"][i]
        return columns["chance" if score == "random" else score][i]

    def best(score, ratio):
        kept = set()
        for group in set(groups):
            members = [i for i, own in enumerate(groups) if own == group]
            members.sort(key=lambda i: (value(score, i), columns["chance"][i]))
            kept.update(members[: math.floor(len(members) * Fraction(str(ratio)) + Fraction(1, 2))])
        return kept

    if rule.score == "uniform":
        kept = set(range(len(groups)))
    elif rule.score in ("union", "intersection"):
        low, sure = best("reference_loss", rule.ratio), best("reference_entropy", rule.entropy_ratio or rule.ratio)
        kept = low | sure if rule.score == "union" else low & sure
    else:
        kept = best(rule.score, rule.ratio)
    return [i in kept for i in range(len(groups))]
