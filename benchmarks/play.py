"""How often a played world is drawn: headless Chromium at the page of `fromnoise play`, keys held in turn.

    python benchmarks/play.py [RUN] [--size 64] [--width 192] [--depth 6] [--steps 2] [--fps 60] [--seconds 20] [-- ...]

Without a run an untrained world of those sizes is made: what a frame takes does not depend on what was learned.
Server, browser and network share the machine, and the time between two drawn frames is the page's own.  What follows
after -- goes to `fromnoise play`, such as --commit last.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from fromnoise import load
from fromnoise.cli import main as fromnoise

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from browser import CHROMIUM, browser

SIZES = {"size": 64, "width": 192, "depth": 6}  # of an untrained world
KEYS = ("ArrowRight", "ArrowLeft")
HELD = 0.4  # seconds
WATCH = """window.drawn = [];
new MutationObserver(() => drawn.push(performance.now()))
    .observe(document.body, {attributes: true, attributeFilter: ["data-number"]})"""


def call(*words: str) -> None:
    """Our command line."""
    if code := fromnoise(list(words)):
        raise SystemExit(code)


def untrained(folder: Path, size: int, width: int, depth: int) -> Path:
    """A world of this size after one step of training."""
    data, run = folder / "data", folder / "world"
    call("worlds", "collect", "MinAtar/Breakout-v1", "--size", str(size), "--frames", "2000", "--out", str(data))
    call("train", "world", "--data", str(data), "--data.height", str(size), "--data.width", str(size), "--net.width",
         str(width), "--net.single", str(depth), "--train.steps", "1", "--evaluate.samples", "4", "--out", str(run))
    return run


@contextmanager
def playing(run: Path, fps: float, steps: int, more: list[str]) -> Iterator[str]:
    """The address of `fromnoise play`, in a process of its own."""
    command = [sys.executable, "-m", "fromnoise", "play", str(run), "--port", "0", "--no-browser", "--no-real", "--fps",
               str(fps), "--steps", str(steps), *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said = ""
        while not (address := re.search(r"http://\S+/", said)):
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                raise SystemExit(f"It ended: {said}")
            said += line
        yield address.group()
    finally:
        process.terminate()
        process.wait(20)


def intervals(address: str, seconds: float, folder: Path) -> np.ndarray:
    """Milliseconds between drawn frames."""
    with browser(folder) as tab:
        tab.ask("Page.navigate", url=address)
        tab.until("document.body?.dataset.number === '0'")
        tab.tap("KeyP")  # it begins
        tab.until("Number(document.body.dataset.number) > 30")
        tab.run(WATCH)
        end, turn = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            key, turn = KEYS[turn % len(KEYS)], turn + 1
            tab.key(key, "rawKeyDown")
            time.sleep(HELD)
            tab.key(key, "keyUp")
        return np.diff(np.array(tab.run("drawn")))


def main() -> None:
    words, more = sys.argv[1:], []
    if "--" in words:
        words, more = words[: words.index("--")], words[words.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--steps", type=int, default=2)
    for name in SIZES:
        parser.add_argument(f"--{name}", type=int)
    for name, value in (("fps", 60.0), ("seconds", 20.0)):
        parser.add_argument(f"--{name}", type=float, default=value)
    args = parser.parse_args(words)
    if CHROMIUM is None:
        raise SystemExit("There is no Chromium: install Debian's package chromium.")
    if args.run and not (args.run / "recipe.json").exists():
        raise SystemExit(f"{args.run} is no run.")
    sizes = {name: getattr(args, name) for name in SIZES}
    if args.run and any(sizes.values()):
        raise SystemExit("A run has its own sizes: leave out --size, --width and --depth, or the run.")
    with tempfile.TemporaryDirectory() as folder:
        run = args.run or untrained(Path(folder), **{name: sizes[name] or SIZES[name] for name in SIZES})
        count = load(run).parameters
        (Path(folder) / "browser").mkdir()
        with playing(run, args.fps, args.steps, more) as address:
            found = intervals(address, args.seconds, Path(folder) / "browser")
    table = Table("parameters", "frames", "median, ms", "95 %, ms", "slowest, ms")
    table.add_row(f"{count / 1e6:.2f} M", str(len(found)), *(f"{np.quantile(found, q):.1f}" for q in (0.5, 0.95, 1.0)))
    Console().print(table, "Goal: 50 and 66 ms at 64x64 and 5 M; stretch: 33 ms at 10 M.")


if __name__ == "__main__":
    main()
