"""Strategies behind OpenAI's API: `model` names the strategy, an `Engine` does the work. `app.create_app` builds it."""
