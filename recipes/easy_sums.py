"""Sums, differences and products of single digits as questions, in JSON Lines: python recipes/easy_sums.py FILE."""

import sys
from pathlib import Path

from forkpoint.files import write_rows

DIGITS = range(2, 10)


def main(path: Path) -> None:
    """Write the file: 64 sums, 36 differences, 64 products."""
    rows = [
        {"question": f"What is {a} {op} {b}?", "answer": result}
        for op, work in {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}.items()
        for a in DIGITS for b in DIGITS if (result := work(a, b)) >= 0
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_rows(path, rows)
    print(f"{path}: {len(rows)} questions")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
