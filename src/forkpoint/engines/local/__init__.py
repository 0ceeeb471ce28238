"""The transformers engine: shared trunks, the decoding loop, scoring, the output matrix, memory.

In: a model in this process, requests or sequences. Out: completions and scores. Does not know tasks or methods.
"""
