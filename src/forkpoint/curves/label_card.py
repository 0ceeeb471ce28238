"""What an exported data set says of itself: its columns, with types and meanings, and its dataset card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Column:
    """A column's type and meaning. A type is a `datasets` dtype, [type] for a list, (type, ...) for a list of that
    length, or {name: type}; any value may be null.
    """

    type: Any
    meaning: str


_ALTERNATIVE = {
    "position": "int64", "token_id": "int64", "token": "string", "policy_prob": "float64", "success": "float64",
    "n": "int64",
}  # fmt: skip
COLUMNS: Mapping[str, Column] = {
    "id": Column("string", "the trajectory's name within the run"),
    "problem_id": Column("string", "the problem's name within the task; trajectories of one problem share it"),
    "question": Column("string", "the problem"),
    "prompt_ids": Column(["int64"], "the prompt's token ids"),
    "token_ids": Column(["int64"], "the response's T token ids"),
    "tokens": Column(["string"], "the text of each token"),
    "answer": Column("string", "the answer read from the response, null where none was found"),
    "gold": Column("string", "the problem's answer"),
    "correct": Column("bool", "whether the answer is right"),
    "finish_reason": Column("string", "`stop` where the response ended by itself, `length` where it was cut"),
    "success": Column(["float64"], "T+1 numbers: `success[i]` estimates P(correct) after the first i tokens; null "
                                   "where it was not evaluated"),
    "success_ci": Column([("float64", "float64")], "T+1 pairs: the 95% interval of each `success`"),
    "success_bias": Column(["float64"], "T+1 bounds on how far `success` may lie from the truth, for tokens that the "
                                        "engine could not name; null where it named all"),
    "status": Column("string", "`critical`, `none` or `undecided`"),
    "critical_index": Column("int64", "c, where `token_ids[c]` is the critical token; null where there is none"),
    "alternatives": Column([_ALTERNATIVE], "other tokens tried: `success` of `n` rollouts that took `token_id` at "
                                           "`position`, and the policy's probability of it"),
    "rollouts": Column("int64", "responses sampled to find this"),
    "tokens_generated": Column("int64", "tokens generated to find this"),
    "brute_force_tokens": Column("int64", "tokens that 64 rollouts from every prefix would have taken, estimated"),
    "policy_prob": Column(["float64"], "T numbers: each token's probability under the sampling policy"),
    "entropy": Column(["float64"], "T numbers: the entropy, in nats, of the model's distribution at each token, "
                                   "before temperature and truncation"),
    "gap": Column(["float64"], "T numbers: p(most probable token) - p(second), of the same distribution"),
    "logprob": Column(["float64"], "T numbers: each token's natural log-probability, of the same distribution"),
}  # fmt: skip

_PROTOCOLS = {
    "paper": (
        "The protocol of the paper (section 2): 64 rollouts are sampled from every prefix of a wrong response, and its "
        "critical token is the first one after which 0 of 64 are correct and fewer than 5% (at most 3 of 64) after it "
        "and every later token. Prefixes before the last recoverable one, which cannot change the label, were left out "
        "(null), and the rollouts of a recoverable prefix ended with the 4th correct one, so `success` leans upwards "
        "there."
    ),
    "forks": (
        "The fork estimator: rollouts are sampled only where the response could have taken another token, and each "
        "informs every prefix before it, through `success[t] = π_t success[t+1] + (1 - π_t) q_t` with the policy's "
        "probability π_t of the response's own token and the success q_t of rollouts that leave there. The critical "
        "token is the first one after which success is at most 1/64 with an upper bound below 5%, as is every later "
        "upper bound; where the intervals do not settle it, the status is `undecided`."
    ),
}

_STATISTICS = (
    "n_trajectories", "n_wrong", "statuses", "share_critical", "share_critical_ci95", "critical_position",
    "token_kinds", "rollouts", "tokens_generated", "brute_force_tokens",
)  # fmt: skip

_CARD = """\
---
{front_matter}
---

# {title}

{n:,} responses of `{model}` to problems of `{task}`, with the success probability after each token and the critical
token: the first token after which the response is lost. Made by forkpoint {version}.

```python
from datasets import load_dataset

rows = load_dataset("PATH OR HUB NAME OF THIS DATA SET", split="train")
```

## How the labels were made

{protocol}

Responses and rollouts were sampled alike:

```json
{sampling}
```

Correctness is the task's own grading of the final answer. Token ids are those that the model generated; no text was
tokenised again. `tokens` is for reading.

## Columns

| column | type | meaning |
|---|---|---|
{columns}

## Statistics

```json
{statistics}
```

## Licence

Not stated by the tool that made this data set. The questions are under the licence of the task's data, and the
responses under the terms of the model; check both before you share or train on them.

## Citation

The critical-token protocol:

```bibtex
@article{{lin2024critical,
  title   = {{Critical Tokens Matter: Token-Level Contrastive Estimation Enhances LLM's Reasoning Capability}},
  author  = {{Lin, Zicheng and Liang, Tian and Xu, Jiahao and others}},
  journal = {{arXiv preprint arXiv:2411.19943}},
  year    = {{2024}}
}}
```
"""


def card(summary: Mapping[str, Any], n: int) -> str:
    """The README.md of a data set of n trajectories: YAML front matter that the Hub reads, then what a reader needs."""
    model, task = (str(summary.get(key, "unknown")) for key in ("model", "task"))
    title = f"Critical tokens of {model} on {task}"
    return _CARD.format(
        front_matter=_front_matter(title, n),
        title=title,
        n=n,
        model=model,
        task=task,
        version=summary.get("version", ""),
        protocol=_PROTOCOLS.get(str(summary.get("protocol")), f"Protocol: {summary.get('protocol')}"),
        sampling=json.dumps(summary.get("sampling"), indent=2, ensure_ascii=False),
        columns="\n".join(f"| `{name}` | {_spelled(c.type)} | {c.meaning} |" for name, c in COLUMNS.items()),
        statistics=json.dumps({key: summary.get(key) for key in _STATISTICS}, indent=2, ensure_ascii=False),
    )


def _front_matter(title: str, n: int) -> str:
    from huggingface_hub import DatasetCardData

    sizes = [(10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M")]
    data = DatasetCardData(
        pretty_name=title,
        license="other",
        license_name="unknown",
        task_categories=["text-generation"],
        size_categories=next((name for limit, name in sizes if n < limit), "n>1M"),
        tags=["reasoning", "critical-tokens", "token-level", "forkpoint", "arxiv:2411.19943"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    )
    text: str = data.to_yaml()
    return text


def _spelled(kind: Any) -> str:
    if isinstance(kind, dict):
        return "{" + ", ".join(f"{name}: {_spelled(part)}" for name, part in kind.items()) + "}"
    if isinstance(kind, tuple):
        return "[" + ", ".join(map(_spelled, kind)) + "]"
    return kind if isinstance(kind, str) else f"list of {_spelled(kind[0])}"
