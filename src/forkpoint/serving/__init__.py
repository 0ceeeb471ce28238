"""Serving: strategies behind OpenAI's API; `model` names the strategy, an engine does the work.

In: HTTP requests. Out: completions with the forkpoint extension. `app.create_app` builds the server. Knows no tasks.
"""
