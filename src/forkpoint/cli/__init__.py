"""The command line: finds the verb, hands it its arguments, and turns errors of the user into one sentence.

One file a verb; nothing heavy is imported before the verb is known, so that `forkpoint --help` answers at once.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from forkpoint import __version__
from forkpoint.cli.verb import Verb
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
        return DONE
    except UserError as error:
        message, code = str(error), WRONG
    except FailedError as error:
        message, code = f"{error}{_hint(verb, error)}", FAILED
    except KeyboardInterrupt as error:
        message, code = f"{verb} was stopped{_hint(verb, error)}", INTERRUPTED
    if code != INTERRUPTED or os.environ.get("LOCAL_RANK", "0") == "0":  # one speaks for those of `accelerate launch`
        print(f"forkpoint: {without_secrets(message)}", file=sys.stderr)
    return code


def _hint(verb: str, error: BaseException) -> str:
    """How to go on; the run's directory is a note of the error, where there is one already."""
    if verb in ANEW:
        return "; the same command begins anew"
    where = "".join(f" ({out})" for out in getattr(error, "__notes__", ()))
    return f"; the same command goes on from where it was{where}" if verb in RESUMING else ""


def load_verb(name: str) -> Verb:
    """A verb, of its module's VERBS."""
    verbs: Sequence[Verb] = import_module(VERBS[name][0]).VERBS
    return next(verb for verb in verbs if verb.name == name)


def find_verb(args: list[str]) -> tuple[str, list[str]]:
    """The verb with which the arguments begin, and the rest of them. UserError where there is none."""
    for words in (2, 1):
        verb = " ".join(args[:words])
        verb = ALIASES.get(verb, verb)
        if verb in VERBS:
            return verb, args[words:]
    if kinds := [verb.partition(" ")[2] for verb in VERBS if verb.startswith(f"{args[0]} ")]:
        near = get_close_matches(args[1], kinds, n=1, cutoff=0.4) if args[1:] else []
        hint = f": did you mean {f'{args[0]} {near[0]}'!r}?" if near else f", but got {args[1]!r}" if args[1:] else ""
        raise UserError(f"{args[0]} needs one of {', '.join(kinds)}{hint}")
    near = [v for words in (2, 1) for v in get_close_matches(" ".join(args[:words]), VERBS, n=1, cutoff=0.4)]
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
