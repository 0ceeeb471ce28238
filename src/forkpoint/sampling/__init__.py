"""Samplers (logits -> logits), the policy that a `Sampling` describes, and the drawing of tokens from it."""

from forkpoint.sampling.cliff import min_k
from forkpoint.sampling.draw import inverse_cdf, key_hash, uniforms
from forkpoint.sampling.gaps import LogitsError, min_p, p_less, top_n_sigma
from forkpoint.sampling.limits import validate
from forkpoint.sampling.processors import build_processors, policy_logits
from forkpoint.sampling.warpers import MinK, MinP, PLess, TopNSigma

__all__ = [
    "LogitsError",
    "MinK",
    "MinP",
    "PLess",
    "TopNSigma",
    "build_processors",
    "inverse_cdf",
    "key_hash",
    "min_k",
    "min_p",
    "p_less",
    "policy_logits",
    "top_n_sigma",
    "uniforms",
    "validate",
]
