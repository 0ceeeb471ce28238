"""A finished run of every kind: a real one on the lab where that takes seconds, else made-up files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from forkpoint.cli import main
from forkpoint.lab import MODEL_DIR
from forkpoint.scores.dynamics import class_names, classify, dynamics_summary
from forkpoint.tasks import load_problems
from forkpoint.text import pieces

Row = dict[str, Any]
HOSTILE = "<script>alert(1)</script> & \"quotes\" 'single' <img src=x onerror=alert(2)>"
CHECKPOINTS = ["step-0", "step-200", "step-400"]
TEXTS = ["Q: Ada has 5 pens.\nA: 5.", "", "Then the number of pens doubles. " * 4, f"Q: How many? A: 10. {HOSTILE}"]
PREFERENCES = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen",
               "logps/rejected")  # fmt: skip


def rows_of(path: Path) -> list[Row]:
    """The rows of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(out: Path, **files: Any) -> Path:
    """Write a run's files, named without ending: rows as JSON Lines, all else as JSON."""
    out.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        text = "".join(json.dumps(row) + "\n" for row in value) if isinstance(value, list) else json.dumps(value)
        (out / f"{name}.{'jsonl' if isinstance(value, list) else 'json'}").write_text(text, encoding="utf-8")
    return out


def command(*argv: str, out: Path) -> Path:
    """Run a command on the lab."""
    assert main([*argv, "--quiet", f"--out={out}"]) == 0
    return out


def with_intervals(figures: dict[str, float], half: float = 0.1) -> Row:
    """The figures, each with an interval around it."""
    return figures | {f"{name}_ci95": [value - half, value + half] for name, value in figures.items()}


def eval_run(out: Path) -> Path:
    strategies = ("greedy", "cot-decoding:k=4", "self-consistency:n=3")
    return command("eval", "--limit=12", "--max-tokens=100", *(f"--strategy={spec}" for spec in strategies), out=out)


def critical_run(out: Path) -> Path:
    return command("critical", "--limit=4", "--n=2", "--seed=2", "--budget=96", "--replace", "--which=all", out=out)


def documents_run(out: Path, n: int = 3) -> Path:
    """Documents with every column that a page may show."""
    from transformers import AutoTokenizer

    tokenizer, rows, losses = AutoTokenizer.from_pretrained(MODEL_DIR), [], []
    for i, problem in enumerate(load_problems("lab", limit=n)):
        ids = tokenizer(f"{problem.question}\nSubscribe to our letter!", add_special_tokens=False)["input_ids"]
        chance = np.random.default_rng(i)
        moves = chance.normal(0, 0.8, len(ids)) * np.linspace(0, 1, len(CHECKPOINTS))[:, None]
        losses.append(np.clip(chance.gamma(0.9, 1.6, len(ids)) + 0.3 + moves, 0.001, None).astype(np.float32))
        losses[-1][:, 0] = np.nan  # the first token has none
        noise = [("boilerplate", "typo", None)[min(2, t)] for t in range(len(ids))]
        rows.append({"id": problem.id, "token_ids": ids, "tokens": pieces(tokenizer, ids), "noise": noise})
    dynamics, at = classify(np.concatenate(losses, axis=1)), 0
    for row, own in zip(rows, losses, strict=True):
        part = slice(at, at := at + own.shape[1])
        columns = {"loss": own[-1], "reference_loss": own[0], "excess_loss": own[-1] - own[0],
                   "reference_entropy": own[0] * 0.8, "delta": dynamics.delta[part]}  # fmt: skip
        row |= {key: [None if np.isnan(v) else float(v) for v in values] for key, values in columns.items()}
        row |= {"class": class_names(dynamics.classes)[part]}
        row["selected"] = [None if v is None else int(v > 0) for v in row["excess_loss"]]
    summary = {"model": "lab", "documents": n, "ratio": 0.6, "sampling": {"ignored": 1}, "version": "0.1.0"}
    summary["dynamics"] = dynamics_summary(np.concatenate(losses, axis=1), dynamics, CHECKPOINTS)
    return write(out, summary=summary, documents=rows)


def contrast_summary(**changes: Any) -> Row:
    figures = {"hit_rate": 0.25, "mean_reciprocal_rank": 0.5, "auc": 0.75}
    scorers = ("contrast", "policy_prob", "entropy", "random")
    return {
        "verb": "contrast", "model": "lab", "task": "gsm8k",
        "agreement": {
            "trajectories": 17, "problems": 12,
            "scorers": [{"scorer": name} | with_intervals(figures, 0.125) for name in scorers],
            "comparisons": [{"a": "contrast", "b": name} | with_intervals(figures, 0.125) for name in scorers[1:]],
        },
        "sets": {"questions": 100, "samples": 1600, "correct": 797, "cut_off": 161},
        "scored": {"trajectories": 17, "tokens": 1777},
        "training": {
            "positive": {"responses": 100, "steps": 3, "losses": [0.3, 0.2, 0.1]},
            "negative": {"responses": 246, "steps": 31, "losses": [0.5] * 15},
        },
    } | changes  # fmt: skip


def contrast_row(number: int = 0, **changes: Any) -> Row:
    names = ("s", "policy_prob", "logprob", "entropy", "logprob_positive", "logprob_negative")
    return {
        "id": f"p/{number}", "question": "How many?", "token_ids": [7, 8, 0], "tokens": [" four", " pens", ""],
        "answer": "4", "gold": "3", "correct": False, "finish_reason": "stop", "critical_index": number or None,
        "scores": {name: [number + 0.25, 0.5, i + 0.0] for i, name in enumerate(names)},
    } | changes  # fmt: skip


def contrast_run(out: Path) -> Path:
    return write(out, config={"verb": "contrast"}, summary=contrast_summary(), scores=[contrast_row(i) for i in (0, 1)])


PAIR_COUNTS = {
    "samples": {"questions": 1100, "samples": 1600, "correct": 797, "pairs": 1000, "cut_off": 161},
    "forks": {"trajectories": 17, "trajectories_with_pairs": 9, "positions": 224, "positions_with_pairs": 21,
              "alternatives": 479, "pairs": 33},
    "trl": {"rows": 1200, "pairs": 1100, "shortened_prompts": 4},
}  # fmt: skip


def pairs_summary(source: str = "samples", **changes: Any) -> Row:
    return {
        "verb": "pairs", "model": "lab", "source": source, "counts": PAIR_COUNTS[source],
        "rejected_weights": {"tokens": 2492, "mean": 0.0412, "share_above_half": 0.0353},
        "dropped": {"responses": {"no_answer": 0, "same_correct_answer": 1697}, "questions": {"no_correct": 3}},
        "tokens": {name: {"mean": 47.48, "most": 1059} for name in ("prompt", "chosen", "rejected")},
        "weight": {"mean": 0.583375, "least": 0.042056, "most": 1.0},
    } | changes  # fmt: skip


def pair_row(**changes: Any) -> Row:
    return {
        "id": "right > wrong", "prompt": "Q: How many?\nA:", "chosen_ids": [7], "chosen_tokens": [" four"],
        "rejected_ids": [8, 9], "rejected_tokens": [" fi", "ve"], "rejected_weights": [0.125, 1.0], "weight": 0.172271,
    } | changes  # fmt: skip


def pairs_run(out: Path) -> Path:
    rows = [pair_row(), pair_row(id="other", rejected_weights=None)]
    return write(out, config={"verb": "pairs"}, summary=pairs_summary(), pairs=rows)


def logged(step: int, *names: str, start: str = "") -> Row:
    """A row of a training's log, each value another."""
    return {f"{start}{name}": 1 / (i + 2) + step / 1000 for i, name in enumerate(names)} | {"step": step}


def preference_summary(**changes: Any) -> Row:
    names = ("loss", *PREFERENCES, "kl/chosen", "kl/rejected")
    history = [logged(step, *names) | {"learning_rate": 4e-5, "grad_norm": 1.5} for step in (10, 20, 25)]
    history[1:1] = [logged(8, *names, start="eval_")]
    return {
        "method": "tdpo2", "model": "lab", "pairs": 1200, "steps": 25, "beta": 0.5, "alpha": 0.25, "seed": 3,
        "tokens_in_an_epoch": 34567, "history": [*history, logged(25, *names, start="eval_")],
        "arguments": {"learning_rate": 1e-4, "num_train_epochs": 3.0, "per_device_train_batch_size": 8},
    } | changes  # fmt: skip


def selective_summary(method: str = "slm") -> Row:
    names = ["loss", "loss/all", "selection/share"]
    if method == "slm":
        names += ["loss/unselected", *(f"selection/documents_{what}" for what in ("none", "p10", "p50", "p90"))]
    history = [*(logged(step, *names) for step in (5, 10)), {"eval_loss": 0.334, "step": 10}]
    return {
        "method": method, "model": "lab", "rows": 600, "steps": 10, "tokens_in_an_epoch": 86810, "seed": 0,
        "rule": {"score": "excess_loss", "ratio": 0.6, "scope": "batch"}, "arguments": {}, "history": history,
    }  # fmt: skip


def training_run(out: Path) -> Path:
    return write(out, config={"verb": "train", "model": HOSTILE}, summary=preference_summary())


ROUND_FIGURES = ("greedy_accuracy", "sampled_accuracy", "pass@1", "pass@4", "distinct_answers", "distinct_responses",
                 "correct_logprob")  # fmt: skip


def rounds_summary(kind: str = "none", stopped: str | None = None, **changes: float | None) -> Row:
    figures = {name: 0.5 + i / 100 for i, name in enumerate(ROUND_FIGURES)}
    held_out = with_intervals(figures) | {"samples": 40, "cut_off": 5} | changes
    samples = {"samples": 480, "wrong": 246, "trained": 1067, "tokens": 2746, "masked_tokens": 534, "cut_off": 60}
    results: list[Row] = [{"round": 0, "held_out": held_out}, {"round": 1, "samples": samples, "held_out": held_out}]
    return {
        "verb": "rounds", "model": "lab", "task": "gsm8k", "rounds": 2, "n": 8, "eval_n": 7, "prompt": "cot",
        "sampling": {"temperature": 0.7, "seed": 5}, "stopped": stopped,
        "results": [*results, {"round": 2, "samples": samples}] if stopped else results,
        "filter": {"kind": kind, "keep_quantile": 0.25, "max_token_probability": 0.9},
    }  # fmt: skip


def rounds_run(out: Path) -> Path:
    return write(out, config={"verb": "rounds"}, summary=rounds_summary(stopped="round 2 has nothing to tune on"))


def lm_eval_entry(spec: str, match: float) -> Row:
    figures = {"alias": "maths", "exact_match,strict": match, "exact_match_stderr,strict": 0.05,
               "word_perplexity,none": 9.25, "word_perplexity_stderr,none": "N/A"}  # fmt: skip
    return {
        "strategy": spec, "directory": spec.split(":")[0], "tokens_generated": 1234, "responses": 20, "cut_off": 3,
        "results": {"maths": figures, "choice": {"acc,none": 0.5, "acc_stderr,none": 0.5}},
        "groups": {"all": {"acc,none": 0.25, "acc_stderr,none": 0.125}},
        "versions": {"maths": 3.0, "choice": "Yaml"}, "n-shot": {"maths": 5, "choice": 0},
        "higher_is_better": {"maths": {"exact_match": True, "word_perplexity": False}, "choice": {"acc": True}},
        "n-samples": {"maths": {"original": 9, "effective": 2}, "choice": {"original": 1, "effective": 1}},
    }  # fmt: skip


def lm_eval_run(out: Path) -> Path:
    """Two questions with answers, and one of two choices, in another order with each strategy."""
    for directory, (one, two, likely) in {"greedy": ("2", "7", 0), "self-consistency": ("2", "3", 1)}.items():
        maths = [
            {"doc_id": i, "doc": {"question": f"What is {i} and 1?"}, "target": gold, "filter": "strict",
             "arguments": {"gen_args_0": {"arg_0": "Q: ...", "arg_1": {"until": ["Q:"]}}}, "filtered_resps": [answer],
             "metrics": ["exact_match"], "exact_match": float(answer == gold)}
            for i, answer, gold in ((1, one, "2"), (2, two, "3"))
        ]  # fmt: skip
        arguments = {f"gen_args_{i}": {"arg_0": "x" * 500, "arg_1": text} for i, text in enumerate((" no", " yes"))}
        choice = {"doc_id": 0, "doc": {"label": 1}, "target": "1", "filter": "none", "arguments": arguments,
                  "filtered_resps": [["-1.0" if i == likely else "-3.0", "False"] for i in (0, 1)],
                  "metrics": ["acc"], "acc": float(likely == 1)}  # fmt: skip
        write(out / directory, samples_maths=maths[:: 1 if directory == "greedy" else -1], samples_choice=[choice])
    strategies = [lm_eval_entry("greedy", 0.5), lm_eval_entry("self-consistency:n=3", 1.0)]
    results = {"model": "lab", "tasks": ["maths", "choice"], "strategies": strategies}
    return write(out, config={"verb": "lm-eval"}, results=results)


def corpus_file(out: Path) -> Path:
    return write(out, corpus=[{"text": text} for text in TEXTS * 20]) / "corpus.jsonl"


def store_run(out: Path) -> Path:
    """80 documents in rows of at most 16 tokens that overlap, so that some tokens are context only."""
    return command("score", f"--data={corpus_file(out)}", "--length=16", "--stride=12", out=out / "store")


def selection_run(out: Path) -> Path:
    return command("select", f"--store={store_run(out)}", "--rule=reference_loss", "--ratio=0.3", out=out / "labels")


def logits_run(out: Path) -> Path:
    samplers = ("--sampler=top_n_sigma=1", "--sampler=top_k=50,top_p=0.9")
    return command("logits", "--positions=first,certain,3", *samplers, "--temperatures=1,3", "--limit=2",
                   "--max-tokens=30", "--device=cpu", out=out / "run")  # fmt: skip


def corpus_run(out: Path) -> Path:
    sizes = ("--documents=60", "--clean_documents=7", "--held_out_documents=5")
    return command("lab", "corpus", *sizes, out=out / "run")


def stage(verb: str, done: bool = True, **options: Any) -> Row:
    return {"verb": verb, "options": options, "done": done, "seconds": 12.5 if done else 0.0}


def recipe_training(method: str, loss: float, rule: str = "uniform", ratio: float = 1.0, **changes: Any) -> Row:
    history = [{"step": 5, "eval_loss": 9.0}, {"step": 10, "loss": 1.0}, {"step": 10, "eval_loss": loss}]
    return {"method": method, "rule": {"score": rule, "ratio": ratio}, "steps": 10, "corpus": "corpus.jsonl",
            "eval_data": "held-out.jsonl", "history": history} | changes  # fmt: skip


def recipe_evaluation(out: Path, scores: dict[str, float], **changes: Any) -> None:
    """An evaluation's files with these scores by problem, and one right answer of a strategy of its own."""
    accuracy = sum(scores.values()) / len(scores)
    strategy = {"strategy": "greedy", "accuracy": accuracy, "ci95": [accuracy - 0.1, accuracy + 0.1]}
    strategies = [strategy | {"tokens_generated": 4321}]
    results = {"task": "lab", "prompt": "plain", "n_problems": 1300, "strategies": strategies}
    rows = [("greedy", name, score) for name, score in scores.items()] + [(f"only {out.name}", "p", 1.0)]
    samples = [{"strategy": spec, "problem_id": problem, "score": score} for spec, problem, score in rows]
    config = {"verb": "eval", "problems": changes.pop("problems", "3 (contents ab)")}
    write(out, results=results | changes, config=config, samples=samples)


BEFORE = {f"p{i}": float(i >= 6) for i in range(8)}
AFTER = {f"p{i}": float(i < 7) for i in reversed(range(8))}  # paired by id, whatever the order
STAGES = {
    "score": stage("score"),
    "clm": stage("train clm", store="{score}"),
    "slm-60": stage("train slm", store="{score}", ratio=0.6, snapshots=5),
    "slm-30": stage("train slm", store="{score}", ratio=0.3),
    "drawn": stage("train slm", store="{score}", rule="random", ratio=0.6),
    "before": stage("eval", model="lab"),
    "after": stage("eval", model="{slm-60}/model", data=["{score}", "{score}/x"]),
    "last": stage("critical", done=False, trajectories="{after}"),
}


def recipe_run(out: Path) -> Path:
    write(out / "clm", summary=recipe_training("clm", 2.5))
    write(out / "slm-60", summary=recipe_training("slm", 1.25, "excess_loss", 0.6))
    write(out / "slm-30", summary=recipe_training("slm", 1.5, "excess_loss", 0.3))
    write(out / "drawn", summary=recipe_training("slm", 2.75, "random", 0.6))
    recipe_evaluation(out / "before", BEFORE)
    recipe_evaluation(out / "after", AFTER)
    (out / "before/report.html").write_text("<p>before</p>")
    return write_recipe(out, STAGES)


def write_recipe(out: Path, stages: dict[str, Row]) -> Path:
    verbs = {name: entry["verb"] for name, entry in stages.items()}
    return write(out, recipe={"recipe": "mine", "verbs": verbs, "stages": stages})


RUNS: dict[str, Callable[[Path], Path]] = {
    "eval": eval_run, "critical": critical_run, "contrast": contrast_run, "pairs": pairs_run,
    "training": training_run, "rounds": rounds_run, "store": store_run, "selection": selection_run,
    "documents": documents_run, "logits": logits_run, "lm_eval": lm_eval_run, "corpus": corpus_run,
    "recipe": recipe_run,
}  # fmt: skip
HOSTILE_KEYS = {  # under which models, data sets and users write what they like
    "id", "problem_id", "question", "prompt", "answer", "gold", "chosen", "rejected", "model", "task", "strategy",
    "text", "target", "note", "noise", "data", "status", "finish_reason", "checkpoints", "tokens", "chosen_tokens",
    "rejected_tokens", "filtered_resps", "stopped", "recipe", "title",
}  # fmt: skip


UNTOUCHED = ("config.json", "store.json", "recipe.json", "samples_choice.jsonl")  # whose texts are names and numbers


def hostile(value: Any, key: str = "", nasty: str = HOSTILE) -> Any:
    """The value with every text that is not ours made dangerous."""
    if isinstance(value, dict):
        return {name: hostile(inner, name, nasty) for name, inner in value.items()}
    if isinstance(value, list):
        return [hostile(inner, key, nasty) for inner in value]
    return f"{value} {nasty}" if isinstance(value, str) and key in HOSTILE_KEYS else value


def poisoned(run: Path, out: Path) -> Path:
    """A copy of a run with hostile texts in its files, its configuration and its command."""
    for path in run.rglob("*"):
        if path.is_file() and path.suffix not in (".safetensors", ".html") and not path.name.startswith("."):
            copy = out / path.relative_to(run)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
            if path.suffix in (".json", ".jsonl") and path.name not in UNTOUCHED:
                lines = rows_of(path) if path.suffix == ".jsonl" else [json.loads(path.read_text())]
                copy.write_text("".join(json.dumps(hostile(line)) + "\n" for line in lines))
    config = json.loads((run / "config.json").read_text()) if (run / "config.json").is_file() else {}
    (out / "config.json").write_text(json.dumps(config | {HOSTILE: {HOSTILE: [HOSTILE]}}))
    (out / "command.json").write_text(json.dumps({"command": HOSTILE, "versions": {HOSTILE: HOSTILE}}))
    return out
