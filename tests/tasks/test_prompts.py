"""Prompts are these texts, and these tokens; their exemplars teach no mistake."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from forkpoint.tasks import STYLES, grade_response, prompt_text, render_prompt, stop_strings
from forkpoint.tasks.prompts import exemplars
from forkpoint.types import AnswerKind, Problem, UserError

PROBLEM = Problem("1", "How many?", "5", "number")
CHOICE = Problem("2", "Which one?", "B", "option", ("one", "two"))
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
EQUATION = re.compile(r"([0-9]+(?: [-+*/] [0-9]+)+) = ([0-9]+)")


def make_tokenizer(template: str = "<s> $A", **options: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of single bytes with <s> = 0 and </s> = 1, framing texts by `template`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({token: i for i, token in enumerate(["<s>", "</s>", *alphabet])}, []))
    inner.decoder = decoders.ByteLevel()
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", **options)


def test_plain_and_chain_of_thought() -> None:
    assert prompt_text(PROBLEM, "plain") == "Q: How many?\nA:"
    assert prompt_text(PROBLEM, "cot") == "Q: How many?\nA: Let's think step by step."
    assert "987654" not in prompt_text(Problem("1", "How many?", "987654", "number"), "cot")
    assert prompt_text(CHOICE, "plain") == "Q: Which one?\nOptions: (A) one (B) two\nA:"


@pytest.mark.parametrize(("kind", "shots"), [("number", 8), ("math", 4), ("option", 4), ("yesno", 4)])
def test_few_shot(kind: AnswerKind, shots: int) -> None:
    text = prompt_text(Problem("1", "How many?", "987654", kind), "few-shot")
    assert text.count("\n\nQ: ") == text.count("The answer is ") == shots
    assert text.startswith(f"Q: {exemplars(kind)[0][0].question}")
    assert text.endswith("\n\nQ: How many?\nA:")
    for problem, solution in exemplars(kind):  # its arithmetic is right, and our own extraction reads its answer
        equations = EQUATION.findall(solution)
        assert len(equations) == len(re.findall(r"[-+*/] [0-9]+ = [0-9]", solution)) > 0
        assert all(eval(left) == int(right) for left, right in equations), solution  # digits and operators only
        assert grade_response(solution, problem).correct
        if kind in ("number", "option"):  # the last result is the answer, or the text of the right option
            right = problem.options["ABCDE".index(problem.answer)] if problem.options else problem.answer
            assert re.match(rf"{equations[-1][1]}\b", right)


def test_a_special_token_in_front_is_kept_and_one_behind_is_dropped() -> None:
    bare = render_prompt(PROBLEM, "plain", make_tokenizer("$A"))
    assert isinstance(bare, tuple)
    for template, ids in (("<s> $A", (0, *bare)), ("$A </s>", bare), ("<s> $A </s>", (0, *bare))):
        assert render_prompt(PROBLEM, "plain", make_tokenizer(template)) == ids


def test_chat_follows_the_template_and_starts_once() -> None:
    tokenizer = make_tokenizer("<s> $A </s>", chat_template=TEMPLATE)
    ids = render_prompt(CHOICE, "chat", tokenizer)
    assert (ids.count(0), ids.count(1)) == (1, 0)
    text = tokenizer.decode(ids)
    assert text.startswith("<s><user>Which one?\nOptions: (A) one (B) two\n\n")
    assert text.endswith("<assistant>")


@pytest.mark.parametrize(("template", "reason"), [
    (None, "has no chat template"),
    ({"tool_use": TEMPLATE, "rag": TEMPLATE}, "named tool_use, rag, but none named default"),
    ("{{ raise_exception('Only\nthree roles.') }}", "Only three roles"),
    ("{{ date.today }}", "'date' is undefined"),
    ("{{ messages[0].content + 1 }}", "chat template does not take these messages: "),
    ("{% for m in messages %}", "chat template does not take these messages: "),
])  # fmt: skip
def test_a_chat_template_that_writes_nothing_is_one_sentence(template: Any, reason: str) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=reason) as caught:
        render_prompt(PROBLEM, "chat", tokenizer)
    assert "\n" not in str(caught.value)
    tokenizer.chat_template = {"default": TEMPLATE, "tool_use": "{{ messages[0].tools.name }}"}
    assert render_prompt(PROBLEM, "chat", tokenizer)


def test_unknown_style_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="'few-shot'"):
        render_prompt(PROBLEM, "fewshot", make_tokenizer())
    with pytest.raises(UserError, match="plain, cot, few-shot, chat"):
        stop_strings("zzz")


@pytest.mark.parametrize("style", STYLES)
def test_stop_strings_end_a_response_before_the_next_question(style: str) -> None:
    assert ("\n\nQ:" in stop_strings(style)) is (style != "chat")
