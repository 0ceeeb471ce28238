"""The command line: finds the verb, hands it its arguments, and turns errors of the user into one sentence.

One file a verb; nothing heavy is imported before the verb is known, so that `forkpoint --help` answers at once.
"""

from __future__ import annotations

import difflib
import logging
import os
import sys
from importlib import import_module
from typing import Any

from forkpoint import __version__
from forkpoint.cli.verbs import ALIASES, ANEW, GROUPS, RESUMING, VERBS
from forkpoint.redaction import without_secrets
from forkpoint.types import FailedError, UserError

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 failed, 2 wrong usage or input, 130 interrupted.

    A bug of ours is an exception, which leaves the process with 1, too; so does, without a word, a reader of stdout
    that went away (`| head`).
    """
    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.ERROR)  # a line for each retry
    try:
        try:
            return _main(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python writes when it ends
        return FAILED


def _reader_is_gone() -> bool:
    """Whether nobody reads stdout any more; other pipes may break, too."""
    import select

    watched = select.poll()
    watched.register(sys.stdout, 0)
    return bool(watched.poll(0))


def _main(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(_help())
        return DONE
    if args[0] == "--version":
        print(f"forkpoint {__version__}")
        return DONE
    verb = args[0]
    try:
        verb, rest = find_verb(args)
        load_verb(verb).run(rest)
    except UserError as error:
        print(f"forkpoint: {without_secrets(str(error))}", file=sys.stderr)
        return WRONG
    except FailedError as error:
        print(f"forkpoint: {without_secrets(str(error))}{_hint(verb, error)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # one process speaks for those of `accelerate launch`
            print(f"forkpoint: {verb} was stopped{_hint(verb, error)}", file=sys.stderr)
        return INTERRUPTED
    return DONE


def _hint(verb: str, error: BaseException) -> str:
    """How to go on; the run's directory is a note of the error, where it was known already."""
    if verb in ANEW:
        return "; the same command begins anew"
    where = "".join(f" ({out})" for out in getattr(error, "__notes__", ())[:1])
    return f"; the same command goes on from where it was{where}" if verb in RESUMING else ""


def load_verb(verb: str) -> Any:
    """What runs a verb, by `run(argv)`: an entry of its module's VERBS, or the module of a verb alone in one."""
    module = import_module(VERBS[verb][0])
    return module.VERBS[verb] if hasattr(module, "VERBS") else module


def find_verb(args: list[str]) -> tuple[str, list[str]]:
    """The verb with which the arguments begin, and the rest of them. UserError where there is none."""
    for words in (2, 1):
        verb = " ".join(args[:words])
        verb = ALIASES.get(verb, verb)
        if verb in VERBS:
            return verb, args[words:]
    if kinds := [verb.partition(" ")[2] for verb in VERBS if verb.startswith(f"{args[0]} ")]:
        near = difflib.get_close_matches(args[1], kinds, n=1, cutoff=0.4) if args[1:] else []
        hint = f": did you mean {f'{args[0]} {near[0]}'!r}?" if near else f", but got {args[1]!r}" if args[1:] else ""
        raise UserError(f"{args[0]} needs one of {', '.join(kinds)}{hint}")
    near = [v for words in (2, 1) for v in difflib.get_close_matches(" ".join(args[:words]), VERBS, n=1, cutoff=0.4)]
    hint = f"did you mean {near[0]!r}?" if near else f"the verbs are {', '.join(VERBS)}"
    raise UserError(f"unknown verb {args[0]!r}: {hint}")


def _help() -> str:
    lines: list[str] = []
    for group, verbs in GROUPS.items():
        lines += [f"{group}:", *(f"  {verb:<20}{summary}" for verb, (_, summary) in verbs.items()), ""]
    return "\n".join([
        "usage: forkpoint VERB [options]",
        "",
        "Find the tokens where a language model's reasoning is decided, and use them.",
        "",
        *lines,
        "forkpoint VERB --help shows a verb's options, with examples; forkpoint --version the version.",
        "Try: forkpoint eval --strategy greedy --strategy cot-decoding:k=10 --limit 300",
    ])  # fmt: skip
