"""forkpoint completion: what bash, zsh and fish offer after a half-written command."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import fields
from importlib import import_module

import pytest
from programs import require_program

from forkpoint.cli import VERBS, main
from forkpoint.cli.completion import SHELLS, completed_verbs
from forkpoint.cli.completion_scripts import SCRIPTS

BASH = """
source "$1"
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_forkpoint
printf '%s\\n' "${COMPREPLY[@]}"
"""
ZSH = """
compdef() { : }
compset() { : }
_files() { print FILES }
_describe() { local -a items=(${(P)@[-1]}); print -l -- ${items%%:*} }
compadd() { print -l -- ${(P)@[-1]} }
script=$1
shift
source $script
words=("$@") CURRENT=$#
_forkpoint
"""
FILES = "FILES"  # where the shell is left to offer paths


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """The three scripts as files."""
    directory = tmp_path_factory.mktemp("completion")
    for shell, script in SCRIPTS.items():
        (directory / shell).write_text(script(completed_verbs()))
    return directory


def offered(shell: str, scripts, *words: str) -> list[str]:
    """What the shell offers for the last of the words that follow `forkpoint`."""
    require_program(shell)
    script = str(scripts / shell)
    if shell == "fish":
        line = shlex.join(["forkpoint", *words[:-1]]) + f" {words[-1]}"
        command = ["fish", "--no-config", "-c", "cd /; source $argv[1]; complete -C $argv[2]", script, line]
    elif shell == "zsh":
        command = ["zsh", "-fc", ZSH, "zsh", script, "forkpoint", *words]
    else:
        command = ["bash", "--norc", "-c", BASH, "bash", script, "forkpoint", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    found = [line.partition("\t")[0] for line in done.stdout.splitlines() if line]
    if shell == "fish" and "usr/" in found:
        return [FILES]
    return [word for word in found if word.startswith(words[-1].lstrip("=")) or word == FILES] or [FILES]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("words", "expected"), [
    (["cri"], ["critical"]),
    (["train", "t"], ["tdpo"]),
    (["lab", ""], ["corpus", "train"]),
    (["eval", "--stra"], ["--strategy"]),
    (["eval", "--task", "g"], ["gsm8k"]),
    (["eval", "--quiet", "--swe"], ["--sweep"]),
    (["critical", "--which", ""], ["all", "correct", "wrong"]),
    (["train", "slm", "--scope", "b"], ["batch"]),
    (["train", "dpo", "--pre"], ["--precompute-ref-log-probs"]),
    (["train", "dpo", "--precompute-ref-log-probs", "f"], ["false"]),
    (["train", "dpo", "--pairs", ""], [FILES]),
    (["run", ""], [FILES]),
    (["run", "--dry"], ["--dry-run"]),
    (["report", ""], [FILES]),
    (["completion", "f"], ["fish"]),
    (["serve", "--keep"], ["--keep-alive"]),
    (["pairs", "--conf"], ["--config"]),
])  # fmt: skip
def test_a_half_written_command_is_completed(shell, scripts, words, expected):
    assert sorted(offered(shell, scripts, *words)) == expected


@pytest.mark.parametrize(("words", "expected"), [
    (["eval", "--task", "=", "ls"], [FILES]),
    (["eval", "--task", "="], ["aqua", "gsm8k", "jsonl", "lab", "math500"]),
    (["eval", "--task", "=", "gs"], ["gsm8k"]),
    (["eval", "--max_t"], ["--max_tokens"]),
    (["lm-eval", "--answer_kind", "o"], ["option"]),
])  # fmt: skip
def test_bash_knows_equals_signs_and_underscores(scripts, words, expected):
    assert sorted(offered("bash", scripts, *words)) == expected


def test_every_verb_and_option_is_in_every_script(scripts):
    verbs = {verb.name: verb for verb in completed_verbs()}
    assert list(verbs) == list(VERBS)
    for name, verb in verbs.items():
        options = getattr(import_module(VERBS[name][0]), "OPTIONS", None)
        have = {option.name.replace("-", "_") for option in verb.options}
        assert {field.name for field in fields(options) if options} <= have if options else "help" in have
        assert all(option.help for option in verb.options)
        for shell in SHELLS:
            text = (scripts / shell).read_text()
            flag = "-l {}" if shell == "fish" else "--{}"
            assert all(flag.format(option.name) in text for option in verb.options)


def test_bash_takes_the_script_whole(scripts):
    assert subprocess.run(["bash", "-n", str(scripts / "bash")]).returncode == 0
    assert subprocess.run(["bash", "-c", f"source {scripts / 'bash'}; complete -p forkpoint"]).returncode == 0


def test_the_verb_prints_the_script(capsys, scripts):
    for shell in SHELLS:
        assert main(["completion", shell]) == 0
        assert capsys.readouterr().out == (scripts / shell).read_text()


def test_an_unknown_shell_is_one_sentence(capsys):
    assert main(["completion", "tcsh"]) == 2
    assert "must be one of 'bash', 'zsh', 'fish', but is 'tcsh'" in capsys.readouterr().err
