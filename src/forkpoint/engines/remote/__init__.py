"""Engines whose model runs elsewhere: vLLM, and servers that speak OpenAI's completions protocol.

In: an address or vLLM's settings, requests or sequences. Out: completions and scores. Holds no weights.
"""
