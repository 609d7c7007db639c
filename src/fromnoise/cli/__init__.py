"""The command line: ``fromnoise COMMAND ...``.

Commands live in modules of their own and are imported when called, so that ``--help`` answers at once.
"""

from __future__ import annotations

import atexit
import errno
import gc
import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "demo": "train and show the default models in a couple of minutes",
    "train": "train a recipe into a run folder; the same command again goes on",
    "encode": "keep the latents of a recipe's data, for many runs to train on",
    "sample": "pictures from a trained run",
    "tune": "fit a fast solver to a trained run",
    "evaluate": "measure a trained run",
    "ema": "another average of a run's weights, from its snapshots",
    "export": "write a model in the layout of diffusers",
    "worlds": "record real environments, to train on what is seen and done",
    "play": "a world to play in the browser",
    "compare": "train variants of a recipe with several seeds, at equal size and work",
    "bench": "measure solvers on problems with an exact answer, or the pace of a dreamt world",
    "recipes": "list the named recipes",
    "presets": "published networks as settings of one trunk, and how they differ",
    "doctor": "what this machine has, and what is missing for what",
}

REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS,
           errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}  # by the disk, its owner, or what lies there


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code.

    0 all is well, 1 a bug, 2 a mistake the user can put right, 130 stopped by Ctrl-C.  With FROMNOISE_DEBUG
    set, a bug's exception is raised instead.
    """
    atexit.register(gc.freeze)  # memory goes with the process: looking for cycles in all of torch first takes a second
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        code = answer(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def answer(argv: list[str]) -> int:
    """What can be answered without loading anything; the rest goes to the command."""
    if (odd := next((a for a in argv if not is_text(a)), None)) is not None:
        return fail(f"The argument {odd!r} is not text in UTF-8: write it so, and rename a file that is called this.")
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help", "help"):
        print(usage())
        return 0
    if name in ("-V", "--version", "version"):
        from fromnoise import __version__

        print(f"fromnoise {__version__}")
        return 0
    if name not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f'Did you mean "{close[0]}"?' if close else f"The commands are: {', '.join(COMMANDS)}."
        return fail(f'There is no command "{name}". {hint}')
    return run(name, argv[1:])


def run(name: str, args: list[str]) -> int:
    """Call a command's module, turning what the user can put right into one sentence."""
    import importlib

    from fromnoise.types import UserError

    try:
        return importlib.import_module(f"fromnoise.cli.{name}").main(args)
    except UserError as e:
        return fail(str(e))
    except KeyboardInterrupt as e:
        print(str(e) or "Stopped.", file=sys.stderr)
        return 130
    except SystemExit as e:  # after --help
        return e.code if isinstance(e.code, int) else 0
    except BrokenPipeError:
        raise
    except Exception as e:
        if isinstance(e, OSError) and e.errno in REFUSED:
            return fail(f"Could not read or write {e.filename or 'a file'}: {e.strerror}.")
        if is_out_of_memory(e):
            return fail("There is not enough memory for this: try a smaller size, batch or number of samples, or "
                        "of a long clip fewer frames at once (--overlap).")
        if os.environ.get("FROMNOISE_DEBUG"):
            raise
        return report_bug(e, [name, *args])


def is_text(argument: str) -> bool:
    """Whether an argument was UTF-8; bytes that are not come from the shell as lone surrogates."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def fail(sentence: str) -> int:
    """The exit code of a mistake, after saying what it was."""
    print(f"fromnoise: {sentence}", file=sys.stderr)
    return 2


def is_out_of_memory(error: Exception) -> bool:
    """Python's own error, the GPU allocator's, or the CPU allocator's, which is a plain RuntimeError."""
    return (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
            or (isinstance(error, RuntimeError) and "allocate memory" in str(error)))


def report_bug(error: Exception, argv: list[str]) -> int:
    """Keep the traceback in a file and say where it is."""
    import shlex
    import tempfile
    import traceback

    from fromnoise import __version__

    with tempfile.NamedTemporaryFile("w", prefix="fromnoise-bug-", suffix=".txt", delete=False, encoding="utf-8",
                                     errors="backslashreplace") as file:
        file.write(f"fromnoise {__version__}, Python {sys.version}\nfromnoise {shlex.join(argv)}\n\n")
        file.write("".join(traceback.format_exception(error)))
    what = f"{type(error).__name__}: {error}".splitlines()[0].encode(errors="backslashreplace").decode()
    print(f"fromnoise: This is a bug of fromnoise, not your mistake ({what}). Please report it with {file.name} "
          "(FROMNOISE_DEBUG=1 shows the traceback at once).", file=sys.stderr)
    return 1


def usage() -> str:
    """The help of the command line as a whole."""
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
    return ("fromnoise trains, samples and measures generative models that start from noise.\n\n"
            f"usage: fromnoise COMMAND ...\n\n{lines}\n\n"
            "fromnoise COMMAND --help says more; fromnoise train RECIPE --help lists every field of a recipe.\n"
            "To begin: fromnoise demo")
