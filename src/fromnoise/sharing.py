"""A run as a small folder to hand on: what makes the model again, and how it came to be."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fromnoise.data.episodes import Episodes
from fromnoise.files import disk_errors, write_text
from fromnoise.recipe import load_recipe
from fromnoise.showing.facts import read_training_facts
from fromnoise.system import run_recipe
from fromnoise.train.metrics import read_metrics
from fromnoise.types import UserError
from fromnoise.weights import NAME, load_weights, save_weights
from fromnoise.worlds import beginnings

BESIDE = ("README.md", "evaluation.json")  # copied as they are
MADE = "made.json"
HALF = torch.finfo(torch.float16)


def share(run: str | Path, folder: str | Path) -> list[str]:
    """Write ``run`` to a new ``folder``: its recipe, its weights in half the room, and the real beginnings of a world.

    Returns sentences on what stands there.  UserError for a folder that is not empty, and for a run without weights.
    """
    run, folder = Path(run), Path(folder)
    recipe = load_recipe(run_recipe(run))
    tensors, tokenizer, step, words = load_weights(run)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: name a new folder to export to.")
    moments = None
    if recipe.kind == "diffusion" and isinstance(recipe.data, Episodes) and recipe.data.frames > 1:
        moments = beginnings.of_run(run, recipe.data)
    with disk_errors(folder), whole(folder) as made:
        for name in ("recipe.json", *(name for name in BESIDE if (run / name).is_file())):
            shutil.copyfile(run / name, made / name)
        save_weights(made, {name: halved(tensor) for name, tensor in tensors.items()}, tokenizer, step, words)
        if moments is not None:
            moments.save(made)
        write_text(made / MADE, json.dumps(how(run, made, step), indent=2) + "\n")
    size = (folder / NAME).stat().st_size
    began = f" and {len(moments)} real beginnings" if moments is not None else ""
    return [f"{folder} holds the recipe, the weights in float16 ({size / 1e6:.1f} MB){began}: fromnoise opens it as "
            f"the run itself. {MADE} says how they were made."]


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder``, which becomes it at the end; nothing is left where writing fails."""
    made = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(made, ignore_errors=True)
    try:
        made.mkdir(parents=True)
        yield made
        if folder.exists():
            folder.rmdir()  # it is empty
        made.rename(folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def halved(tensor: Tensor) -> Tensor:
    """A matrix in float16, right to three digits; vectors, and what float16 cannot hold, as they are."""
    fits = tensor.is_floating_point() and tensor.ndim > 1 and bool((tensor.abs() <= HALF.max).all())
    return tensor.half() if fits else tensor


def how(run: Path, folder: Path, step: int) -> dict[str, Any]:
    """The command, the work and the machine that made the weights, and the hash of their file."""
    facts = read_training_facts(run)
    worked = [line["core_seconds"] for line in read_metrics(run / "metrics.jsonl") if "core_seconds" in line]
    work = {"core_seconds": round(worked[-1])} if worked else {}
    known = {name: facts[name] for name in ("command", "machine", "software") if name in facts}
    return {**known, "steps": step, **work, "sha256": hashlib.sha256((folder / NAME).read_bytes()).hexdigest()}
