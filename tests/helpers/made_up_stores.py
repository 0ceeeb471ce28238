"""Stores of random tokens, and a selective step as its definition says: whole logits, one token at a time."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

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
    """The store of documents, in two shards; scores are a model's, or `scores(row, predicted)` by name."""
    path.mkdir()
    rows = list(rows_of(documents, context))
    if reference is not None:
        columns = [dict(zip(SCORES, both, strict=True)) for both in row_losses(reference, head_of(reference), rows)]
    else:
        columns = [{} if scores is None else scores(row) for row in rows]
    scored = [ScoredRow(row, column) for row, column in zip(rows, columns, strict=True)]
    names = tuple(scored[0].scores)
    half = len(scored) // 2
    shards = [
        write_shard(path / f"shard-{i:05}.arrow", part, names, len(part), 0)
        for i, part in enumerate((scored[:half], scored[half:]))
    ]
    facts = {
        "source": {},
        "vocabulary": vocabulary,
        "tokenizer": "made-up",
        "reference": {"model": "made-up"} if names else None,
    }
    write_facts(path, facts, context, shards)
    return open_store(path)


def in_rows(longest, stride=None, documents="isolated"):
    """A context."""
    return Context(documents, longest, stride or longest)


def is_predicted(row, t):
    """Whether a token counts: neither the row's first, nor a document's, nor there as context only."""
    return t > 0 and t >= row.context and t not in row.starts


def plain_tokens(model, store, indices, reference=None, seed=0):
    """The predicted tokens of rows: their loss with its graph, and what rules rank by; scores are the store's unless a
    reference is given."""
    rows, found = Rows(store, seed), []
    for index in indices:
        scored, chance = rows[index].scored, rows[index].chance
        logs = log_probabilities(model, scored.row)
        if reference is not None:
            with torch.no_grad():
                others = log_probabilities(reference, scored.row)
        document = scored.row.document
        for t, token in enumerate(scored.row.ids.tolist()):
            document += t > 0 and t in scored.row.starts
            if not is_predicted(scored.row, t):
                continue
            scores = {name: float(column[t]) for name, column in scored.scores.items()}
            if reference is not None:
                scores["reference_loss"] = -float(others[t - 1, token])
                scores["reference_entropy"] = -float((others[t - 1].exp() * others[t - 1]).sum())
            loss = -logs[t - 1, token]
            found.append(SimpleNamespace(index=index, document=document, loss=loss, chance=float(chance[t]), **scores))
    return found


def log_probabilities(model, row):
    """log π over the vocabulary after each token of a row, [T, V]."""
    return model(input_ids=torch.tensor([row.ids.tolist()])).logits[0].log_softmax(-1)


BEST_FIRST = {
    "excess_loss": lambda x: x.reference_loss - float(x.loss.detach()),
    "reference_loss": lambda x: x.reference_loss,
    "reference_entropy": lambda x: x.reference_entropy,
    "loss": lambda x: -float(x.loss.detach()),
    "random": lambda x: x.chance,
}


def best(tokens, score, ratio):
    """The first ratio of the tokens, by number."""
    order = sorted(range(len(tokens)), key=lambda i: BEST_FIRST[score](tokens[i]))
    return set(order[: math.floor(ratio * len(tokens) + 0.5)])


def plain_selection(tokens, rule, groups):
    """Which tokens are selected, a bool each; groups are lists of their numbers, ranked apart."""
    kept = set()
    for group in groups:
        own = [tokens[i] for i in group]
        if rule.score == "uniform":
            found = set(range(len(own)))
        elif rule.score in ("union", "intersection"):
            loss = best(own, "reference_loss", rule.ratio)
            entropy = best(own, "reference_entropy", rule.entropy_ratio or rule.ratio)
            found = loss | entropy if rule.score == "union" else loss & entropy
        else:
            found = best(own, rule.score, rule.ratio)
        kept |= {group[i] for i in found}
    return [i in kept for i in range(len(tokens))]


def plain_groups(tokens, scope, micro_batches):
    """What is ranked together; `micro_batches` are lists of row numbers."""
    if scope == "batch":
        return [list(range(len(tokens)))]
    parts = [[i] for part in micro_batches for i in part] if scope == "sequence" else micro_batches
    return [[i for i, token in enumerate(tokens) if token.index in part] for part in parts]
