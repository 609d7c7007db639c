"""The command line: ``fromnoise COMMAND ...``.

Commands live in modules of their own and are imported when called, so that ``--help`` answers at once.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "demo": "train and show two models in a couple of minutes",
    "train": "train a recipe into a run folder; the same command again goes on",
    "sample": "pictures from a trained run",
    "evaluate": "measure a trained run",
    "recipes": "list the named recipes",
    "doctor": "what this machine has, and what is missing for what",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for a mistake of the user's, 130 after Ctrl-C, 1 for a bug."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if argv[0] in ("-V", "--version", "version"):
        from fromnoise import __version__

        print(f"fromnoise {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        close = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        hint = f'Did you mean "{close[0]}"?' if close else f"Commands: {', '.join(COMMANDS)}."
        return fail(f'There is no command "{argv[0]}". {hint}')
    return run(argv)


def run(argv: list[str]) -> int:
    """Call a command's module, turning the user's mistakes into one sentence."""
    import importlib

    from fromnoise.types import UserError

    try:
        return importlib.import_module(f"fromnoise.cli.{argv[0]}").main(argv[1:]) or 0
    except UserError as e:
        return fail(str(e))
    except KeyboardInterrupt as e:
        print(str(e) or "Stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        return fail("There was not enough memory: try a smaller --train.batch, size or number of samples.")
    except SystemExit as e:  # tyro: 0 after --help, 2 after a mistake it has explained
        return e.code if isinstance(e.code, int) else 2


def fail(sentence: str) -> int:
    print(f"fromnoise: {sentence}", file=sys.stderr)
    return 2


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
    return ("fromnoise trains, samples and measures generative models that start from noise.\n\n"
            f"usage: fromnoise COMMAND ...\n\n{lines}\n\n"
            "fromnoise COMMAND --help says more, and fromnoise train RECIPE --help lists every field of a recipe.\n"
            "To begin: fromnoise demo")
