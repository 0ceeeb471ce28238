"""Training: language models and pairs of responses, by `transformers.Trainer`, with weighted losses.

In: a model and a score store, or pairs; settings. Out: a directory with the trained model, its card and summary.json.
Does not know where scores and pairs come from.
"""
