"""The examples are short, run offline by themselves, and print what their first lines promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "examples"
LONGEST = 100  # lines of an example
SHOWN = {  # of each example what its output must hold; numbers leave room for another machine's rounding
    "top_n_sigma_generate": (r"^ +3\.0 +[0-5] +6[0-4]$",),
    "cot_decoding": (r"^greedy answer: +39$", r"^CoT-decoding answer: 25$"),
    "critical_token": (r">>>.+<<<", r"^critical token: '", r"after it [0-4]%$", r"right in (9\d|100)% of"),
    "slm_own_corpus": (r"^left out: '<br>'$", r"^step 60: loss"),
    "cdpo_own_pairs": (r"^rejected: +21 \+ 3 = 24\.", r"^  token   3  ' \+' +weight (0\.9|1\.0)", r"^step \d+: margin"),
    "rounds": (r"^    2 +\d+ +\d",),
    "custom_task": (r"^greedy +\d", r"^cot-decoding:k=10 minus greedy: \+[4-9]\d\.\d points, p = "),
}
LEFT = {  # the files that it promises
    "critical_token": "runs/critical-token/report.html",
    "slm_own_corpus": "runs/own-slm/training/model/model.safetensors",
    "cdpo_own_pairs": "runs/own-cdpo/training/model/model.safetensors",
    "rounds": "runs/rounds-example/round-2/model/model.safetensors",
}


def test_every_example_is_tested_and_short():
    found = {path.stem: path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*.py")}
    assert found.keys() == SHOWN.keys()
    for name, text in found.items():
        assert len(text.splitlines()) <= LONGEST, name
        assert f"python examples/{name}.py" in text  # how to run it


@pytest.mark.parametrize("name", SHOWN)
def test_example_runs(name, tmp_path):
    alone = {"HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(tmp_path / "cache"), "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"],
        cwd=tmp_path,
        env=os.environ | alone,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for line in SHOWN[name]:
        assert re.search(line, done.stdout, re.MULTILINE), f"no {line} in:\n{done.stdout}"
    if name in LEFT:
        assert (tmp_path / LEFT[name]).stat().st_size
    assert {path.name for path in tmp_path.iterdir()} <= {"runs", "cache"}
