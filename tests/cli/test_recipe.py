"""Recipes: what is wrong with one is said before anything runs, what is done is skipped, kills lose nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from forkpoint.cli import main
from forkpoint.cli import run as module
from forkpoint.recipe import Recipe, RecipeVerb, Record, Stage, plan, read_recipe
from forkpoint.types import UserError

pytestmark = pytest.mark.slow

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL = """
out: out
defaults: {task: lab, seed: 3, limit: 4, max-tokens: 80}
stages:
  answers: {verb: eval, strategy: [sample], prompt: cot}
  tokens: {verb: critical, trajectories: "{answers}", which: all, budget: 64}
  again: {verb: eval, strategy: [greedy], limit: 3}
"""


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """An empty working directory with the small recipe."""
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SMALL)
    return tmp_path


def recipe_of(text: str, path: Path) -> Recipe:
    path.write_text(text)
    return read_recipe(path, lambda name: RecipeVerb(frozenset({"a", "b", "quiet"}), lambda argv: None, name != "once"))


def recipe_with(*stages: tuple[str, str, dict[str, object]], resumes: bool = True) -> Recipe:
    return Recipe("r", Path("out"), tuple(Stage(name, verb, options, resumes) for name, verb, options in stages))


ONE, TWO, THREE = (("one", "work", {"a": 1}), ("two", "work", {"a": 1}), ("three", "work", {"a": 1}))
DONE = {name: Record("work", {"a": 1}, done=True) for name in ("one", "two", "three")}
GONE = {name: Record("work", None) for name in DONE}  # killed when one was to be redone, and some were removed


@pytest.mark.parametrize(("recipe", "records", "present", "actions", "why"), [
    ((ONE, TWO, THREE), {}, "", "run run run", ""),
    ((ONE, TWO, THREE), DONE, "one two three", "skip skip skip", "done"),
    ((ONE, ("two", "work", {"a": 2}), THREE), DONE, "one two three", "skip redo redo", "a was 1, now 2"),
    ((ONE, ("two", "work", {"a": 1, "b": 0}), THREE), DONE, "one two three", "skip redo redo", "b was not given"),
    ((ONE, ("two", "work", {}), THREE), DONE, "one two three", "skip redo redo", "a was 1, now not given"),
    ((ONE, ("two", "play", {"a": 1}), THREE), DONE, "one two three", "skip redo redo", "its verb was work, now play"),
    ((ONE, ("two", "work", {"a": 1, "quiet": True})), DONE, "one two", "skip skip", "done"),
    ((ONE, TWO), DONE | {"two": Record("work", {"a": 1})}, "one two", "skip resume", ""),
    ((ONE, TWO), DONE | {"two": Record("work", {"a": 1})}, "one", "skip run", ""),
    ((ONE, TWO, THREE), {"one": DONE["one"], "two": Record("work", {"a": 2})}, "one two", "skip redo run", "a was 2"),
    ((ONE, TWO, THREE), DONE, "one three", "skip redo redo", "its directory is gone"),
    ((ONE, TWO, THREE), GONE, "three", "redo redo redo", "one is redone"),
    ((ONE, ("new", "work", {}), TWO), DONE, "one two", "skip run skip", ""),
])  # fmt: skip
def test_what_happens_with_each_stage(recipe, records, present, actions, why):
    """`why` is the second stage's reason."""
    steps = plan(recipe_with(*recipe), records, present.split())
    assert " ".join(step.action for step in steps) == actions
    assert steps[1].why.startswith(why)


def test_a_verb_that_cannot_go_on_starts_anew():
    once = recipe_with(ONE, resumes=False)
    begun = {"one": Record("work", {"a": 1})}
    assert [plan(once, begun, present)[0].action for present in (["one"], [])] == ["redo", "run"]
    with pytest.raises(UserError, match="'two' is there, but was not made by this recipe"):
        plan(recipe_with(ONE, TWO), {"one": DONE["one"]}, ["one", "two"])


def test_defaults_references_and_values(tmp_path):
    recipe = recipe_of(
        "defaults: {a: 1, b: [x, y]}\n"
        "stages:\n"
        "  first: {verb: work, a: 4e-5, b: null}\n"
        '  second: {verb: two  words, a: "{first}/model", quiet: true, b: ["{first}", \'{"k": 1}\', no]}\n',
        tmp_path / "mine.yaml",
    )
    assert (recipe.name, recipe.out) == ("mine", Path("runs/mine"))
    assert recipe.stages[0].arguments(Path("o")) == ["work", "--a=4e-5", "--out=o/first"]
    assert recipe.stages[1].arguments(Path("/p")) == [
        "two", "words", "--a=/p/first/model", "--b=/p/first", '--b={"k": 1}', "--b=false", "--quiet=true",
        "--out=/p/second",
    ]  # fmt: skip


def mistake(capsys, *argv: str) -> str:
    """The one sentence with which `run` refuses; nothing was made."""
    before = sorted(Path().iterdir())
    assert main(["run", *argv]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 1
    assert sorted(Path().iterdir()) == before
    return said.err


@pytest.mark.parametrize(("old", "new", "message"), [
    ("stages:", "stagse:", "unknown key 'stagse': did you mean 'stages'?"),
    (SMALL, "stages: {}", "'stages' should name at least one stage"),
    (SMALL, "- a\n", "small.yaml: should hold names and values"),
    (SMALL, "a: [\n", "small.yaml: is not valid YAML: line 2: "),
    ("seed: 3", "sede: 3", "small.yaml, defaults: unknown option 'sede': did you mean 'seed'?"),
    ("seed: 3", "model: '{answers}'", "defaults: model refers to {answers}, which is no earlier stage"),
    ("again:", "answers:", "line 7: 'answers' is there twice"),
    ("again:", "../again:", "stage '../again': a stage's name is that of its directory"),
    ("verb: critical", "verb: critcal", "stage 'tokens': unknown verb 'critcal': did you mean 'critical'?"),
    ("verb: critical", "verb: report", "stage 'tokens': the verb 'report' cannot be a stage"),
    ("verb: critical", "verb: critical now", "stage 'tokens': unknown verb 'critical now': did you mean 'critical'?"),
    ("verb: critical, ", "", "stage 'tokens': a stage needs a 'verb'"),
    ("budget:", "buget:", "stage 'tokens': unknown option --buget, did you mean --budget?"),
    ("budget: 64", "budget: many", "stage 'tokens': --budget must be a whole number, but is 'many'"),
    ("budget: 64", "out: here", "stage 'tokens': 'out' cannot be given in a recipe"),
    ("budget: 64", "budget: {a: 1}", "stage 'tokens': 'budget' should be one value or a list of values"),
    ('"{answers}"', "{answers}", "but is {'answers': None}; a reference needs quotes"),
    ("{answers}", "{anwsers}", "stage 'tokens': trajectories refers to {anwsers}, which is no stage: did you mean"),
    ("{answers}", "{again}", "stage 'tokens': trajectories refers to {again}, which is no earlier stage"),
    ("out: out", "out: [out]", "'out' should be a directory"),
])  # fmt: skip
def test_a_mistake_in_a_recipe_is_one_sentence(capsys, workplace, old, new, message):
    assert old in SMALL
    Path("small.yaml").write_text(SMALL.replace(old, new))
    said = mistake(capsys, "small.yaml")
    assert message in said
    assert said.startswith("forkpoint: small.yaml")


def test_the_recipe_must_be_named_and_be_there(capsys, workplace):
    assert "run needs RECIPE: the recipe" in mistake(capsys)
    assert "nowhere.yaml: cannot be read" in mistake(capsys, "nowhere.yaml")


def test_a_finished_stage_that_wants_an_empty_directory_is_skipped(capfd, workplace):
    Path("own.yaml").write_text("stages: {some: {verb: lab solutions, problems: 2}}")
    for done in ("1 done", "1 done before"):
        assert main(["run", "own.yaml", "--out", "own"]) == 0
        assert done in capfd.readouterr().out


def test_directories_of_others_are_refused(capsys, workplace):
    out = workplace / "out"
    (out / "tokens").mkdir(parents=True)
    (out / "thesis.txt").write_text("precious")
    assert "out holds files but no run of a recipe" in mistake(capsys, "small.yaml", "--dry_run")
    for text, message in (
        ('{"recipe": "other", "verbs": {}, "stages": {}}', "out holds a run of the recipe 'other', not 'small'"),
        ('{"stages": 3}', "recipe.json is not what `forkpoint run` writes"),
        ('{"recipe": "small", "verbs": {}, "stages": {}}', "stage 'tokens' is there, but was not made by this recipe"),
    ):
        (out / "recipe.json").write_text(text)
        assert message in mistake(capsys, "small.yaml")
    assert (out / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_our_recipes_are_right(capsys, workplace, path):
    assert main(["run", str(path), "--dry_run"]) == 0
    assert re.search(r"forkpoint (eval|train) ", capsys.readouterr().out)
    assert path.stem.startswith(("lab-", "real-")) or "not run by us" in path.read_text(encoding="utf-8").lower()


@pytest.mark.parametrize(("code", "expected", "said"), [
    (2, 2, "forkpoint: stage 'answers' was refused; its message stands above"),
    (1, 1, "stage 'answers' failed with exit code 1; the same command goes on from there"),
    (-9, 1, "stage 'answers' was killed by SIGKILL; the same command goes on from there"),
    (130, 130, "forkpoint: run was stopped; the same command goes on from where it was"),
])  # fmt: skip
def test_exit_codes_of_a_stage(capfd, workplace, monkeypatch, code, expected, said):
    action = f"os.kill(os.getpid(), {-code})" if code < 0 else f"sys.exit({code})"
    monkeypatch.setattr(module, "FORKPOINT", [sys.executable, "-c", f"import os, sys; {action}"])
    try:
        found = main(["run", "small.yaml"])
    except SystemExit as stop:
        found = stop.code
    assert found == expected
    assert said in capfd.readouterr().err
    assert list(json.loads(Path("out/recipe.json").read_text())["stages"]) == ["answers"]


KILLER = """
import json, multiprocessing, os, signal, sys, time, types
import peft, trl
import forkpoint.cli.train, forkpoint.engines.local.transformers_engine, forkpoint.training.preference_trainer
from forkpoint import files
from forkpoint.cli import main, run

def exit_code(work):
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    return process.exitcode

def end_of_run(*_):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)  # the end of the run is to be the end of its stage

def before_the_summary(path, chunks):
    end_of_run() if path.name == "summary.json" else write_whole(path, chunks)

append, write_whole = files.Journal.append, files.write_whole

def kill_at_first_result(verb):
    files.Journal.append = lambda *args: (append(*args), end_of_run())
    files.write_whole = before_the_summary
    if verb == "train":
        import transformers
        save = transformers.Trainer._save_checkpoint
        transformers.Trainer._save_checkpoint = lambda *args, **options: (save(*args, **options), end_of_run())

def stage(command, preexec_fn):
    "A stage's process, forked in place of one that starts Python anew."
    def work():
        preexec_fn()
        argv = command[len(run.FORKPOINT):]
        if killing and not os.path.exists(argv[-1].removeprefix("--out=")):
            kill_at_first_result(argv[0])
        sys.exit(main(argv))

    code = exit_code(work)
    return types.SimpleNamespace(wait=lambda: code, kill=lambda: None)

def whole_run():
    os.close(ended)
    sys.exit(main(["run", "lab.yaml"]))

run.subprocess = types.SimpleNamespace(Popen=stage)
seen = []
for killing in (False, True, True, True, True, True, True):
    os.chdir("killed" if killing else "undisturbed")
    ended, held = os.pipe()
    seen.append(exit_code(whole_run))
    os.close(held)
    os.read(ended, 1)  # at its end the stage is gone, too
    os.close(ended)
    records = json.load(open("out/recipe.json"))["stages"]
    seen.append("".join("d" if record["done"] else "s" for record in records.values()))
    os.chdir("..")
print(json.dumps(seen))
"""


def results(out: Path) -> dict[str, bytes]:
    """The bytes of all that stages wrote but timings, and the log of a training, whose means begin anew at a start."""
    apart = re.compile(rb'"seconds": [\d.]+|"history": \[.*?\n  \]', re.DOTALL)
    files = [p for p in sorted(out.rglob("*")) if p.is_file() and p.suffix in (".json", ".jsonl", ".safetensors")]
    return {str(p.relative_to(out)): apart.sub(b"", p.read_bytes()) for p in files}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a stage outlives a run that is killed")
def test_kill_9_in_every_stage_of_the_lab_recipe_ends_in_the_same_bytes(tmp_path):
    """Each stage kills the run: at its first finished unit, its first checkpoint, or just before its summary."""
    text = "out: out\n" + (RECIPES / "lab-critical-dpo.yaml").read_text()
    for large, small in ("limit: 800", "limit: 16"), ("limit: 1000", "limit: 4"), ("n: 16", "n: 6"), (": 3\n", ": 1\n"):
        assert large in text
        text = text.replace(large, small)
    for name in ("killed", "undisturbed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lab.yaml").write_text(text)
    driver = subprocess.run(
        [sys.executable, "-c", KILLER], cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert driver.returncode == 0, driver.stderr
    seen = json.loads(driver.stdout.splitlines()[-1])
    assert seen[:2] == [0, "ddddd"]
    assert seen[2::2] == [-signal.SIGKILL] * 5 + [0]
    assert seen[3::2] == ["s", "ds", "dds", "ddds", "dddds", "ddddd"]
    assert results(tmp_path / "killed/out") == results(tmp_path / "undisturbed/out")


def test_what_is_done_is_skipped_and_what_changed_is_redone(capfd, workplace, monkeypatch):
    monkeypatch.setattr(module, "_process", lambda command: main(command[len(module.FORKPOINT) :]))
    out = workplace / "out"

    def made() -> dict[str, int]:
        return {p.parent.name: p.stat().st_mtime_ns for p in out.glob("*/samples.jsonl")}

    assert main(["run", "small.yaml", "--dry_run", "--out", "elsewhere"]) == 0
    assert "--trajectories=elsewhere/answers" in capfd.readouterr().out
    assert sorted(p.name for p in workplace.iterdir()) == ["small.yaml"]
    assert main(["run", "small.yaml"]) == 0
    before, first = made(), results(out)
    assert main(["run", "small.yaml"]) == 0
    assert made() == before
    Path("small.yaml").write_text(SMALL.replace("budget: 64", "budget: 128"))
    assert main(["run", "--dry_run", "small.yaml"]) == 0
    shown = capfd.readouterr().out
    assert re.search(r"tokens +critical +redo, because budget was 64, now 128", shown)
    assert re.search(r"again +eval +redo, because tokens is redone", shown)
    assert (made(), results(out)) == (before, first)
    assert main(["run", "small.yaml", "--quiet"]) == 0
    after = made()
    assert [name for name in before if after[name] == before[name]] == ["answers"]
    assert results(out)["again/results.json"] == first["again/results.json"]
    assert results(out)["tokens/config.json"] != first["tokens/config.json"]
