"""Strategies as lm-eval's model: what requests ask, log-probabilities, caches, and whole runs of the verb."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM

import forkpoint
from forkpoint.cli import main
from forkpoint.decoding.outcome import Outcome
from forkpoint.decoding.outcome import Path as Decoded
from forkpoint.evaluation import lm_eval as module
from forkpoint.evaluation.lm_eval import StrategyLM
from forkpoint.evaluation.lm_eval_tasks import TaskChoice, Tasks, evaluate_tasks
from forkpoint.files import only_process
from forkpoint.lab.problem_generator import load_problems
from forkpoint.tasks import prompt_text
from forkpoint.types import UserError

pytestmark = pytest.mark.slow

PROBLEMS = load_problems(limit=24)
PROMPTS = [prompt_text(problem, "cot") for problem in PROBLEMS]
GREEDY = {"until": ["\n"], "do_sample": False, "max_gen_toks": 100}


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    """Lab problems in GSM8K's columns."""
    file = tmp_path_factory.mktemp("data") / "lab.jsonl"
    lines = [{"question": p.question, "answer": f"...\n#### {p.answer}"} for p in PROBLEMS]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture(scope="module")
def hflm(lab) -> HFLM:
    """lm-eval's own model over the same weights."""
    return HFLM(pretrained=lab.model, tokenizer=lab.tokenizer, batch_size=8, max_length=100)


def requests(kind: str, *arguments: tuple) -> list[Instance]:
    return [Instance(kind, {}, each, i) for i, each in enumerate(arguments)]


def respond(lm, contexts, **asked) -> list[str]:
    return lm.generate_until(requests("generate_until", *((context, asked) for context in contexts)))


# what a request asks


def test_greedy_is_lm_evals_own_greedy(lab, hflm):
    asked = {"until": ["\n", "doubles"], "do_sample": False, "max_gen_toks": 30}
    arguments = [(p[-150:], asked) for p in PROMPTS[:8]]
    mine = StrategyLM("greedy", lab, max_length=100).generate_until(requests("generate_until", *arguments))
    assert mine == hflm.generate_until(requests("generate_until", *arguments), disable_tqdm=True)
    assert len(set(mine)) > 4


def test_until_and_max_gen_toks_are_those_of_each_request(lab):
    lm = StrategyLM("greedy", lab)
    whole = respond(lm, PROMPTS[:4], **GREEDY)
    assert all(text.count(".") > 1 for text in whole)
    cut = {"until": [".", ""], "do_sample": False}
    short = {"until": [], "max_gen_toks": 5}
    mixed = [(p, asked) for p in PROMPTS[:4] for asked in (cut, GREEDY, short)]
    texts = lm.generate_until(requests("generate_until", *mixed))
    assert texts[1::3] == whole
    assert texts[0::3] == [text.partition(".")[0] for text in whole]
    for text, full in zip(texts[2::3], whole, strict=True):
        assert full.startswith(text)
        assert len(lab.tokenizer.encode(text, add_special_tokens=False)) == 5
    fixed = respond(StrategyLM("greedy:max_tokens=7", lab), PROMPTS[:2], until=[], max_gen_toks=30)
    assert all(len(lab.tokenizer.encode(text, add_special_tokens=False)) == 7 for text in fixed)
    assert respond(lm, PROMPTS[:1], until="\n", max_new_tokens=5) == texts[2:3]


def test_do_sample_and_temperature(lab):
    drawn = {"until": ["\n"], "do_sample": True, "temperature": 2.0, "max_gen_toks": 40}
    one = [PROMPTS[0]] * 6
    greedy = respond(StrategyLM("greedy", lab), one[:1], **GREEDY | {"max_gen_toks": 40})
    sample = StrategyLM("sample", lab)
    texts = respond(sample, one, **drawn)
    assert len(set(texts)) > 3
    for lm, asked in ((sample, {"do_sample": False}), (sample, {"top_k": 1}), (StrategyLM("greedy", lab), {})):
        assert set(respond(lm, one, **drawn | asked)) == set(greedy)
    fixed = StrategyLM("sample", lab, temperature=2.0)
    assert fixed.strategy.spec == "sample:temperature=2.0"
    assert respond(fixed, one, **GREEDY | {"max_gen_toks": 40}) == texts
    with pytest.raises(UserError, match=r"self-consistency:n=3,temperature=0\.7"):
        respond(StrategyLM("self-consistency:n=3", lab), one, **GREEDY)
    together = respond(sample, [*PROMPTS[1:6], PROMPTS[0]], **drawn)  # draws are of the request and the seed alone
    assert together[-1] == texts[0]
    assert respond(StrategyLM("sample", lab, seed=1), [*PROMPTS[1:6], PROMPTS[0]], **drawn) != together


def test_long_contexts_are_cut_on_the_left(lab, caplog):
    asked = {"until": ["\n"], "max_gen_toks": 30}
    long = "Ada has 5 pens. " * 40 + PROMPTS[0]
    short = lab.tokenizer.decode(lab.tokenizer.encode(long)[-70:])
    lm = StrategyLM("greedy", lab, max_length=100)
    assert respond(lm, [long], **asked) == respond(lm, [short], **asked)
    assert "1 of 1 contexts are longer than 70 tokens" in caplog.text
    with pytest.raises(UserError, match="a response may have 100 tokens"):
        respond(lm, [long], max_gen_toks=100)


def test_a_special_token_in_until_ends_the_response(lab):
    ids = tuple(lab.tokenizer.encode("The answer is 5.", add_special_tokens=False))
    path = Decoded((*ids, lab.tokenizer.pad_token_id, *ids), (0.5,) * (2 * len(ids) + 1), "both", "stop")
    outcome = Outcome("case", (path,), 0, 1)
    assert module._response(lab, outcome, ("<|pad|>",)) == ("The answer is 5.", False)
    assert module._response(lab, outcome, ("\n",)) == ("both", False)
    cut = replace(outcome, paths=(replace(path, finish_reason="length"),))
    assert [module._response(lab, cut, stop)[1] for stop in (("<|pad|>",), ())] == [False, True]


def test_a_chat_template_is_the_tokenizers(lab, monkeypatch):
    lm = StrategyLM("greedy", lab)
    with pytest.raises(UserError, match="no chat template"):
        lm.apply_chat_template([{"role": "user", "content": "hi"}])
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
    )
    monkeypatch.setattr(lab.tokenizer, "chat_template", template)
    assert lm.apply_chat_template([{"role": "user", "content": "hi"}]) == "user: hi\nA:"
    assert lm.chat_template(True) == template
    monkeypatch.setattr(lab.tokenizer, "chat_template", {"tool_use": template})
    for call in (lm.chat_template, lambda _: lm.apply_chat_template([{"role": "system", "content": "hi"}])):
        with pytest.raises(UserError, match=r"no default specified|none named default"):
            call(True)


# log-likelihoods


def test_loglikelihoods_are_hflms(lab, hflm):
    lm = StrategyLM("cot-decoding", lab, max_length=100)
    greedy = respond(StrategyLM("greedy", lab), [PROMPTS[3][-120:]], until=[], max_gen_toks=6)[0]
    pairs = [(PROMPTS[0] + " ", "27"), (PROMPTS[1], " The answer is 27."), ("", " Tom has"), (PROMPTS[2] * 3, " So 3.")]
    pairs += [(PROMPTS[3][-120:], greedy), *((p[-120:], f" {i}") for i, p in enumerate(PROMPTS))]
    mine = lm.loglikelihood(requests("loglikelihood", *pairs))
    theirs = hflm.loglikelihood(requests("loglikelihood", *pairs), disable_tqdm=True)
    assert [g for _, g in mine] == [g for _, g in theirs]
    assert mine[4][1]
    assert [x for x, _ in mine] == pytest.approx([x for x, _ in theirs], abs=1e-4)
    texts = [(PROMPTS[0],), (" ".join(PROMPTS[:4]),), ("Tom",)]
    mine = lm.loglikelihood_rolling(requests("loglikelihood_rolling", *texts))
    assert mine == pytest.approx(hflm.loglikelihood_rolling(requests("loglikelihood_rolling", *texts)), abs=1e-3)


# lm-eval's cache


class Counting(StrategyLM):
    asked = 0

    def generate_until(self, requests, disable_tqdm=False):
        self.asked += len(requests)
        return super().generate_until(requests)


def test_strategies_never_share_a_cache(lab, tiny, rows, tmp_path):
    tasks = Tasks(TaskChoice(("gsm8k_cot_zeroshot",), data=str(rows), limit=6))

    def run(model, cache="answers") -> list:
        results = simple_evaluate(
            model, tasks=tasks.specs, task_manager=tasks.manager, limit=6, use_cache=str(tmp_path / cache),
            bootstrap_iters=0,
        )  # fmt: skip
        return [sample["resps"] for sample in results["samples"]["gsm8k_cot_zeroshot"]]

    greedy = run(first := Counting("greedy", lab, max_gen_toks=60))
    assert run(again := Counting("greedy", lab, max_gen_toks=60)) == greedy
    assert (first.asked, again.asked) == (6, 0)
    for other in (
        StrategyLM("cot-decoding:k=5", lab, max_gen_toks=60), StrategyLM("greedy:max_tokens=5", lab, max_gen_toks=60),
        StrategyLM("greedy", lab, max_gen_toks=5), StrategyLM("greedy", tiny, max_gen_toks=60),
    ):  # fmt: skip
        with pytest.raises(UserError, match="holds answers of another model, strategy or setting"):
            run(other)
    assert run(StrategyLM("cot-decoding:k=5", lab, max_gen_toks=60), "cot") != greedy
    with pytest.raises(UserError, match="draws"):
        run(StrategyLM("self-consistency:n=3,temperature=1", lab), "drawn")


# the verb, and whole runs


def test_the_stock_task_file_over_local_rows(lab, rows, tmp_path):
    out, specs = tmp_path / "run", ["greedy:max_tokens=90", "cot-decoding:k=5,max_tokens=90"]
    chosen = [word for spec in specs for word in ("--strategy", spec)]
    command = ["--tasks", "gsm8k_cot_zeroshot", "--data", str(rows), "--limit", "12", "--out", str(out)]
    assert main(["lm-eval", *command, *chosen]) == 0
    results = json.loads((out / "results.json").read_text())
    accuracies = []
    for entry, spec in zip(results["strategies"], specs, strict=True):
        own = json.loads((out / entry["directory"] / "results.json").read_text())
        assert entry["strategy"] == own["config"]["strategy"] == spec
        assert entry["results"] == own["results"]
        assert len((out / entry["directory"] / "samples_gsm8k_cot_zeroshot.jsonl").read_text().splitlines()) == 24
        accuracies.append(own["results"]["gsm8k_cot_zeroshot"]["exact_match,strict-match"])
    mine = forkpoint.evaluate(lab, PROBLEMS[:12], specs, prompt="cot", max_tokens=90)["strategies"]
    assert accuracies == pytest.approx([s["accuracy"] for s in mine])
    assert [s["tokens_generated"] for s in results["strategies"]] == [s["tokens_generated"] for s in mine]
    assert 0.2 < min(accuracies) < max(accuracies)


def test_a_killed_run_goes_on_to_the_same_samples(lab, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "UNIT_PATHS", 10)
    tasks = Tasks(TaskChoice(("gsm8k_cot_zeroshot",), data=str(rows), limit=6))
    specs = ["sample:temperature=1,max_tokens=60", "cot-decoding:k=5,max_tokens=60"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    evaluate_tasks(lab, specs, tasks, whole)
    done = []

    def kill(label, *_):
        done.append(label)
        if done.count(specs[1]) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_tasks(lab, specs, tasks, broken, progress=kill)
    journal = broken / "cot-decoding_k=5_max_tokens=60" / "journal.jsonl"
    assert len(journal.read_text().splitlines()) == 2
    with pytest.raises(UserError, match="another configuration"):
        evaluate_tasks(lab, specs[:1], tasks, broken)
    with only_process(broken), pytest.raises(UserError, match="another process"):
        evaluate_tasks(lab, specs, tasks, broken)
    evaluate_tasks(lab, specs, tasks, broken)
    assert not journal.exists()
    for file in [whole / "results.json", *whole.rglob("samples_*.jsonl")]:
        assert file.read_bytes() == (broken / file.relative_to(whole)).read_bytes()


def test_examples_leave_out_the_question_at_hand(lab, rows, tmp_path):
    few = tmp_path / "few.jsonl"
    few.write_text("".join(line + "\n" for line in rows.read_text().splitlines()[:4]))
    tasks = Tasks(TaskChoice(("gsm8k",), data=str(few), num_fewshot=3))
    results = evaluate_tasks(lab, ["greedy:max_tokens=2", "cot-decoding:k=2,max_tokens=2"], tasks, tmp_path / "run")
    prompts = []
    for entry in results["strategies"]:
        file = tmp_path / "run" / entry["directory"] / "samples_gsm8k.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        prompts.append([line["arguments"]["gen_args_0"]["arg_0"] for line in lines])
        for line, prompt in zip(lines, prompts[-1], strict=True):
            assert (prompt.count("Question:"), prompt.count(line["doc"]["question"])) == (4, 1)
    assert prompts[0] == prompts[1]


def test_lm_eval_finds_the_model_by_its_name(lab, monkeypatch):
    monkeypatch.setattr(module, "load_engine", lambda name, **_: lab)
    lm = get_model("forkpoint").create_from_arg_string(
        "strategy=self-consistency:n=3,temperature=0.7,model=lab,answer_kind=number", {"batch_size": 1}
    )
    assert isinstance(lm, StrategyLM)
    assert lm.get_model_info()["strategy"] == lm.strategy.spec == "self-consistency:n=3,temperature=0.7"


@pytest.mark.parametrize(("words", "sentence"), [
    ([], "name at least one task"),
    (["--tasks", "gsm8k_cot_zeroshoot"], "did you mean 'gsm8k_cot_zeroshot'"),
    (["--tasks", "gsm8k", "--strategy", "pass@k"], "one response a request, not pass@k"),
    (["--tasks", "gsm8k", "--strategy", "sample:n=2"], "but sample:n=2 gives 2"),
    (["--tasks", "gsm8k", "--strategy", "greedy", "--strategy", "greedy"], "greedy is given twice"),
    (["--tasks", "gsm8k", "--data", "none.jsonl"], "cannot read none.jsonl"),
    (["--tasks", "mmlu", "--data", "ROWS"], "mmlu is a group"),
    (["--tasks", "arc_easy", "--data", "ROWS"], "needs the columns of its own data set"),
    (["--tasks", "gsm8k", "--fewshot-data", "ROWS"], "--fewshot_data goes with --data"),
    (["--tasks", "gsm8k", "--limit", "0"], "--limit must be at least 1"),
    (["--tasks", "gsm8k", "--include-path", "nowhere"], "nowhere is none"),
])  # fmt: skip
def test_wrong_input_is_one_sentence(words, sentence, rows, capsys):
    assert main(["lm-eval", *(str(rows) if word == "ROWS" else word for word in words)]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.strip().splitlines()) == 1
