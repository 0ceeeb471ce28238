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


def stages(**options: dict[str, object]) -> Recipe:
    return Recipe("r", Path("out"), tuple(Stage(name, "work", given, True) for name, given in options.items()))


def done(recipe: Recipe) -> dict[str, Record]:
    return {s.name: Record(s.verb, s.options, done=True) for s in recipe.stages}


def actions(recipe: Recipe, records: dict[str, Record], present: str | None = None) -> list[str]:
    """The first letters of what would happen: skip, run, resume (e), redo (d)."""
    steps = plan(recipe, records, list(records) if present is None else present.split())
    return [{"resume": "e", "redo": "d"}.get(s.action, s.action[0]) for s in steps]


class TestPlan:
    old = stages(one={"a": 1}, two={"a": 1}, three={"a": 1})

    def test_nothing_is_done_twice(self):
        assert actions(self.old, {}) == ["r", "r", "r"]
        assert actions(self.old, done(self.old)) == ["s", "s", "s"]

    @pytest.mark.parametrize(("changed", "said"), [
        (Stage("two", "work", {"a": 2}, True), "a was 1, now 2"),
        (Stage("two", "work", {"a": 1, "b": 0}, True), "b was not given, now 0"),
        (Stage("two", "work", {}, True), "a was 1, now not given"),
        (Stage("two", "play", {"a": 1}, True), "its verb was work, now play"),
    ])  # fmt: skip
    def test_a_changed_stage_and_what_follows_are_redone(self, changed, said):
        one, _, three = self.old.stages
        steps = plan(Recipe("r", Path("out"), (one, changed, three)), done(self.old), ["one", "two", "three"])
        assert [(s.action, s.why) for s in steps] == [("skip", "done"), ("redo", said), ("redo", "two is redone")]

    def test_quiet_is_no_change(self):
        assert actions(stages(one={"a": 1, "quiet": True}), done(stages(one={"a": 1}))) == ["s"]

    def test_a_killed_stage_is_resumed(self):
        records = done(self.old) | {"three": Record("work", {"a": 1})}
        assert actions(self.old, records) == ["s", "s", "e"]
        assert actions(self.old, records, "one two") == ["s", "s", "r"]
        del records["three"]
        assert actions(self.old, records | {"two": Record("work", {"a": 2})}) == ["s", "d", "r"]

    def test_a_verb_that_cannot_go_on_starts_anew(self):
        once = Recipe("r", Path("out"), (Stage("one", "work", {}, False),))
        assert actions(once, {"one": Record("work", {})}) == ["d"]
        assert actions(once, {"one": Record("work", {})}, "") == ["r"]
        assert actions(once, done(once)) == ["s"]

    def test_a_removed_directory_is_made_again_with_all_that_follows(self):
        assert actions(self.old, done(self.old), "one three") == ["s", "d", "d"]

    def test_a_killed_removal_goes_on(self):
        """The run was killed when one was to be redone and some directories were removed already."""
        records = {name: Record("work", None) for name in ("one", "two", "three")}
        assert actions(self.old, records, "three") == ["d", "d", "d"]

    def test_a_new_stage_touches_no_other(self):
        one, two, three = self.old.stages
        new = Stage("new", "work", {"a": 1}, True)
        assert actions(Recipe("r", Path("out"), (one, new, two, three)), done(self.old)) == ["s", "r", "s", "s"]

    def test_a_directory_of_others_is_not_touched(self):
        with pytest.raises(UserError, match="'two' is there, but was not made by this recipe"):
            actions(self.old, {"one": done(self.old)["one"]}, "one two")


def test_defaults_references_and_values(tmp_path):
    recipe = recipe_of(
        "defaults: {a: 1, b: [x, y]}\n"
        "stages:\n"
        "  first: {verb: work, a: 4e-5, b: null}\n"
        '  second: {verb: two  words, a: "{first}/model", quiet: true, b: ["{first}", \'{"k": 1}\', no]}\n',
        tmp_path / "mine.yaml",
    )
    assert (recipe.name, recipe.out) == ("mine", Path("runs/mine"))
    assert recipe.stages[0].arguments(Path("o")) == ["work", "--a=4e-05", "--out=o/first"]
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
    ("stages:", "stages: {}\nrest:", "unknown key 'rest'"),
    (SMALL, "stages: {}", "'stages' should name at least one stage"),
    (SMALL, "- a\n", "small.yaml: should hold out, defaults, stages"),
    (SMALL, "a: [\n", "small.yaml: is not valid YAML, which a recipe is: line 2: "),
    ("seed: 3", "sede: 3", "small.yaml, defaults: unknown option 'sede': did you mean 'seed'?"),
    ("seed: 3", "model: '{answers}'", "defaults: model refers to {answers}, which is no earlier stage"),
    ("again:", "answers:", "line 7: 'answers' is there twice"),
    ("again:", "../again:", "stage '../again': a stage's name is that of its directory"),
    ("verb: critical", "verb: critcal", "stage 'tokens': unknown verb 'critcal': did you mean 'critical'?"),
    ("verb: critical", "verb: report", "stage 'tokens': the verb 'report' cannot be a stage"),
    ("verb: critical", "verb: run", "stage 'tokens': the verb 'run' cannot be a stage"),
    ("verb: critical", "verb: critical now", "stage 'tokens': unknown verb 'critical now': did you mean 'critical'?"),
    ("verb: critical, ", "", "stage 'tokens': a stage needs a 'verb'"),
    ("verb: critical, ", "verb: '', ", "stage 'tokens': a stage needs a 'verb'"),
    ("budget:", "buget:", "stage 'tokens': unknown option --buget, did you mean --budget?"),
    ("budget: 64", "budget: many", "stage 'tokens': --budget must be a whole number, but is 'many'"),
    ("budget: 64", "out: here", "stage 'tokens': 'out' cannot be given in a recipe"),
    ("budget: 64", "config: here", "stage 'tokens': 'config' cannot be given in a recipe"),
    ("budget: 64", "budget: {a: 1}", "stage 'tokens': 'budget' should be one value or a list of values"),
    ('"{answers}"', "{answers}", "but is {'answers': None}; a reference needs quotes"),
    ("{answers}", "{anwsers}", "stage 'tokens': trajectories refers to {anwsers}, which is no stage: did you mean"),
    ("{answers}", "{again}", "stage 'tokens': trajectories refers to {again}, which is no earlier stage"),
    ("{answers}", "{tokens}", "stage 'tokens': trajectories refers to {tokens}, which is no earlier stage"),
    ("out: out", "out: [out]", "'out' should be a directory"),
])  # fmt: skip
def test_a_mistake_in_a_recipe_is_one_sentence(capsys, workplace, old, new, message):
    assert old in SMALL
    Path("small.yaml").write_text(SMALL.replace(old, new))
    said = mistake(capsys, "small.yaml")
    assert message in said
    assert said.startswith("forkpoint: small.yaml")


def test_mistakes_on_the_command_line(capsys, workplace):
    assert "run needs the recipe, a YAML file: forkpoint run RECIPE" in mistake(capsys)
    assert "nowhere.yaml: cannot be read" in mistake(capsys, "nowhere.yaml")
    assert "did you mean --dry-run" in mistake(capsys, "small.yaml", "--dry-rn")


def test_directories_of_others_are_refused(capsys, workplace):
    out = workplace / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    for flags in ([], ["--dry-run"]):
        assert "out holds files but no run of a recipe" in mistake(capsys, "small.yaml", *flags)
    (out / "recipe.json").write_text('{"recipe": "other", "verbs": {}, "stages": {}}')
    assert "out holds a run of the recipe 'other', not 'small'" in mistake(capsys, "small.yaml")
    (out / "recipe.json").write_text('{"stages": 3}')
    assert "recipe.json is not what `forkpoint run` writes" in mistake(capsys, "small.yaml")
    (out / "recipe.json").write_text('{"recipe": "small", "verbs": {}, "stages": {}}')
    (out / "tokens").mkdir()
    assert "stage 'tokens' is there, but was not made by this recipe" in mistake(capsys, "small.yaml")
    assert (out / "thesis.txt").read_text() == "precious"


def test_a_dry_run_shows_every_command_and_makes_nothing(capsys, workplace):
    assert main(["run", "small.yaml", "--dry-run", "--out", "elsewhere"]) == 0
    said = capsys.readouterr().out
    assert "forkpoint critical --task=lab --seed=3" in said
    assert "--trajectories=elsewhere/answers" in said
    assert sorted(p.name for p in workplace.iterdir()) == ["small.yaml"]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_our_recipes_are_right(capsys, workplace, path):
    assert main(["run", str(path), "--dry-run"]) == 0
    assert re.search(r"forkpoint train (critical-dpo|slm) ", capsys.readouterr().out)
    assert path.stem.startswith("lab-") or "not run by us" in path.read_text(encoding="utf-8").lower()


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
import json, os, signal, sys, time, types
import peft, trl
import forkpoint.cli.training, forkpoint.engines.local.transformers_engine, forkpoint.training.preference_trainer
from forkpoint import files
from forkpoint.cli import main, run

def forked(work):
    child = os.fork()
    if not child:
        try:
            code = work()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            code = 1
        sys.stdout.flush()
        os._exit(code)
    return child

def exit_code(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

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

class Stage:
    "A stage's process, in place of one that starts Python anew."

    def __init__(self, command, preexec_fn):
        def work():
            preexec_fn()
            argv = command[len(run.FORKPOINT):]
            if killing and not os.path.exists(argv[-1].removeprefix("--out=")):
                kill_at_first_result(argv[0])
            return main(argv)

        self.code = exit_code(forked(work))

    def wait(self):
        return self.code

    def kill(self):
        pass

run.subprocess = types.SimpleNamespace(Popen=Stage)
seen = []
for killing in (False, True, True, True, True, True, True):
    os.chdir("killed" if killing else "undisturbed")
    ended, held = os.pipe()
    child = forked(lambda: main(["run", "lab.yaml"]))
    os.close(held)
    seen.append(exit_code(child))
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


def times(out: Path) -> dict[str, int]:
    return {p.parent.name: p.stat().st_mtime_ns for p in out.glob("*/samples.jsonl")}


def run_in(place: Path, *command: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=place, env=env, capture_output=True, text=True, timeout=300
    )  # fmt: skip


def small_lab() -> str:
    """The lab recipe with next to no problems."""
    text = (RECIPES / "lab-critical-dpo.yaml").read_text()
    for old, new in (
        ("limit: 800", "limit: 16"),
        ("limit: 1000", "limit: 4"),
        ("n: 16", "n: 6"),
        ("epochs: 3", "epochs: 1"),
    ):
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a stage outlives a run that is killed")
def test_kill_9_in_every_stage_of_the_lab_recipe_ends_in_the_same_bytes(tmp_path):
    """Each stage kills the run: at its first finished unit, its first checkpoint, or just before its summary."""
    for name in ("killed", "undisturbed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lab.yaml").write_text("out: out\n" + small_lab())
    driver = run_in(tmp_path, "-c", KILLER)
    assert driver.returncode == 0, driver.stderr
    seen = json.loads(driver.stdout.splitlines()[-1])
    assert seen[:2] == [0, "ddddd"]
    assert seen[2::2] == [-signal.SIGKILL] * 5 + [0]
    assert seen[3::2] == ["s", "ds", "dds", "ddds", "dddds", "ddddd"]
    assert results(tmp_path / "killed/out") == results(tmp_path / "undisturbed/out")


@pytest.fixture
def finished(workplace) -> Path:
    """The directory of a finished run of the small recipe."""
    process = run_in(workplace, "-m", "forkpoint", "run", "small.yaml")
    assert process.returncode == 0, process.stderr
    assert "3 done\nRecipe small\nAll 3 stages are done, in " in process.stdout
    assert process.stdout.endswith("\nout/report.html\n")
    assert "forkpoint run: stage tokens (2 of 3)" in process.stderr
    return workplace / "out"


def test_what_is_done_is_skipped_and_what_changed_is_redone(capfd, finished, monkeypatch):
    out = finished
    before, first = times(out), results(out)
    assert main(["run", "small.yaml"]) == 0
    said = capfd.readouterr()
    assert "stage" not in said.err
    assert said.out.startswith("3 done before\n")
    assert times(out) == before
    Path("small.yaml").write_text(SMALL.replace("budget: 64", "budget: 128"))
    assert main(["run", "small.yaml", "--dry-run"]) == 0
    said = capfd.readouterr().out
    assert re.search(r"answers +eval +skip", said)
    assert re.search(r"tokens +critical +redo, because budget was 64, now 128", said)
    assert re.search(r"again +eval +redo, because tokens is redone", said)
    assert (times(out), results(out)) == (before, first)
    monkeypatch.setattr(module, "_process", lambda command: main(command[len(module.FORKPOINT) :]))
    assert main(["run", "small.yaml", "--quiet"]) == 0
    assert "1 done before, 2 done again\n" in capfd.readouterr().out
    after = times(out)
    assert [name for name in before if after[name] == before[name]] == ["answers"]
    assert results(out)["again/results.json"] == first["again/results.json"]
    assert results(out)["tokens/config.json"] != first["tokens/config.json"]
