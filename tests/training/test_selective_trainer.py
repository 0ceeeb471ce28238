"""The selective trainer against the definition: selections, losses, gradients, what is logged, and what must not
matter."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections import defaultdict

import datasets
import numpy as np
import pytest
import torch
from made_up_stores import (
    in_rows,
    is_predicted,
    made_up_documents,
    made_up_store,
    plain_selection,
    plain_tokens,
    tiny_llama,
)
from test_preference_trainer import SETTINGS as TRAINER_SETTINGS
from test_preference_trainer import assert_close, gradients
from tiny_models import build_model, tiny_config

from forkpoint.engines.local import logprobs as training_logprobs
from forkpoint.pairs.pair import Pair
from forkpoint.scores.store import open_store
from forkpoint.training.configs import PreferenceConfig, SelectiveConfig
from forkpoint.training.preference_trainer import PreferenceTrainer
from forkpoint.training.selective_trainer import SelectiveTrainer
from forkpoint.training.store_batches import Rows, collate
from forkpoint.types import UserError
from forkpoint.weights.rules import NAMES, SCOPES, Rule

LENGTHS = (3, 9, 2, 14, 6, 20, 5, 11, 8, 4, 17, 2, 7, 10)  # of documents: 17 rows of at most 12 tokens
EIGHT = tuple(range(8))
RULES = {name: Rule(name, 0.6, 0.7 if name in ("union", "intersection") else None) for name in NAMES}
SETTINGS = TRAINER_SETTINGS | {"train_sampling_strategy": "sequential", "optim": "sgd", "learning_rate": 0.05}


def trainer_for(model, store, out, rule, **more):
    """A trainer of the rule; what is no setting goes to the trainer."""
    options = {name: more.pop(name) for name in ("eval_dataset", "ref_model", "processing_class") if name in more}
    args = SelectiveConfig(
        output_dir=str(out), rule=rule.score, ratio=rule.ratio, entropy_ratio=rule.entropy_ratio, scope=rule.scope,
        ratio_warmup=rule.warmup, **(SETTINGS | more),
    )  # fmt: skip
    return SelectiveTrainer(model, args, store, **options)


@pytest.fixture(scope="module")
def models():
    """A model to train, and a reference."""
    return tiny_llama(1), tiny_llama(2)


@pytest.fixture(scope="module")
def store(models, tmp_path_factory):
    """Rows of many lengths, some of which continue a document, with the reference's scores."""
    path = tmp_path_factory.mktemp("stores") / "store"
    return made_up_store(path, made_up_documents(LENGTHS), in_rows(12, 8), reference=models[1])


@pytest.fixture
def policy(models):
    """A model that may be trained."""
    return copy.deepcopy(models[0])


def step(trainer, micro_batches):
    """Loss, gradients and selected tokens of an optimizer step on rows by number, without the step."""
    model = trainer.model
    model.zero_grad()
    batches = [collate([trainer.train_dataset[i] for i in part]) for part in micro_batches]
    batches, count = trainer.get_batch_samples(iter(batches), len(batches), torch.device("cpu"))
    losses = [trainer.compute_loss(model, batch, num_items_in_batch=count) for batch in batches]
    sum(losses).backward()
    selected = (torch.cat([batch["weights"] for batch in batches]) != 0).tolist()
    return float(sum(losses).detach()), gradients(model), selected


def plain_step(model, store, rule, micro_batches, reference=None):
    """The same by the definition."""
    model.zero_grad()
    tokens = plain_tokens(model, store, [i for part in micro_batches for i in part], reference)
    part = {index: number for number, rows in enumerate(micro_batches) for index in rows}
    index = tokens["index"].tolist()
    groups = {"batch": [0] * len(index), "sequence": index, "micro_batch": [part[i] for i in index]}
    selected = plain_selection(tokens, rule, groups[rule.scope])
    loss = tokens["losses"][selected].mean()
    loss.backward()
    return float(loss.detach()), gradients(model), selected


def assert_same_step(ours, theirs):
    """The same tokens, loss and gradients."""
    assert ours[2] == theirs[2]
    assert_close(ours, theirs, 1e-6)


SPLITS = ((EIGHT,), (EIGHT[:3], EIGHT[3:4], EIGHT[4:]))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("score", NAMES)
def test_every_rule_and_scope_is_its_definition(score, scope, models, store, tmp_path):
    rule = dataclasses.replace(RULES[score], scope=scope)
    trainer = trainer_for(models[0], store, tmp_path, rule)
    for split in SPLITS:
        assert_same_step(step(trainer, split), plain_step(models[0], store, rule, split))


@pytest.mark.parametrize("scope", SCOPES)
def test_a_reference_at_hand_scores_as_the_stored_numbers_say(scope, models, store, tmp_path):
    model, reference = models
    for score in ("excess_loss", "intersection"):
        rule = dataclasses.replace(RULES[score], scope=scope)
        asked = trainer_for(model, store, tmp_path, rule, ref_model=reference)
        ours = step(asked, SPLITS[1])
        assert_same_step(ours, plain_step(model, store, rule, SPLITS[1], reference))
        assert_same_step(ours, step(trainer_for(model, store, tmp_path, rule), SPLITS[1]))
    batch = collate([Rows(store, 0)[i] for i in EIGHT])
    scores = zip(("reference_loss", "reference_entropy"), asked._scores(reference, asked.ref_head, batch), strict=True)
    for name, column in scores:
        torch.testing.assert_close(column, batch[name], rtol=2**-11, atol=1e-6)  # stored in half precision
    assert not any(p.requires_grad for p in reference.parameters())


@pytest.mark.parametrize("scope", SCOPES)
def test_rules_rank_by_the_loss_without_dropout(scope, store, tmp_path):
    """However many micro-batches a step has; the loss that is trained on has dropout."""
    model = tiny_llama(1, attention_dropout=0.5)
    rule = Rule("excess_loss", 0.6, scope=scope)
    for split in SPLITS:
        selected = plain_step(model.eval(), store, rule, split)[2]
        trainer = trainer_for(model.train(), store, tmp_path, rule)
        torch.manual_seed(5)
        ours, again = step(trainer, split), step(trainer, split)
        assert ours[2] == again[2] == selected
        assert ours[0] != again[0]


def test_dropout_of_adapters_is_apart_from_the_ranking(store, tmp_path):
    args = SelectiveConfig(output_dir=str(tmp_path), use_cpu=True, lora_r=2, lora_dropout=0.5)
    assert SelectiveTrainer(tiny_llama(1).float(), args, store, ref_model=tiny_llama(2)).apart
    args = SelectiveConfig(output_dir=str(tmp_path), use_cpu=True, lora_r=2)
    assert not SelectiveTrainer(tiny_llama(1).float(), args, store, ref_model=tiny_llama(2)).apart


@pytest.mark.parametrize("score", ["uniform", "intersection", "excess_loss"])
def test_only_selected_rows_reach_the_output_matrix(score, models, store, tmp_path, monkeypatch):
    """Where the selection is known; rules of the current loss see all rows of a single micro-batch."""
    met = []
    plain = training_logprobs._Matrix.logits
    monkeypatch.setattr(training_logprobs._Matrix, "logits", lambda m, h: met.append(len(h)) or plain(m, h))
    trainer = trainer_for(models[0], store, tmp_path, dataclasses.replace(RULES[score], scope="batch"))
    for split in SPLITS:
        met.clear()
        selected = step(trainer, split)[2]
        forward = len(selected) if score == "excess_loss" else sum(selected)
        backward = sum(selected)
        ranked_first = score == "excess_loss" and len(split) > 1
        assert sum(met) == forward + backward + (sum(selected) if ranked_first else 0)


@pytest.mark.parametrize("rule", [Rule("excess_loss", 1.0), Rule("intersection", 1.0), Rule("uniform")])
def test_a_ratio_of_1_is_causal_language_modeling(rule, models, store, tmp_path):
    """As transformers computes it, whose labels count but for -100."""
    model, _ = models
    ids, labels = torch.zeros(2, 8, 12, dtype=torch.long).unbind()
    labels -= 100
    for i, row in enumerate(store[i].row for i in EIGHT):
        for t, token in enumerate(row.ids.tolist()):
            ids[i, t] = token
            if is_predicted(row, t):
                labels[i, t] = token
    model.zero_grad()
    loss = model(input_ids=ids, labels=labels).loss
    loss.backward()
    expected = float(loss.detach()), gradients(model), [True] * int((labels != -100).sum())
    for split in SPLITS:
        assert_same_step(step(trainer_for(model, store, tmp_path, rule), split), expected)


def trained(model, store, out, rule, micro=8, accumulate=1, **more):
    """Weights and what was logged after two steps of eight rows."""
    sizes = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": accumulate, "max_steps": 2}
    return at_the_end(trainer_for(copy.deepcopy(model), store, out, rule, **(sizes | more)))


def at_the_end(trainer):
    trainer.train()
    return trainer.model.state_dict(), [row for row in trainer.state.log_history if "loss" in row]


def assert_same_training(one, other):
    """The same weights, and the same logged."""
    for name, tensor in one[0].items():
        torch.testing.assert_close(other[0][name], tensor, atol=1e-7, rtol=0)
    for a, b in zip(one[1], other[1], strict=True):
        assert logged(a) == pytest.approx(logged(b), rel=1e-5, abs=1e-5)


def logged(row):
    """What is no time and no setting."""
    return {name: value for name, value in row.items() if name == "loss" or "/" in name}


@pytest.mark.parametrize("score", ["excess_loss", "union"])
@pytest.mark.parametrize(("micro", "accumulate"), [(8, 1), (3, 2)])
def test_what_is_logged(score, micro, accumulate, models, store, tmp_path):
    """Over two steps, without moving; some documents have tokens in both steps."""
    rule = RULES[score]
    _, (row,) = trained(models[0], store, tmp_path, rule, micro, accumulate, logging_steps=2, learning_rate=0.0)
    rows = micro * accumulate
    steps = [plain_tokens(models[0], store, range(first, first + rows)) for first in (0, rows)]
    by_step = defaultdict(list)
    for tokens in steps:
        kept = tokens["kept"] = np.array(plain_selection(tokens, rule, np.zeros(len(tokens["loss"]))))
        by_step["loss"].append(tokens["loss"][kept].mean())
        if score == "excess_loss":
            by_step["selection/limit/excess_loss"].append((tokens["loss"] - tokens["reference_loss"])[kept].min())
        else:
            for name, ratio in (("reference_loss", 0.6), ("reference_entropy", 0.7)):
                last = np.sort(tokens[name])[math.floor(ratio * len(kept) + 0.5) - 1]
                by_step[f"selection/limit/{name}"].append(last)
    expected = {name: np.mean(values) for name, values in by_step.items()}
    losses, kept, documents = (
        np.concatenate([tokens[name] for tokens in steps]) for name in ("loss", "kept", "document")
    )
    if score == "excess_loss":  # a static rule computes the others' losses nowhere
        expected |= {"loss/all": losses.mean(), "loss/unselected": losses[~kept].mean()}
    shares = np.array([kept[documents == number].mean() for number in np.unique(documents)])
    expected |= {f"selection/documents_p{q}": np.quantile(shares, q / 100) for q in (10, 50, 90)}
    expected |= {"selection/share": kept.mean(), "selection/documents_none": (shares == 0).mean()}
    assert logged(row) == pytest.approx(expected, abs=1e-5)


def test_an_evaluation_is_the_mean_over_all_tokens(models, store, policy, tmp_path):
    """Of a store without scores, for any size of batches, of which the last one is smaller."""
    others = made_up_store(tmp_path / "others", made_up_documents((4, 11, 7, 2, 9), seed=5), in_rows(12))
    expected = plain_tokens(models[0], others, range(len(others)))["loss"].mean()
    for batch in (3, 16):
        trainer = trainer_for(
            policy, store, tmp_path, RULES["excess_loss"], eval_dataset=others, per_device_eval_batch_size=batch
        )
        assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-6)
        few = torch.utils.data.Subset(trainer.eval_dataset, [0, 3])
        named = trainer.evaluate(few, metric_key_prefix="few")["few_loss"]
        assert named == pytest.approx(trainer.predict(few).metrics["test_loss"], abs=1e-12)
        assert not trainer.sums


def test_data_sets_of_token_ids_or_of_text(models, store, tokenizer, tmp_path):
    """The rows are those of a store; text is tokenised."""
    model, reference = models
    rows = [store[i].row.ids.tolist() for i in range(4)]
    data, rule = datasets.Dataset.from_list([{"input_ids": ids} for ids in rows]), Rule("excess_loss", 0.5)
    options = {"ref_model": reference, "processing_class": tokenizer, "eval_dataset": data, "max_steps": 1}
    trainer = trainer_for(copy.deepcopy(model), data, tmp_path, rule, **options)
    assert [trainer.train_dataset[i].scored.row.ids.tolist()[: len(ids)] for i, ids in enumerate(rows)] == rows
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0
    texts = datasets.Dataset.from_list([{"text": "One and two are three."}])
    model = build_model(tiny_config(tokenizer))
    assert len(trainer_for(model, texts, tmp_path, Rule("loss"), processing_class=tokenizer).train_dataset) == 1
    for wrong in ("corpus.jsonl", datasets.Dataset.from_list([{"words": "a"}])):
        with pytest.raises(UserError, match="has a column text or input_ids"):
            trainer_for(model, wrong, tmp_path, rule, **options)


def test_a_compiled_model_trains_alike(models, store, tmp_path):
    steps = [
        trained(models[0], store, tmp_path / name, Rule(), torch_compile=compiled, torch_compile_backend="eager")
        for name, compiled in (("compiled", True), ("eager", False))
    ]
    assert_same_training(*steps)


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_an_evaluation_changes_nothing_in_a_training(strategy, models, store, tmp_path):
    more = {"train_sampling_strategy": strategy, "max_steps": 5, "logging_steps": 2}
    still = trained(models[0], store, tmp_path, RULES["excess_loss"], 4, 2, **more)
    judged = {"eval_dataset": store, "eval_strategy": "steps", "eval_steps": 1}
    assert_same_training(still, trained(models[0], store, tmp_path, RULES["excess_loss"], 4, 2, **more, **judged))


def test_the_tokens_of_packed_rows_know_their_documents(tmp_path):
    lengths = (3, 9, 2, 14, 1, 20, 5)
    documents = made_up_documents(lengths)
    packed = made_up_store(tmp_path / "store", documents, in_rows(12, 8, "packed"))
    batch = collate([Rows(packed, 0)[i] for i in range(len(packed))])
    owners = [number for number, tokens in documents for _ in tokens[1:]]  # their first tokens do not count
    assert batch["document"].tolist() == owners
    assert batch["targets"].tolist() == [token for _, tokens in documents for token in tokens[1:]]


def test_a_loss_that_is_no_number_names_its_row(store, policy, models, tmp_path):
    """A token that no other row of the step has."""
    first = [store[i].row.ids.tolist() for i in EIGHT]
    token = next(t for t in first[5][:-1] if not any(t in row for i, row in enumerate(first) if i != 5))
    with torch.no_grad():
        policy.get_input_embeddings().weight[token] = math.nan
    for rule in (RULES["excess_loss"], RULES["intersection"], Rule("uniform")):
        for micro in (8, 2):
            with pytest.raises(UserError, match=r"token in row 5 of the store is nan at step 1: lower the learning"):
                trained(policy, store, tmp_path, rule, micro, 8 // micro)
    with pytest.raises(UserError, match="the reference model's loss of a token in row 5 of the store is nan at step 1"):
        trained(models[0], store, tmp_path, RULES["excess_loss"], ref_model=policy)


NOTHING = {
    "two halves": Rule("intersection", 0.4),
    "short rows": Rule("reference_loss", 0.04, scope="sequence"),
    "a short step": Rule("reference_loss", 0.004),
}


@pytest.mark.parametrize("name", NOTHING)
def test_a_step_without_selected_tokens_changes_nothing(name, models, tmp_path):
    """The tokens of lowest loss are those of highest entropy, or the share of a row or a step is below half a token."""
    rising = np.array([math.nan, *range(1, 12)], np.float32)
    scores = {"reference_loss": rising, "reference_entropy": 12 - rising}
    made = made_up_store(tmp_path / "store", made_up_documents([12] * 16), in_rows(12), scores=lambda row: scores)
    for micro in (8, 2):
        weights, rows = trained(models[0], made, tmp_path, NOTHING[name], micro, 8 // micro)
        for key, tensor in weights.items():
            assert torch.equal(tensor, models[0].state_dict()[key])
        assert [(row["loss"], row["selection/share"]) for row in rows] == [(0, 0), (0, 0)]
        assert all(math.isfinite(value) for row in rows for value in row.values())


def selective_trainer(out, **more):
    """One with rows of many lengths, and the name of the column that tells them apart."""
    path = out / "store"
    store = open_store(path) if path.exists() else made_up_store(path, made_up_documents(LENGTHS), in_rows(12))
    return trainer_for(tiny_llama(1), store, out, Rule("loss"), **more), "index"


def preference_trainer(out, **more):
    """The same for pairs."""
    pairs = [
        Pair(f"p{i}", (5,), tuple(ids), (7, 8), "", "", "", (0.5, 1.0), 1 / (i + 1))
        for i, ids in made_up_documents(LENGTHS + LENGTHS[:3])
    ]
    settings = SETTINGS | {"method": "critical-dpo", "precompute_ref_log_probs": False} | more
    args = PreferenceConfig(output_dir=str(out), **settings)
    return PreferenceTrainer(tiny_llama(1), args, pairs, ref_model=tiny_llama(2)), "pair_index"


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
@pytest.mark.parametrize("make", [selective_trainer, preference_trainer])
def test_accumulation_does_not_matter(make, strategy, tmp_path):
    """Two steps of eight rows, and one of the last row."""
    settings = {"num_train_epochs": 1, "train_sampling_strategy": strategy}
    whole, *others = (
        at_the_end(make(tmp_path, per_device_train_batch_size=n, gradient_accumulation_steps=8 // n, **settings)[0])
        for n in (8, 4, 1)
    )
    for other in others:
        assert_same_training(whole, other)


@pytest.mark.parametrize("make", [selective_trainer, preference_trainer])
def test_by_length_each_epoch_has_its_order_and_a_resumed_run_the_same(make, tmp_path):
    """17 rows, 9 steps an epoch; the checkpoints lie within the second one and at its end."""
    settings = {
        "train_sampling_strategy": "group_by_length", "per_device_train_batch_size": 2, "num_train_epochs": 3,
        "save_strategy": "steps", "save_steps": 6, "save_total_limit": 9, "seed": 3,
    }  # fmt: skip
    whole = seen(*make(tmp_path, **settings))
    epochs, lengths = [whole[at : at + 9] for at in (0, 9, 18)], make(tmp_path)[0].lengths
    for epoch in epochs:
        assert sorted(i for step in epoch for i in step) == list(range(17))
        assert max(np.ptp([lengths[i] for i in step]) for step in epoch) < np.ptp(lengths) / 2
    assert len({str(epoch) for epoch in epochs}) == 3
    for done in (12, 18):
        assert seen(*make(tmp_path, **settings), tmp_path / f"checkpoint-{done}") == whole[done:]


def seen(trainer, name, checkpoint=None):
    """The rows of each step of a training."""
    found, compute = [], trainer.compute_loss

    def noting(model, inputs, **more):
        found.append(inputs[name].tolist())
        return compute(model, inputs, **more)

    trainer.compute_loss = noting
    trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    return found
