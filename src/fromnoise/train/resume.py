"""Going on with a stopped run: what its folder must hold, what may be changed on the way, and what is said of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fromnoise.nets.trunk.house import is_older
from fromnoise.recipe import AnyRecipe, differences, load_recipe, read_recipe
from fromnoise.system import NET
from fromnoise.train.checkpoint import Checkpoint
from fromnoise.types import UserError

# Fields that may be changed on the way: after losses that were not finite, or to train for longer.
ADJUSTABLE = ("train.steps", "train.optimizer.lr", "train.optimizer.muon_lr", "train.optimizer.clip",
              "train.optimizer.warmup", "train.optimizer.cooldown", "train.optimizer.decay_after")


def check_folder(recipe: AnyRecipe, out: Path, found: Checkpoint | None) -> None:
    """UserError for a run folder that cannot be gone on with from ``found``, its newest whole checkpoint."""
    if found is not None and ("tokenizer" not in found.state or is_older(found.tensors["weights"], NET)):
        raise UserError(f"The checkpoints in {out} were written by an earlier fromnoise, which this one cannot go "
                        f"on from: choose another folder with --out, or delete {out} to start again.")
    if found is not None and found.step > recipe.train.steps:
        raise UserError(f"{out} has been trained for {found.step} steps already, which is more than train.steps "
                        f"{recipe.train.steps}: ask for more, or choose another --out.")
    if found is None and (out / "model.safetensors").exists() and not (out / "checkpoints").exists():
        raise UserError(f"{out} holds a model and no checkpoints to go on from: choose another folder with --out, "
                        f"or delete {out} to start again.")


def changed_on_the_way(recipe: AnyRecipe, out: Path, found: Checkpoint | None) -> str:
    """The fields in which the recipe differs from that which the folder was trained with, in words.

    UserError where something else differs that the weights depend on.
    """
    path = out / "recipe.json"
    if path.exists():
        before = load_recipe(path)
    elif found is not None:
        before = read_recipe(found.state["recipe"], str(out / "checkpoints"))
    else:
        return ""
    changed = differences(before, recipe)
    if changed.keys() == {"text.sha256"}:
        raise UserError(f"The text encoder in {recipe.text.folder} is not the one that {out} was trained with: its "  # type: ignore[union-attr]
                        "files have changed. Put them back, or choose another folder with --out.")
    words = ", ".join(f"{field} {old} -> {new}" for field, (old, new) in changed.items())
    if not changed.keys() <= set(ADJUSTABLE):
        raise UserError(f"{out} was trained with another recipe ({words}): choose another folder with --out, "
                        f"or delete {out} to start again.")
    return words


def data_state(examples: int, captions: list[str]) -> dict:
    """What tells whether the data are those that the run began with."""
    digest = hashlib.sha256("\0".join(captions).encode("utf-8", "surrogatepass")).hexdigest()
    return {"examples": examples, "captions": digest}


def resume_remarks(recipe: AnyRecipe, out: Path, found: Checkpoint, changed: str, data: dict) -> list[str]:
    """What to say when a run goes on; ``changed``: fields changed on the way; ``data``: the data's state now."""
    said = [f"Going on from step {found.step} of {recipe.train.steps} in {out}."]
    if changed:
        said.append(f"Changed on the way: {changed}. The run no longer equals one that had this from the start.")
    if (before := found.state["data"]) != data:
        other = "" if before["examples"] != data["examples"] else ", with other captions"
        said.append(f"The data have changed since this run began: {before['examples']} examples then, "
                    f"{data['examples']} now{other}. What follows is learned from those of now.")
    return said
