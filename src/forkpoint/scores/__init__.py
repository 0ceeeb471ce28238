"""Scores: a number for each token.

In: trajectories or a corpus, and the models that judge them. Out: columns aligned to token ids: log-probability,
entropy, contrast, reference losses (a store on disk), losses along a training. Does not know what they are used for.
"""
