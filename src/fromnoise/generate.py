"""The one front door to a trained model: encode the prompt, sample, decode."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

import fromnoise
from fromnoise.denoise import Denoise, classifier_free
from fromnoise.files import disk_errors, replacing
from fromnoise.media import enlargement, grid, to_pil, to_uint8
from fromnoise.random import sample_noise
from fromnoise.recipe import Recipe, load_recipe, recipe_dict
from fromnoise.sample import Callback, SolveInfo, solve
from fromnoise.system import System, autocast, resolve_device
from fromnoise.types import Condition, UserError
from fromnoise.weights import load_weights

PNG_KEY = "fromnoise"


@dataclass(frozen=True)
class Settings:
    """All that a picture depends on besides the weights; saved inside its PNG."""

    prompts: list[str]
    steps: int
    guidance: float
    solver: str
    seed: int
    size: tuple[int, int]
    negative: str = ""
    first: int = 0


@dataclass(frozen=True)
class Output:
    """Samples and how they were made.

    media: ``[B, 1, C, H, W]`` in [-1, 1];  settings: what makes them again;  notes: sentences the user
    should read, such as how a long prompt was cut.
    """

    media: Tensor = field(repr=False)
    settings: Settings
    info: SolveInfo = field(repr=False)
    recipe: Recipe = field(repr=False)
    run: str = ""
    notes: tuple[str, ...] = ()

    def images(self) -> list[Image.Image]:
        """The samples as PIL images, at their own size."""
        return [to_pil(frame) for frame in to_uint8(self.media[:, 0])]

    def save(self, path: str | Path, enlarge: int | None = None, columns: int | None = None) -> Path:
        """One PNG: a single sample, or a grid of them, enlarged by whole pixels to be seen well.

        The file carries prompts, seed, settings and recipe, from which ``fromnoise sample --like`` makes
        it again.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise UserError(f"Samples are saved as .png, which keeps them exact (got {path.name}).")
        factor = enlarge or enlargement(self.media.shape[-2])
        sheet = grid(self.media, columns, factor)
        header = PngImagePlugin.PngInfo()
        header.add_itxt(PNG_KEY, json.dumps({
            "fromnoise": fromnoise.__version__, "run": self.run, "settings": asdict(self.settings),
            "recipe": recipe_dict(self.recipe)}, ensure_ascii=False))
        with disk_errors(path), replacing(path) as temporary:
            sheet.save(temporary, format="PNG", pnginfo=header)
        return path


class Model:
    """A system ready to sample."""

    def __init__(self, system: System, run: str = "", step: int = 0):
        self.system, self.run, self.step = system.eval(), run, step
        self.recipe = system.recipe

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.system.parameters())

    @torch.no_grad()
    def sample(self, prompts: str | Sequence[str], *, steps: int | None = None, guidance: float | None = None,
               solver: str | None = None, size: tuple[int, int] | None = None, seed: int = 0,
               negative: str = "", noise: Tensor | None = None, first: int = 0,
               callback: Callback | None = None, batch: int = 256) -> Output:
        """A sample for every prompt.

        steps, guidance, solver, size (height, width): as in the recipe unless given;  negative: what to
        steer away from, with guidance other than 1;  noise: the starting noise ``[B, T, C, h, w]``, instead
        of seed;  first: the index of the first sample, which with the seed fixes its noise;  callback: called
        after each solver step with a ``Progress`` (of each batch of at most ``batch``).

        Sample i depends on (seed, first + i), its prompt and the settings alone: a batch of 16 and sixteen
        batches of one agree to float32 rounding.  Raises UserError for settings that cannot be.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        settings = self.settings(prompts, steps, guidance, solver, size, seed, negative, first)
        noise = self.check_noise(noise, settings)
        parts, info = [], None
        for i in range(0, len(prompts), batch):
            part = replace(settings, prompts=prompts[i : i + batch], first=first + i)
            latents, info = self._solve(part, None if noise is None else noise[i : i + batch], callback)
            parts.append(self.system.latents.decode(latents).float().clamp(-1, 1).cpu())
        assert info is not None
        texts = dict.fromkeys([*prompts, negative])
        notes = tuple(note for text in texts if (note := self.system.text.cut(text)))
        return Output(torch.cat(parts), settings, info, self.recipe, self.run, notes)

    def settings(self, prompts: list[str], steps: int | None, guidance: float | None, solver: str | None,
                 size: tuple[int, int] | None, seed: int, negative: str, first: int) -> Settings:
        """The recipe's settings with the caller's in their place, checked."""
        default = self.recipe.sample
        if not prompts:
            raise UserError("There is nothing to sample: give at least one prompt (an empty one is allowed).")
        guidance = default.guidance if guidance is None else guidance
        if not math.isfinite(guidance) or guidance < 0:
            raise UserError(f"Guidance must be 0 or more (got {guidance}).")
        if not 0 <= seed < 2**63:
            raise UserError(f"The seed must be a whole number from 0 to 2^63 - 1 (got {seed}).")
        height, width = size or (self.recipe.data.height, self.recipe.data.width)
        self.system.latent_size(height, width)
        return Settings(prompts, default.steps if steps is None else steps, guidance, solver or default.solver,
                        seed, (height, width), negative, first)

    def check_noise(self, noise: Tensor | None, settings: Settings) -> Tensor | None:
        """The caller's starting noise, if it has the right shape."""
        if noise is not None and tuple(noise.shape) != (want := self.noise_shape(settings)):
            raise UserError(f"The noise has shape {tuple(noise.shape)}, but {want} is needed.")
        return noise

    def noise_shape(self, settings: Settings) -> tuple[int, ...]:
        h, w = self.system.latent_size(*settings.size)
        return (len(settings.prompts), self.recipe.data.frames, self.system.latents.channels, h, w)

    def _solve(self, settings: Settings, noise: Tensor | None, callback: Callback | None):
        """Latents of one batch, and how the solver went."""
        device = self.system.device
        if noise is None:
            noise = self._noise(settings)
        condition = self.encode(settings.prompts)
        guided: Denoise = self.system.denoiser
        if settings.guidance != 1:
            null = self.encode([settings.negative] * len(settings.prompts))
            guided = classifier_free(guided, null, settings.guidance)
        with autocast(device, self.recipe.train.precision):
            return solve(lambda x, t: guided(x, t, condition).float(), noise.to(device), path=self.recipe.path,
                         solver=settings.solver, steps=settings.steps, shift=self.recipe.sample.shift,
                         callback=callback, return_info=True)

    def _noise(self, settings: Settings) -> Tensor:
        return sample_noise(self.noise_shape(settings), settings.seed, settings.first)

    def starting_noise(self, prompts: Sequence[str], seed: int = 0, size: tuple[int, int] | None = None) -> Tensor:
        """The noise ``[B, T, C, h, w]`` that ``sample`` starts from for these prompts and this seed."""
        return self._noise(self.settings(list(prompts), None, None, None, size, seed, "", 0))

    def encode(self, prompts: list[str]) -> Condition:
        return self.system.text.encode(prompts)


def load(run: str | Path, device: str = "auto") -> Model:
    """The model of a run folder: ``recipe.json`` and ``model.safetensors`` alone rebuild it.

    UserError for a folder that is missing, has no weights, is damaged or comes from a newer version.
    """
    run = Path(run)
    if not (run / "recipe.json").is_file():
        raise UserError(f"{run} is not a run folder (it has no recipe.json): give the folder that "
                        "`fromnoise train` wrote.")
    recipe = load_recipe(run / "recipe.json")
    tensors, tokenizer, step = load_weights(run)
    system = System(recipe, recipe.text.load_tokenizer(tokenizer))
    if wrong := mismatch({k: v.shape for k, v in system.state_dict().items()}, tensors):
        raise UserError(f"The weights in {run} do not belong to its recipe: {wrong}.")
    system.load_state_dict(tensors)
    return Model(system.to(resolve_device(device)), str(run), step)


def mismatch(expected: dict[str, torch.Size], tensors: dict[str, Tensor]) -> str:
    """What is first wrong between the weights a recipe calls for and those of a file, or an empty string."""
    for name, shape in expected.items():
        if name not in tensors:
            return f"{name} is missing"
        if tensors[name].shape != shape:
            return f"{name} has shape {tuple(tensors[name].shape)} instead of {tuple(shape)}"
    return next((f"{name} has no place in it" for name in tensors if name not in expected), "")


def read_picture(path: str | Path) -> dict[str, Any]:
    """What a PNG saved by fromnoise says of itself: run, settings and recipe.  UserError if it says nothing."""
    try:
        with Image.open(path) as image:
            text = getattr(image, "text", {}).get(PNG_KEY)
    except FileNotFoundError:
        raise UserError(f"There is no picture {path}.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise UserError(f"{path} is not a PNG that can be read.") from None
    try:
        found = json.loads(text or "")
        settings = Settings(**found["settings"])
        return {**found, "settings": replace(settings, size=tuple(settings.size))}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} does not say how it was made: it was not saved by fromnoise, or its "
                        "metadata was removed.") from None
