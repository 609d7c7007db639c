"""The front door to a trained autoencoder: pictures and films to latents, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fromnoise.config import from_dict, read_json, to_dict
from fromnoise.latents import Pixels
from fromnoise.latents.coding import noise_shape
from fromnoise.latents.pictures import settled
from fromnoise.recipe import Coder, Latents
from fromnoise.system import Coding, autocast, load_system
from fromnoise.types import UserError
from fromnoise.weights import load_weights


class Codec:
    """An autoencoder ready to use.  Media are ``[B, T, C, H, W]`` in [-1, 1], and so is what comes back."""

    def __init__(self, system: Coding, run: str = "", step: int = 0):
        self.system, self.run, self.step = system.eval(), run, step
        self.recipe: Coder = system.recipe

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.system.parameters())

    @torch.no_grad()
    def encode(self, media: Tensor, batch: int = 64) -> Tensor:
        """Normalised latents ``[B, t, c, h, w]``.

        batch: frames at a time, and always one film.  UserError for media whose sides, channels or number of frames the
        autoencoder does not take.
        """
        self._check(media)
        return self._map(self.system.latents.encode, media, batch)

    @torch.no_grad()
    def decode(self, latents: Tensor, batch: int = 64) -> Tensor:
        """The media of normalised latents."""
        return self._map(self.system.latents.decode, latents, batch).clamp(-1, 1)

    def reconstruct(self, media: Tensor, batch: int = 64) -> Tensor:
        """The media after they went through the latents."""
        return self.decode(self.encode(media, batch), batch)

    @torch.no_grad()
    def codes(self, media: Tensor, batch: int = 64) -> Tensor | None:
        """Which entry of the codebook stands at each place, ``[B, t, h, w]``; None where latents are continuous."""
        latents = self.system.latents
        if not latents.codebook:
            return None
        self._check(media)
        batch = max(1, batch // media.shape[1])
        still = torch.zeros(batch, *noise_shape(latents, media)[1:])
        found = [latents.code(part.to(self.system.device), still[: len(part)].to(self.system.device)).codes
                 for part in media.split(batch)]
        return torch.cat([part.cpu() for part in found])

    def trial(self) -> None:
        """A little of its work, by which threads are measured."""
        data = self.recipe.data
        self.reconstruct(torch.zeros(max(1, 16 // data.frames), data.frames, data.channels, data.height, data.width))

    def _check(self, media: Tensor) -> None:
        channels = self.recipe.data.channels
        if media.ndim != 5 or media.shape[2] != channels:
            raise UserError(f"The autoencoder takes pictures [B, T, {channels}, H, W]; these are {list(media.shape)}.")
        self.system.latent_size(*media.shape[-2:])
        self.system.latents.latent_frames(media.shape[1])

    def _map(self, f, x: Tensor, batch: int) -> Tensor:
        batch = max(1, batch // x.shape[1])
        with autocast(self.system.device, self.recipe.train.precision):
            return torch.cat([f(part.to(self.system.device)).float().cpu() for part in x.split(batch)])


def load(run: str | Path, device: str = "auto") -> Codec:
    """The autoencoder of a run folder.  UserError where there is none, or it is damaged."""
    system, step, _ = load_system(run, device)
    if not isinstance(system, Coding):
        raise UserError(f"{run} is a run of kind {system.recipe.kind}, and this asks for an autoencoder: name another "
                        "run.")
    return Codec(system, str(run), step)


def autoencoder_of_run(folder: Path) -> tuple[Any, dict[str, Tensor]]:
    """That of a run: an autoencoder's own with the statistics of its latents, or a latent diffusion model's."""
    path = folder / "recipe.json"
    recipe = read_json(path)
    latents = recipe.get("latents") if isinstance(recipe, dict) else None
    spec: Any = from_dict(Latents, latents, f"{path}: latents")  # type: ignore[arg-type]
    if isinstance(spec, Pixels):
        raise UserError(f"{folder} holds no autoencoder: its model works on pixels.")
    start = "latents."
    tensors = {name.removeprefix(start): t for name, t in load_weights(folder)[0].items() if name.startswith(start)}
    if (folder / "statistics.json").is_file():
        spec = normalised(spec, folder / "statistics.json")
    return settled(spec, tensors)


def normalised(spec: Any, path: Path) -> Any:
    """The spec with latents of mean 0 and standard deviation 1 a channel, by what was measured of its latents."""
    found = read_json(path)
    try:
        means, stds = found["mean"], found["std"]
        old_means, old_stds = (list(old) * (len(means) if len(old) == 1 else 1) for old in (spec.mean, spec.std))
        mean = [m0 + s0 * m for m0, s0, m in zip(old_means, old_stds, means, strict=True)]
        std = [s0 * s for s0, s in zip(old_stds, stds, strict=True)]
    except (KeyError, TypeError, ValueError):
        raise UserError(f'{path} must hold "mean" and "std", a number for each channel of the latents.') from None
    return from_dict(type(spec), to_dict(spec) | {"mean": mean, "std": std}, str(path))
