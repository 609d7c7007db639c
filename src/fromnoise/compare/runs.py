"""Many runs, a few at a time, each in a process of its own; what is done already is not done again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fromnoise.config import to_dict
from fromnoise.evaluate import Report
from fromnoise.recipe import AnyRecipe, load_recipe
from fromnoise.train.start import with_start
from fromnoise.types import UserError
from fromnoise.workflow import read_report

LAST = 3  # lines of a failed run's log that are told


@dataclass(frozen=True)
class Job:
    """One run of a comparison: the recipe of a variant with one seed, and its folder."""

    variant: str
    recipe: AnyRecipe
    out: Path

    def report(self) -> Report | None:
        """What the finished run measured; None while it is not finished.

        UserError where the folder holds a run of another recipe.
        """
        path = self.out / "recipe.json"
        if not path.exists():
            return None
        if to_dict(load_recipe(path)) != to_dict(with_start(self.recipe.resolved(), self.out)):
            raise UserError(f"{self.out} holds a run of another recipe: choose another folder with --out, or delete "
                            f"{self.out}.")
        report = read_report(self.out)
        done = report is not None and report.settings.get("trained_steps") == self.recipe.train.steps
        return report if done else None


def run_jobs(jobs: Sequence[Job], at_once: int, tell: Callable[[Job, str], None]) -> list[Job]:
    """Train and evaluate all that is not done, ``at_once`` at a time; returns those that failed.

    ``tell`` is called when a run starts, ends ("done") or fails, in other words then.  When it is stopped, so are
    the runs, which have saved their state.
    """
    left = [job for job in jobs if job.report() is None]
    running: dict[int, subprocess.Popen] = {}
    stopped = threading.Event()
    failed: list[Job] = []

    def one(job: Job) -> None:
        if stopped.is_set():
            return
        tell(job, "started")
        process = start(job)
        running[id(job)] = process
        code = process.wait()
        running.pop(id(job))
        if code and not stopped.is_set():
            failed.append(job)
        tell(job, f"failed: {last_words(job)}" if code else "done")

    with terminable(), ThreadPoolExecutor(at_once) as pool:
        waiting = [pool.submit(one, job) for job in left]
        try:
            for each in waiting:
                each.result()
        except BaseException:
            stopped.set()
            for process in list(running.values()):
                process.terminate()
            raise
    return failed


@contextmanager
def terminable():
    """SIGTERM does as Ctrl-C does, so that no run is left behind.  Only the main thread is told of signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def start(job: Job) -> subprocess.Popen:
    """``fromnoise train`` of the job's recipe, its words in ``log.txt`` beside the run."""
    job.out.mkdir(parents=True, exist_ok=True)
    recipe = job.out.with_suffix(".json")
    job.recipe.save(recipe)
    with (job.out.with_suffix(".log")).open("w") as log:
        return subprocess.Popen([sys.executable, "-m", "fromnoise", "train", str(recipe), "--out", str(job.out)],
                                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                env=os.environ | {"OMP_NUM_THREADS": "1"})


def last_words(job: Job) -> str:
    """How a failed run ended."""
    lines = job.out.with_suffix(".log").read_text(errors="replace").split("\n")
    said = [line for line in lines if line.strip()]
    begun = [i for i, line in enumerate(said) if line.startswith("fromnoise: ")]  # a refusal, wrapped or not
    return " ".join(said[begun[-1] :] if begun else said[-LAST:]) or "it said nothing"
