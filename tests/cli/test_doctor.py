"""forkpoint doctor: what it says of sound, incomplete and broken installations, and its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from forkpoint.cli import doctor, main
from forkpoint.cli.doctor import examine
from forkpoint.cli.installation import PURPOSES, Installation, Package, probe, read_installation

DEVICES = {"threads": 2, "memory": 8 * 2**30, "cuda_build": None, "gpus": [], "mps": False}
TORCH = Package("torch", ">=2.6", "2.13.0", True)
TRL = Package("trl", ">=1.16", "1.16.0", True)


@pytest.fixture
def machine(monkeypatch):
    """A made-up installation: set the packages, and what goes wrong with steps."""

    def make(core=(TORCH,), extras=None, wrong=None, devices=None, vllm=None):
        values, wrong = {"devices": {**DEVICES, **(devices or {})}, "lab": "The answer is 70."}, wrong or {}
        installed = Installation("0.1.0", tuple(core), extras or {}, None, False)
        monkeypatch.setattr(doctor, "read_installation", lambda: installed)
        monkeypatch.setattr(doctor, "version_of", lambda *_: vllm)
        monkeypatch.setattr(doctor, "probe", lambda *batches: {
            step: {"error": wrong[step]} if step in wrong else {"value": values.get(step)}
            for batch in batches for step in batch
        })  # fmt: skip

    return make


def line(name: str):
    return next(check for check in examine() if check.name == name)


def test_a_sound_installation_is_exit_code_0(machine, capsys):
    machine(extras={"train": (TRL,)})
    assert main(["doctor"]) == 0
    text, err = capsys.readouterr()
    assert (err, "broken" in text) == ("", False)
    assert all(words in text for words in ("torch", "2.13.0", ">=2.6", "The answer is 70.", "8.0 GiB", "trl 1.16.0"))


@pytest.mark.parametrize(("core", "wrong", "found", "do"), [
    ((replace(TORCH, version=None, fits=False),), {}, "not installed", "pip install forkpoint"),
    ((replace(TORCH, version="2.1", fits=False),), {}, "2.1, but >=2.6 is needed", "pip install forkpoint"),
    ((TORCH,), {"import torch": "OSError: no libc"}, "2.13.0: OSError: no libc", "--force-reinstall 'torch>=2.6'"),
])  # fmt: skip
def test_a_broken_core_is_exit_code_1_and_says_what_to_do(machine, capsys, core, wrong, found, do):
    machine(core=core, wrong=wrong)
    check = line("torch")
    assert (check.state, check.found) == ("broken", found)
    assert do in check.do
    assert main(["doctor"]) == 1
    assert capsys.readouterr().err.startswith("forkpoint: broken: torch;")


def test_a_lab_model_that_answers_wrongly_is_a_broken_core(machine, capsys):
    machine(wrong={"lab": "ValueError: the model says 'The answer is 71.'"})
    assert main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    (lab,) = [check for check in report["checks"] if check["name"] == "lab model"]
    assert (report["ok"], lab["state"]) == (False, "broken")
    assert "71" in lab["found"]
    assert "--force-reinstall --no-deps" in lab["do"]


OLD = Package("transformers", ">=5.23", "5.19.0", False)
NO_TRL = replace(TRL, version=None, fits=False)


@pytest.mark.parametrize(("packages", "wrong", "state", "found", "do"), [
    ([NO_TRL], {}, "missing", "not installed: trl", "pip install 'forkpoint[train]'"),
    ([OLD], {}, "broken", "transformers 5.19.0, but >=5.23 is needed", "pip install 'forkpoint[train]'"),
    ([OLD, NO_TRL], {}, "missing", "transformers 5.19.0, but >=5.23 is needed; not installed: trl", "forkpoint[train]"),
    ([TRL], {"import trl": "KeyError: x"}, "broken", "trl 1.16.0: KeyError: x", "--force-reinstall 'trl>=1.16'"),
    ([OLD, TRL], {"import trl": "KeyError: x"}, "broken", "; trl 1.16.0: KeyError: x", "'forkpoint[train]'"),
    ([], {}, "missing", "metadata is older", "pip install 'forkpoint[train]'"),
])  # fmt: skip
def test_an_incomplete_or_broken_extra_is_no_failure(machine, packages, wrong, state, found, do):
    machine(extras={"train": tuple(packages)}, wrong=wrong)
    check = line("train")
    assert check.state == state
    assert found in check.found
    assert do in check.do
    assert main(["doctor"]) == 0
    machine(extras={"train": tuple(packages)}, wrong=wrong, vllm="0.32.0")
    assert line("train").do.startswith("not here, where vLLM ties torch") == (OLD in packages)


def test_vllm_and_its_plugin(machine, monkeypatch):
    machine()
    assert (line("vllm").state, "pip install vllm" in line("vllm").do) == ("missing", True)
    machine(vllm="0.32.0", wrong={"import vllm": "ImportError: libcuda.so.1"})
    assert line("vllm").found == "0.32.0: ImportError: libcuda.so.1"
    machine(vllm="0.32.0")
    for found, state in ((False, "broken"), (True, "ok")):
        monkeypatch.setattr(doctor, "plugin_is_registered", lambda found=found: found)
        assert (line("vllm").state, line("plugin").state) == ("ok", state)


def test_devices(machine, monkeypatch):
    gpus = [{"name": "H100", "memory": 80 * 2**30, "bf16": True}, {"name": "T4", "memory": 15 * 2**30, "bf16": False}]
    machine(devices={"gpus": gpus, "mps": True})
    assert line("cuda:0").found == "H100, 80.0 GiB, bfloat16"
    assert line("cuda:1").found == "T4, 15.0 GiB, no bfloat16: use --dtype float16"
    assert line("mps").state == "note"
    machine()
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/nvidia-smi")
    assert line("cuda").found == "there is an NVIDIA driver, but this torch is a build without CUDA"
    machine(wrong={"devices": "RuntimeError: driver"})
    assert [check.found for check in examine() if check.section == "devices"] == ["RuntimeError: driver"]


def test_the_command_is_for_where_forkpoint_came_from():
    assert Installation("1", (), {}, "/my code", True).command("ray") == "pip install -e '/my code[ray]'"
    assert Installation("1", (), {}, None, False).command() == "pip install forkpoint"


def test_requirements_are_those_of_pyproject():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    installed = read_installation()
    names = {text.partition(">")[0].partition("[")[0] for text in project["dependencies"]}
    assert {package.name for package in installed.core} <= names
    assert all(package.fits for package in installed.core)
    assert set(PURPOSES) <= set(project["optional-dependencies"])
    assert list(installed.extras)[: len(PURPOSES)] == list(PURPOSES)
    assert not {"dev", "docs"} & installed.extras.keys()
    assert {package.name for package in installed.extras["train"]} >= {"accelerate", "peft", "transformers", "trl"}


def test_a_step_that_raises_prints_or_kills_reaches_nobody(tmp_path, monkeypatch, capfd):
    for name, body in {
        "broken_one": "raise RuntimeError('first line\\nsecond line')",
        "loud_one": "print('noise')",
        "deadly_one": "import os; os.kill(os.getpid(), 9)",
        "leaving_one": "raise SystemExit(3)",
    }.items():
        (tmp_path / f"{name}.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    steps = ["import broken_one", "import deadly_one", "import loud_one"]
    assert probe(steps, ["import leaving_one", "import nowhere"]) == {
        "import broken_one": {"error": "RuntimeError: first line"},
        "import deadly_one": {"error": "ends the process by SIGKILL"},
        "import loud_one": {},
        "import leaving_one": {"error": "SystemExit: 3"},
        "import nowhere": {"error": "ModuleNotFoundError: No module named 'nowhere'"},
    }
    assert capfd.readouterr() == ("", "")


def test_ctrl_c_ends_it_at_once(tmp_path, monkeypatch):
    """It reaches the processes too: none of them counts as a broken step, after which the next one is tried."""
    (tmp_path / "stopped_one.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(KeyboardInterrupt):
        probe(["import stopped_one", "import nowhere"])


def test_a_step_without_end_is_given_up(tmp_path, monkeypatch):
    (tmp_path / "endless_one.py").write_text("import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("forkpoint.cli.installation.SECONDS", 2)
    assert probe(["import endless_one"]) == {"import endless_one": {"error": "no end after 2 seconds"}}


@pytest.mark.slow
def test_this_installation_with_two_packages_spoiled(tmp_path):
    """A package that most others need raises; another ends the process that imports it."""
    (tmp_path / "numpy.py").write_text("raise ImportError('numpy is spoiled')")
    (tmp_path / "psutil.py").write_text("import os; os.abort()")
    done = subprocess.run(
        [sys.executable, "-m", "forkpoint", "doctor", "--json"], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
    )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert "ImportError: numpy is spoiled" in checks["numpy"]["found"]
    assert checks["numpy"]["do"].startswith("pip install --force-reinstall 'numpy>=")
    assert "ends the process by SIGABRT" in checks["psutil"]["found"]
    assert (checks["lab model"]["state"], checks["rich"]["state"]) == ("broken", "ok")
