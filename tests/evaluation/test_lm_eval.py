"""Strategies as lm-eval's model: what requests ask, log-probabilities, caches, and whole runs of the verb."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

import forkpoint
from forkpoint.cli import main
from forkpoint.decoding.outcome import Outcome
from forkpoint.decoding.outcome import Path as Decoded
from forkpoint.evaluation import lm_eval as module
from forkpoint.evaluation.lm_eval import StrategyLM
from forkpoint.evaluation.lm_eval_run import evaluate_tasks
from forkpoint.evaluation.lm_eval_tasks import TaskChoice, Tasks
from forkpoint.files import only_process
from forkpoint.lab.problem_generator import load_problems
from forkpoint.tasks import prompt_text
from forkpoint.types import UserError

pytestmark = pytest.mark.slow

GSM8K = Path(os.environ.get("FORKPOINT_DATA") or Path(__file__).parents[3] / "shared" / "data") / "gsm8k_test.jsonl"
PROBLEMS = load_problems(limit=24)
PROMPTS = [prompt_text(problem, "cot") for problem in PROBLEMS]
GREEDY = {"until": ["\n"], "do_sample": False, "max_gen_toks": 100}
CHOICE_TASK = """
task: lab_choice
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: multiple_choice
test_split: test
doc_to_text: "Q: {{{{question}}}}\\nA: The answer is"
doc_to_choice: "{{{{['31', answer.split('#### ')[1], '58']}}}}"
doc_to_target: 1
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    """Lab problems in GSM8K's columns."""
    file = tmp_path_factory.mktemp("data") / "lab.jsonl"
    file.write_text(
        "".join(json.dumps({"question": p.question, "answer": f"...\n#### {p.answer}"}) + "\n" for p in PROBLEMS)
    )
    return file


@pytest.fixture(scope="module")
def choice_task(rows, tmp_path_factory) -> str:
    """A task file of multiple choice over the lab problems."""
    file = tmp_path_factory.mktemp("task") / "choice.yaml"
    file.write_text(CHOICE_TASK.format(data=rows))
    return str(file)


@pytest.fixture(scope="module")
def hflm(lab) -> HFLM:
    """lm-eval's own model over the same weights."""
    return HFLM(pretrained=lab.model, tokenizer=lab.tokenizer, batch_size=8, max_length=100)


def requests(kind: str, *arguments: tuple) -> list[Instance]:
    return [Instance(kind, {}, given, i) for i, given in enumerate(arguments)]


def respond(lm, contexts, **asked) -> list[str]:
    return lm.generate_until(requests("generate_until", *((context, asked) for context in contexts)))


# what a request asks


def test_greedy_is_lm_evals_own_greedy(lab, hflm):
    asked = {"until": ["\n", "doubles"], "do_sample": False, "max_gen_toks": 30}
    hflm_contexts = [p[-150:] for p in PROMPTS[:8]]
    mine = respond(StrategyLM("greedy", lab, max_length=100), hflm_contexts, **asked)
    theirs = hflm.generate_until(requests("generate_until", *((c, asked) for c in hflm_contexts)), disable_tqdm=True)
    assert mine == theirs
    assert len(set(mine)) > 4


def test_until_and_max_gen_toks_are_those_of_each_request(lab):
    lm = StrategyLM("greedy", lab)
    whole = respond(lm, PROMPTS[:4], **GREEDY)
    assert all(text.count(".") > 1 for text in whole)
    cut = {"until": [".", ""], "do_sample": False}
    short = {"until": [], "max_gen_toks": 5}
    mixed = [(p, asked) for p in PROMPTS[:4] for asked in (cut, GREEDY, short)]
    told = lm.generate_until(requests("generate_until", *mixed))
    assert told[1::3] == whole
    assert told[0::3] == [text.partition(".")[0] for text in whole]
    for text, full in zip(told[2::3], whole, strict=True):
        assert full.startswith(text)
        assert len(lab.tokenizer.encode(text, add_special_tokens=False)) == 5
    fixed = respond(StrategyLM("greedy:max_tokens=7", lab), PROMPTS[:2], until=[], max_gen_toks=30)
    assert all(len(lab.tokenizer.encode(text, add_special_tokens=False)) == 7 for text in fixed)
    assert respond(lm, PROMPTS[:1], until="\n", max_new_tokens=5) == told[2:3]


def test_do_sample_and_temperature(lab):
    drawn = {"until": ["\n"], "do_sample": True, "temperature": 2.0, "max_gen_toks": 40}
    one = [PROMPTS[0]] * 6
    greedy = respond(StrategyLM("greedy", lab), one[:1], **GREEDY | {"max_gen_toks": 40})
    assert len(set(respond(StrategyLM("sample", lab), one, **drawn))) > 3
    assert set(respond(StrategyLM("sample", lab), one, **drawn | {"do_sample": False})) == set(greedy)
    assert set(respond(StrategyLM("sample", lab), one, **drawn | {"top_k": 1})) == set(greedy)
    assert set(respond(StrategyLM("greedy", lab), one, **drawn)) == set(greedy)
    fixed = StrategyLM("sample", lab, temperature=2.0)
    assert fixed.strategy.spec == "sample:temperature=2.0"
    assert respond(fixed, one, **GREEDY | {"max_gen_toks": 40}) == respond(StrategyLM("sample", lab), one, **drawn)
    with pytest.raises(UserError, match=r"self-consistency:n=3,temperature=0\.7"):
        respond(StrategyLM("self-consistency:n=3", lab), one, **GREEDY)


def test_draws_are_of_the_request_and_the_seed_alone(lab):
    asked = {"do_sample": True, "temperature": 1.5, "until": ["\n"], "max_gen_toks": 30}
    alone = respond(StrategyLM("sample", lab), PROMPTS[3:4], **asked)
    together = respond(StrategyLM("sample", lab), PROMPTS[:6], **asked)
    assert together[3] == alone[0]
    assert respond(StrategyLM("sample", lab, seed=1), PROMPTS[:6], **asked) != together


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
    outcome = Outcome("case", (path,), 0, "both", 1)
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
    pairs = [(PROMPTS[0] + " ", "27"), (PROMPTS[1], " The answer is 27."), ("", " Tom has"), (PROMPTS[2] * 3, " So 3.")]
    pairs += [(p[-120:], f" {i}") for i, p in enumerate(PROMPTS)]
    mine = lm.loglikelihood(requests("loglikelihood", *pairs))
    theirs = hflm.loglikelihood(requests("loglikelihood", *pairs), disable_tqdm=True)
    assert [g for _, g in mine] == [g for _, g in theirs]
    assert [x for x, _ in mine] == pytest.approx([x for x, _ in theirs], abs=1e-4)
    texts = [(PROMPTS[0],), (" ".join(PROMPTS[:4]),), ("Tom",)]
    mine = lm.loglikelihood_rolling(requests("loglikelihood_rolling", *texts))
    assert mine == pytest.approx(hflm.loglikelihood_rolling(requests("loglikelihood_rolling", *texts)), abs=1e-3)


def test_greedy_continuations_are_told(lab):
    lm = StrategyLM("greedy", lab)
    text = respond(lm, PROMPTS[:1], until=[], max_gen_toks=6)[0]
    ((_, greedy), (_, other)) = lm.loglikelihood(requests("loglikelihood", (PROMPTS[0], text), (PROMPTS[0], " Zoe")))
    assert greedy
    assert not other


def test_multiple_choice_scores_as_hflm(lab, hflm, choice_task):
    def figures(model) -> dict:
        manager = TaskManager(include_defaults=False)
        told = simple_evaluate(model, tasks=[choice_task], task_manager=manager, bootstrap_iters=0)
        return told["results"]["lab_choice"]

    mine, theirs = figures(StrategyLM("greedy", lab)), figures(hflm)
    assert 0.5 < mine["acc,none"] < 1
    assert mine["acc,none"] == theirs["acc,none"]


# lm-eval's cache


class Counting(StrategyLM):
    asked = 0

    def generate_until(self, given, disable_tqdm=False):
        self.asked += len(given)
        return super().generate_until(given)


def test_strategies_never_share_a_cache(lab, tiny, rows, tmp_path):
    tasks = Tasks(TaskChoice(("gsm8k_cot_zeroshot",), data=str(rows), limit=6))
    cache = str(tmp_path / "answers")

    def run(model, use_cache=cache) -> list:
        told = simple_evaluate(
            model, tasks=tasks.specs, task_manager=tasks.manager, limit=6, use_cache=use_cache, bootstrap_iters=0
        )
        return [sample["resps"] for sample in told["samples"]["gsm8k_cot_zeroshot"]]

    greedy = run(first := Counting("greedy", lab, max_gen_toks=60))
    assert run(again := Counting("greedy", lab, max_gen_toks=60)) == greedy
    assert (first.asked, again.asked) == (6, 0)
    for other in (
        StrategyLM("cot-decoding:k=5", lab, max_gen_toks=60),
        StrategyLM("greedy:max_tokens=5", lab, max_gen_toks=60),
        StrategyLM("greedy", lab, max_gen_toks=5),
        StrategyLM("greedy", tiny, max_gen_toks=60),
    ):
        with pytest.raises(UserError, match="holds answers of another model, strategy or setting"):
            run(other)
    assert run(StrategyLM("cot-decoding:k=5", lab, max_gen_toks=60), str(tmp_path / "cot")) != greedy
    with pytest.raises(UserError, match="draws"):
        run(StrategyLM("self-consistency:n=3,temperature=1", lab), str(tmp_path / "drawn"))


# the verb, and whole runs


def by_hand(samples: Path, pattern: str, last: bool) -> dict[int, float]:
    """gsm8k_cot_zeroshot's exact match of each logged response, from its task file's words alone."""
    found = {}
    for line in samples.read_text().splitlines():
        row = json.loads(line)
        matches = re.findall(pattern, row["resps"][0][0]) or ["[invalid]"]
        match = matches[-1 if last else 0]
        text = match if isinstance(match, str) else next(m for m in match if m)
        gold = row["doc"]["answer"].rpartition("#### ")[2]
        clean = [re.sub(r"\.$", "", re.sub(r"[,$]", "", t.strip())).lower() for t in (text, gold)]
        found[row["doc_id"]] = float(clean[0] == clean[1])
    return found


STRICT, FLEXIBLE = r"The answer is (\-?[0-9\.\,]+).", r"(-?[$0-9.,]{2,})|(-?[0-9]+)"


@pytest.mark.parametrize("source", ["lab", "gsm8k"])
def test_the_stock_task_file_over_local_rows(source, lab, rows, tmp_path, capsys):
    data = rows if source == "lab" else GSM8K
    if not data.exists():
        pytest.skip(f"{data} is not here")
    out, specs = tmp_path / "run", ["greedy:max_tokens=90", "cot-decoding:k=5,max_tokens=90"]
    chosen = [word for spec in specs for word in ("--strategy", spec)]
    command = [
        "lm-eval",
        "--tasks",
        "gsm8k_cot_zeroshot",
        "--data",
        str(data),
        "--limit",
        "12",
        *chosen,
        "--out",
        str(out),
    ]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert len(re.findall(r"gsm8k_cot_zeroshot +exact_match ↑, (strict-match|flexible-extract) ", shown)) == 4
    assert shown.endswith(f"\n{out / 'results.json'}\n{out / 'report.html'}\n")
    told = json.loads((out / "results.json").read_text())
    accuracies = []
    for entry, spec in zip(told["strategies"], specs, strict=True):
        assert entry["strategy"] == spec
        own = json.loads((out / entry["directory"] / "results.json").read_text())
        samples = out / entry["directory"] / "samples_gsm8k_cot_zeroshot.jsonl"
        figures = own["results"]["gsm8k_cot_zeroshot"]
        assert own["config"]["strategy"] == spec
        for name, pattern, last in (("strict-match", STRICT, False), ("flexible-extract", FLEXIBLE, True)):
            right = by_hand(samples, pattern, last)
            assert len(right) == 12
            assert figures[f"exact_match,{name}"] == pytest.approx(sum(right.values()) / 12)
            assert entry["results"]["gsm8k_cot_zeroshot"][f"exact_match,{name}"] == figures[f"exact_match,{name}"]
        accuracies.append(figures["exact_match,strict-match"])
    if source == "lab":
        mine = forkpoint.evaluate(lab, PROBLEMS[:12], specs, prompt="cot", max_tokens=90)["strategies"]
        assert accuracies == pytest.approx([s["accuracy"] for s in mine])
        assert [s["tokens_generated"] for s in told["strategies"]] == [s["tokens_generated"] for s in mine]
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
    for file in whole.rglob("samples_*.jsonl"):
        assert file.read_bytes() == (broken / file.relative_to(whole)).read_bytes()
    assert (whole / "results.json").read_bytes() == (broken / "results.json").read_bytes()


def test_examples_leave_out_the_question_at_hand(lab, rows, tmp_path):
    few = tmp_path / "few.jsonl"
    few.write_text("".join(line + "\n" for line in rows.read_text().splitlines()[:4]))
    tasks = Tasks(TaskChoice(("gsm8k",), data=str(few), num_fewshot=3))
    told = evaluate_tasks(lab, ["greedy:max_tokens=2", "cot-decoding:k=2,max_tokens=2"], tasks, tmp_path / "run")
    asked = []
    for entry in told["strategies"]:
        file = tmp_path / "run" / entry["directory"] / "samples_gsm8k.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            prompt = line["arguments"]["gen_args_0"]["arg_0"]
            assert prompt.count("Question:") == 4
            assert prompt.count(line["doc"]["question"]) == 1
        asked.append([line["arguments"] for line in lines])
    assert asked[0] == asked[1]


def test_lm_eval_finds_the_model_by_its_name(lab, monkeypatch):
    monkeypatch.setattr(module, "load_engine", lambda name, **_: lab)
    lm = get_model("forkpoint").create_from_arg_string(
        "strategy=self-consistency:n=3,temperature=0.7,model=lab,answer_kind=number", {"batch_size": 1}
    )
    assert isinstance(lm, StrategyLM)
    assert lm.strategy.spec == "self-consistency:n=3,temperature=0.7"
    assert lm.get_model_info()["strategy"] == lm.strategy.spec


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
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
    ],
)
def test_wrong_input_is_one_sentence(words, sentence, rows, capsys):
    assert main(["lm-eval", *(str(rows) if word == "ROWS" else word for word in words)]) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert len(told.strip().splitlines()) == 1
