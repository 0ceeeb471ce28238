"""Weights: rules that turn scores into a weight for each token; one table, `rules.RULES`.

In: columns of scores. Out: a weight a token. Pure functions of tensors; does not know models, files or losses.
"""
