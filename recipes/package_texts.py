"""Real text that is on any machine: the descriptions and licences of the installed packages, as a corpus.

    python recipes/package_texts.py models/SmolLM2-135M-Instruct runs/package-texts

Writes corpus.jsonl and held-out.jsonl ({"id": "numpy/description", "text": ...}; one text in ten is held out, by a hash
of its name) and small/, a Llama of 4 layers of width 192 with new weights and that model's tokenizer, to be trained on
them. The texts are those of constraints.txt's packages, so another environment has others.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from forkpoint.files import write_rows

HELD_OUT_ONE_IN = 10
SHORTEST, LONGEST = 400, 20_000  # characters; longer texts are cut
LICENCES = ("license", "licence", "copying", "notice")


def texts() -> Iterator[tuple[str, str]]:
    """(name, text) of every package's description and licence files, those that several share once, by name."""
    seen: set[str] = set()
    for package in sorted(distributions(), key=lambda one: one.name.lower()):
        found = {"description": str(package.metadata.get_payload())}
        for file in package.files or ():
            if file.name.lower().startswith(LICENCES) and file.suffix in ("", ".txt", ".md", ".rst"):
                path = Path(str(package.locate_file(file)))
                found |= {file.name: path.read_text(encoding="utf-8", errors="replace")} if path.is_file() else {}
        for kind, text in found.items():
            digest = hashlib.sha256(" ".join(text.split()).encode()).hexdigest()
            if len(text) >= SHORTEST and digest not in seen:
                seen.add(digest)
                yield f"{package.name}/{kind}", text[:LONGEST]


def small_model(tokenizer_of: str, out: Path) -> None:
    """Save a small Llama with new weights and the tokenizer of a model."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=6,
        num_key_value_heads=6, max_position_embeddings=2048, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(out)
    tokenizer.save_pretrained(out)


def main(model: str, out: Path) -> None:
    """Write the two files and the model."""
    out.mkdir(parents=True, exist_ok=True)
    rows: dict[bool, list[dict[str, str]]] = {True: [], False: []}
    for name, text in texts():
        held_out = int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT_ONE_IN == 0
        rows[held_out].append({"id": name, "text": text})
    for held_out, file in ((False, "corpus.jsonl"), (True, "held-out.jsonl")):
        write_rows(out / file, rows[held_out])
        characters = sum(len(row["text"]) for row in rows[held_out])
        print(f"{out / file}: {len(rows[held_out]):,} texts, {characters:,} characters")
    small_model(model, out / "small")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
