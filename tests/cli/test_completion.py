"""forkpoint completion: what a shell offers after a half-written command."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from programs import require_program

from forkpoint.cli import VERBS, main

BASH = """
source "$1"
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_shtab_forkpoint
printf '%s\\n' "${COMPREPLY[@]}"
"""
FISH = 'cd /; source $argv[1]; complete -C "$argv[2] $argv[3]"'


@pytest.fixture(scope="module")
def scripts(tmp_path_factory) -> dict[str, str]:
    """The path of each shell's script."""
    directory = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh", "fish", "tcsh"):
        with pytest.MonkeyPatch.context() as patch, (directory / shell).open("w") as file:
            patch.setattr("sys.stdout", file)
            assert main(["completion", shell]) == 0
    return {path.name: str(path) for path in directory.iterdir()}


@pytest.mark.parametrize("shell", ["bash", "fish"])
@pytest.mark.parametrize(("words", "offered"), [
    (["cri"], {"critical"}),
    (["lab", ""], {"corpus", "solutions", "train"}),
    (["eval", "--task", "g"], {"gsm8k"}),
    (["critical", "--which", ""], {"all", "correct", "wrong"}),
    (["train", "dpo", "--precompute_r"], {"--precompute_ref_log_probs"}),
    (["train", "dpo", "--pairs", "/et"], {"/etc"}),
    (["run", "/et"], {"/etc"}),
    (["completion", "z"], {"zsh"}),
])  # fmt: skip
def test_a_half_written_command_is_completed(scripts, shell, words, offered):
    require_program(shell)
    command = {
        "bash": ["bash", "--norc", "-c", BASH, "bash", scripts["bash"], "forkpoint", *words],
        "fish": ["fish", "--no-config", "-c", FISH, scripts["fish"], shlex.join(["forkpoint", *words[:-1]]), words[-1]],
    }
    done = subprocess.run(command[shell], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert {line.partition("\t")[0].rstrip("/") for line in done.stdout.splitlines()} == offered


def test_each_script_has_every_verb_and_its_shell_takes_it(scripts):
    for shell, path in scripts.items():
        script = Path(path).read_text()
        assert all(word in script for verb in VERBS for word in verb.split())
        if shell != "tcsh":
            require_program(shell)
            assert subprocess.run([shell, "-n", path]).returncode == 0


def test_a_shell_without_completion_is_one_sentence(capsys):
    assert main(["completion", "ksh"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
