"""The losses as the papers write them: one pair at a time, whole logits, float64, no chunks, no shared prompts."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid


def rows(model, prompt, response):
    """log π over the vocabulary at each token of the response, [n, V], and the tokens."""
    ids = torch.tensor([[*prompt, *response]])
    logs = model(input_ids=ids).logits[0].log_softmax(-1)
    return logs[len(prompt) - 1 : -1], torch.tensor(response)


def pair_loss(method, model, reference, pair, beta, alpha=0.0, s=None):
    """The loss of one pair, times its weight; `s` are the contrastive scores of the rejected tokens."""
    sides = {}
    for name in ("chosen", "rejected"):
        response = getattr(pair, f"{name}_ids")
        logs, ids = rows(model, pair.prompt_ids, response)
        with torch.no_grad():
            ref, _ = rows(reference, pair.prompt_ids, response)
        own = logs.gather(-1, ids[:, None])[:, 0]
        delta = own - ref.gather(-1, ids[:, None])[:, 0]
        kl = (ref.exp() * (ref - logs)).sum(-1)
        sides[name] = own, delta, kl
    (w, dw, klw), (_, dl, kll) = sides["chosen"], sides["rejected"]
    dpo = beta * dw.sum() - beta * dl.sum()
    losses = {
        "dpo": lambda: -logsigmoid(dpo),
        "rpo": lambda: -logsigmoid(dpo) - alpha * w.sum() / len(w),
        "tdpo1": lambda: -logsigmoid(dpo - (beta * kll.sum() - beta * klw.sum())),
        "tdpo2": lambda: -logsigmoid(dpo - alpha * beta * (kll.sum() - klw.sum().detach())),
        "critical-dpo": lambda: -logsigmoid(beta * dw.sum() - beta * sum((1 - s[t]) * dl[t] for t in range(len(dl)))),
        "fork-dpo": lambda: -logsigmoid(beta * (dw[0] - dl[0])),
    }
    return pair.weight * losses[method]()
