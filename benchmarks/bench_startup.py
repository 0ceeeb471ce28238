"""How long `forkpoint --help` takes, beside a Python that does nothing.

    python benchmarks/bench_startup.py

Medians of whole processes; writes benchmarks/results/startup.json.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import machine

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "forkpoint --help": [sys.executable, "-m", "forkpoint", "--help"],
    "forkpoint eval --help": [sys.executable, "-m", "forkpoint", "eval", "--help"],
}


def seconds(command: list[str]) -> float:
    """Wall time of one run."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Measure, print, write."""
    medians = {name: statistics.median(seconds(c) for _ in range(9)) for name, c in COMMANDS.items()}
    for name, median in medians.items():
        print(f"{name:24}{1000 * median:8.0f} ms")
    print(machine.save("startup", {"milliseconds": {name: round(1000 * m) for name, m in medians.items()}}))


if __name__ == "__main__":
    main()
