"""From a problem to the token ids that a model continues.

Four styles: "plain" (a question and "A:"), "cot" (the same with "Let's think step by step."), "few-shot" (worked
exemplars before it) and "chat" (the tokenizer's own template). Knows the Hugging Face interface, and no tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from forkpoint.types import AnswerKind, Problem, TokenIds, UserError, nearest

STYLES = ("plain", "cot", "few-shot", "chat")

_CHAT_ENDINGS: dict[AnswerKind, str] = {
    "number": "Reason step by step, then end with 'The answer is N.', where N is a number.",
    "math": "Reason step by step, and put your final answer within \\boxed{}.",
    "option": "Reason step by step, then end with 'The answer is (X).', where X is the letter of the right option.",
    "yesno": "Reason step by step, then end with 'The answer is yes.' or 'The answer is no.'",
}


def render_prompt(problem: Problem, style: str, tokenizer: Any) -> TokenIds:
    """The prompt of a problem as token ids; UserError where there is no such style or chat template."""
    text = prompt_text(problem, style, tokenizer)
    if style == "chat":  # the template has written its special tokens itself
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    return encode(text, tokenizer)


def encode(text: str, tokenizer: Any) -> TokenIds:
    """A text prompt as token ids: with what the tokenizer puts in front, without an end-of-sequence token behind."""
    ids = tuple(tokenizer(text)["input_ids"])
    end = getattr(tokenizer, "eos_token_id", None)
    return ids[:-1] if end is not None and len(ids) > 1 and ids[-1] == end else ids  # no prompt's own text ends in it


def prompt_text(problem: Problem, style: str, tokenizer: Any = None) -> str:
    """The prompt of a problem as text; only "chat" needs the tokenizer."""
    check_style(style)
    if style == "chat":
        content = f"{_question(problem)}\n\n{_CHAT_ENDINGS[problem.kind]}"
        try:
            return render_chat(tokenizer, [{"role": "user", "content": content}], add_generation_prompt=True)
        except UserError as error:
            raise UserError(f"{error}; use the prompt style plain, cot or few-shot") from None
    question = f"Q: {_question(problem)}\nA:"
    if style == "cot":
        return f"{question} Let's think step by step."
    shots = exemplars(problem.kind) if style == "few-shot" else []
    return "\n\n".join([*(f"Q: {_question(shot)}\nA: {solution}" for shot, solution in shots), question])


@cache
def exemplars(kind: AnswerKind) -> list[tuple[Problem, str]]:
    """The worked exemplars of few-shot prompts: problems of a kind and their solutions, written for this project.

    {"kind": "yesno", "question": "Is 91 divisible by 7?", "solution": "We have 13 * 7 = 91, ... yes.", "answer": "yes"}
    """
    lines = Path(__file__).with_name("exemplars.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        (Problem("exemplar", row["question"], row["answer"], kind, tuple(row.get("options", ()))), row["solution"])
        for row in map(json.loads, lines)
        if row["kind"] == kind
    ]


def stop_strings(style: str) -> tuple[str, ...]:
    """Where a response ends although the model goes on: a base model writes the next question itself."""
    check_style(style)
    return () if style == "chat" else ("\n\nQ:", "\nQ:")


def check_style(style: str) -> None:
    """Raise a UserError that suggests the nearest name for an unknown prompt style."""
    if style not in STYLES:
        hint = nearest(style, STYLES, otherwise=f"the styles are {', '.join(STYLES)}", cutoff=0.4)
        raise UserError(f"unknown prompt style {style!r}: {hint}")


def _question(problem: Problem) -> str:
    options = [f" ({chr(ord('A') + i)}) {option}" for i, option in enumerate(problem.options)]
    return problem.question.strip() + ("\nOptions:" + "".join(options) if options else "")


def render_chat(tokenizer: Any, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
    """A conversation as text, by the tokenizer's own chat template; `options` are those of `apply_chat_template`.

    UserError where there is no template, none for this purpose, or one that does not take the messages.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise UserError("the tokenizer has no chat template")
    if isinstance(template, dict) and "default" not in template:
        raise UserError(f"the tokenizer has chat templates named {', '.join(template)}, but none named default")
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **options))
    except Exception as error:  # a template is a program of its own, and says no in its own ways
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UserError(f"the tokenizer's chat template does not take these messages: {reason}") from None
