"""The command line: finds the verb, hands it its arguments, and turns errors of the user into one sentence.

One file a verb; nothing heavy is imported before the verb is known, so that `forkpoint --help` answers at once.
"""

from __future__ import annotations

import difflib
import logging
import os
import sys
from importlib import import_module

from forkpoint import __version__
from forkpoint.redaction import without_secrets
from forkpoint.types import FailedError, UserError

# verb: its module, and what it does in a line
GROUPS = {
    "decode and evaluate": {
        "eval": ("forkpoint.cli.eval", "compare decoding strategies on a task, with statistics and a report"),
        "lm-eval": ("forkpoint.cli.lm_eval", "run tasks of lm-eval, the evaluation harness, with decoding strategies"),
        "logits": ("forkpoint.cli.logits", "draw a model's logits along a response, and what samplers keep of them"),
    },
    "critical tokens": {
        "critical": ("forkpoint.cli.critical", "find the token after which a wrong response is lost, by rollouts"),
        "contrast": ("forkpoint.cli.contrast", "score tokens by models tuned on right and on wrong responses"),
    },
    "preference training": {
        "pairs": ("forkpoint.cli.pairs", "make preference pairs of responses, of forks, or of TRL's data"),
        "train sft": ("forkpoint.cli.train_sft", "fine-tune a model on the chosen responses of pairs"),
        "train dpo": ("forkpoint.cli.train_dpo", "train on pairs: Direct Preference Optimization"),
        "train rpo": ("forkpoint.cli.train_rpo", "train on pairs: DPO with a likelihood term"),
        "train tdpo": ("forkpoint.cli.train_tdpo", "train on pairs: token-level DPO"),
        "train critical-dpo": ("forkpoint.cli.train_critical_dpo", "train on pairs: critical tokens weighted (cdpo)"),
        "train fork-dpo": ("forkpoint.cli.train_fork_dpo", "train on pairs of single tokens at forks"),
        "merge": ("forkpoint.cli.merge", "add an adapter to the weights of its base: a whole model"),
        "rounds": ("forkpoint.cli.rounds", "fine-tune in rounds on own right answers, with a likelihood filter"),
    },
    "pretraining": {
        "score": ("forkpoint.cli.score", "score every token of a corpus with a reference model"),
        "select": ("forkpoint.cli.select", "write the tokens that a rule selects as labels, for any trainer"),
        "train clm": ("forkpoint.cli.train_clm", "train on every token of a corpus"),
        "train slm": ("forkpoint.cli.train_slm", "train on the tokens of a corpus that a rule selects"),
        "dynamics": ("forkpoint.cli.dynamics", "class tokens by how their loss changes over checkpoints"),
    },
    "serving": {
        "serve": ("forkpoint.cli.serve", "put strategies in front of an OpenAI-compatible server, as one"),
    },
    "tools": {
        "run": ("forkpoint.cli.run", "run the stages of a recipe; what is done is skipped"),
        "show": ("forkpoint.cli.show", "show a finished run in the terminal: its tables, its responses in colours"),
        "report": ("forkpoint.cli.report", "draw the page of a finished run again"),
        "lab corpus": ("forkpoint.cli.lab_corpus", "make the lab's corpus with noise, for selective language modeling"),
        "lab train": ("forkpoint.cli.lab_train", "train the embedded lab model from nothing"),
        "doctor": ("forkpoint.cli.doctor", "say what is installed, what is missing, and what to do about it"),
        "completion": ("forkpoint.cli.completion", "print what makes bash, zsh or fish complete verbs and options"),
    },
}
VERBS = {verb: entry for group in GROUPS.values() for verb, entry in group.items()}
ALIASES = {"train cdpo": "train critical-dpo"}  # elsewhere "cdpo" means conservative DPO, too
ANEW = {"merge", "report", "lab corpus", "lab train"}  # nothing is kept of a part
RESUMING = {*VERBS} - ANEW - {"serve", "doctor", "completion", "show"}  # the same command goes on from where it was
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
        verb, rest = _find_verb(args)
        import_module(VERBS[verb][0]).run(rest)
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


def _find_verb(args: list[str]) -> tuple[str, list[str]]:
    for words in (2, 1):
        verb = " ".join(args[:words])
        verb = ALIASES.get(verb, verb)
        if verb in VERBS:
            return verb, args[words:]
    if kinds := [verb.partition(" ")[2] for verb in VERBS if verb.startswith(f"{args[0]} ")]:
        near = difflib.get_close_matches(args[1], kinds, n=1, cutoff=0.4) if args[1:] else []
        hint = f": did you mean {f'{args[0]} {near[0]}'!r}?" if near else f", but got {args[1]!r}" if args[1:] else ""
        raise UserError(f"{args[0]} needs one of {', '.join(kinds)}{hint}")
    near = difflib.get_close_matches(" ".join(args[:2]), VERBS, n=1, cutoff=0.4) or difflib.get_close_matches(
        args[0], VERBS, n=1, cutoff=0.4
    )
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
