"""Decoding: from a prompt to an answer.

In: problems, an engine, a strategy. Out: for each problem its paths, with texts, answers and the chosen one. Does not
know whether an answer is right.
"""
