"""The autoencoder of a latent diffusion run: its weights, kept once in the run folder.

They are read from where they were trained when a run starts, and from ``autoencoder.safetensors`` ever after, so that
checkpoints need not hold them and the other folder may go.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fromnoise.files import disk_errors, replacing
from fromnoise.latents.pictures import MOVING
from fromnoise.recipe import Recipe
from fromnoise.system import Built
from fromnoise.types import UserError
from fromnoise.weights import digest

NAME = "autoencoder.safetensors"
Weights = dict[str, Tensor]


def fill_autoencoder(system: Built, out: Path, read: Callable[[], Weights] | None) -> None:
    """Give the system the weights of its recipe's autoencoder: those that the run keeps, or else what is ``read``.

    UserError where there are none, or others than the recipe was made with.
    """
    recipe = system.recipe
    if not recipe.latent:
        return
    tensors = kept(recipe, out)
    if tensors is None:
        if read is None or not recipe.encoding.sha256:
            raise UserError(f"Latents of kind {recipe.latents.kind} need a trained autoencoder: name its folder with "
                            "--latents.")
        tensors = read()
        if digest(tensors, {}) != recipe.encoding.sha256:
            raise UserError(f"The autoencoder in {recipe.encoding.source} is not the one that the recipe was made "
                            "with: name it anew with --latents.")
    try:
        system.latents.load_state_dict(statistics(system) | tensors)
    except RuntimeError as e:
        raise UserError(f"The autoencoder in {recipe.encoding.source} does not fit the latents of the recipe "
                        f"({' '.join(str(e).split())[:200]}): leave its fields as --latents sets them.") from None


def kept(recipe: Recipe, out: Path) -> Weights | None:
    """The weights in the run folder; None where they are not there, damaged or of another autoencoder."""
    try:
        tensors = load_file(out / NAME)
    except (OSError, SafetensorError):
        return None
    return tensors if digest(tensors, {}) == recipe.encoding.sha256 else None


def keep(system: Built, out: Path) -> None:
    """Write the weights into the run folder, where it does not have them yet."""
    if not system.recipe.latent or kept(system.recipe, out) is not None:
        return
    weights = {name: t for name, t in system.latents.state_dict().items() if name not in statistics(system)}
    with disk_errors(out / NAME), replacing(out / NAME) as temporary:
        save_file({name: t.cpu().contiguous() for name, t in weights.items()}, temporary)


def statistics(system: Built) -> Weights:
    """What the state of the autoencoder has beside its weights: the statistics of its latents, where they move."""
    return {name: t for name, t in system.latents.state_dict().items() if name in MOVING}
