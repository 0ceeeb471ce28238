"""Samplers (logits -> logits), the policy that a `Sampling` describes, and the drawing of tokens from it."""

from forkpoint.sampling.draw import inverse_cdf, key_hash, uniforms
from forkpoint.sampling.limits import validate
from forkpoint.sampling.processors import MinK, MinP, PLess, TopNSigma, build_processors, policy_logits
from forkpoint.sampling.truncations import LogitsError, min_k, min_p, p_less, top_n_sigma

__all__ = ["LogitsError", "MinK", "MinP", "PLess", "TopNSigma", "build_processors", "inverse_cdf", "key_hash",
           "min_k", "min_p", "p_less", "policy_logits", "top_n_sigma", "uniforms", "validate"]  # fmt: skip
