"""Pairs: preference data, chosen and rejected responses as token ids with weights.

In: graded trajectories, success curves, scores, or other people's files. Out: pairs.jsonl and TRL's forms. Does not
know how pairs are trained on.
"""
