"""Whether the Hugging Face Hub can be asked at all, found out once and quickly."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from forkpoint.types import UserError


def check_hub(name: str, kind: Literal["model", "data set"]) -> None:
    """Ask the Hub once for what is not kept here: its libraries would ask it over and over for a minute.

    UserError where it does not answer.
    """
    from huggingface_hub import constants, get_session

    kept = [Path(constants.HF_HUB_CACHE, f"{kind.replace(' ', '')}s--{name.replace('/', '--')}")]
    if kind == "data set":
        from datasets import config

        kept.append(Path(config.HF_DATASETS_CACHE, name.replace("/", "___")))
    if constants.HF_HUB_OFFLINE or any(path.exists() for path in kept):
        return
    try:
        get_session().head(constants.ENDPOINT)
    except Exception as error:  # of several libraries for HTTP
        local = "directory" if kind == "model" else "local file or directory"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"no {kind} {name}: it is no {local}, and {constants.ENDPOINT} cannot be reached ({reason})"
        ) from error
