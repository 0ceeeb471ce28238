"""Evaluation: strategies judged side by side, with paired statistics.

In: problems with gold answers, strategies, an engine. Out: samples.jsonl and results.json. Does not know how a strategy
finds its answer, nor how results are shown.
"""
