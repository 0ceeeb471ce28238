"""Losses: pure functions of weighted log-probabilities, each with its equation and paper.

In: log-probabilities of tokens, weights, sums by response. Out: a loss. Does not know models, files or trainers.
"""
