"""The one front door to a trained model: encode the prompt, sample, decode."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

import fromnoise
from fromnoise.config import nearest
from fromnoise.denoise import Denoise, Guidance, SelfConditioned
from fromnoise.files import disk_errors, replacing
from fromnoise.media import enlargement, grid, to_pil, to_uint8
from fromnoise.random import sample_noise
from fromnoise.recipe import Recipe, load_diffusion, recipe_dict
from fromnoise.sample import SOLVERS, Callback, Procedure, SolveInfo, Solver, Tuned, solve, tune
from fromnoise.settings import Adapter, Noise, Settings, as_noise, checked
from fromnoise.system import System, autocast, check_threshold, load_system, run_recipe
from fromnoise.text import composed, emphasis, read_prompts, unseen
from fromnoise.types import Condition, UserError

PNG_KEY = "fromnoise"
TUNING = 2**40  # index of the first sample that solvers are tuned on, far from those that people look at

# ---- samples --------------------------------------------------------------------------------------------


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
        it again, unless they were made from noise that the caller gave.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise UserError(f"Samples are saved as .png, which keeps them exact (got {path.name}).")
        factor = enlargement(self.media.shape[-2]) if enlarge is None else checked("enlarge", enlarge)
        sheet = grid(self.media, None if columns is None else checked("columns", columns), factor)
        header = PngImagePlugin.PngInfo()
        header.add_itxt(PNG_KEY, json.dumps({
            "fromnoise": fromnoise.__version__, "run": self.run, "settings": asdict(self.settings),
            "recipe": recipe_dict(self.recipe)}, ensure_ascii=False))
        with disk_errors(path), replacing(path) as temporary:
            sheet.save(temporary, format="PNG", pnginfo=header)
        return path


class Model:
    """A system ready to sample."""

    def __init__(self, system: System, run: str = "", step: int = 0, words: Sequence[str] = ()):
        self.system, self.run, self.step, self.words = system.eval(), run, step, frozenset(words)
        self._guides: dict[str, Model] = {}
        self.recipe = system.recipe

    @property
    def loras(self) -> list[Adapter]:
        """The LoRAs that its weights hold now."""
        return []

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.system.parameters())

    @torch.no_grad()
    def sample(self, prompts: str | Sequence[str], *, steps: int | None = None,
               guidance: float | Guidance | None = None, solver: str | None = None,
               size: tuple[int, int] | None = None, seed: int = 0, negative: str = "", compose: bool = False,
               weighted: bool = False, long: bool = False,
               noise: Noise | None = None, first: int = 0, callback: Callback | None = None,
               batch: int = 256) -> Output:
        """A sample for every prompt.

        steps, guidance, solver, size (height, width): as in the recipe unless given;  solver: a name of ``SOLVERS``,
        or of one that was tuned for this run, which has its own number of steps;  guidance: the scale, with
        the rest as in the recipe, or a ``Guidance`` with its schedule, method and threshold;  negative: what to steer
        away from, with guidance other than 1;  compose: whether AND and NOT in a prompt join and exclude what stands
        on their sides (``fromnoise.text.composed``);  weighted: whether brackets in a prompt weigh words
        (``fromnoise.text.emphasis``);  long: whether a prompt that is too long is read in windows;  noise: the
        starting noise ``[B, T, C, h, w]``, instead of seed, as any array of numbers;  first: the index of the first
        sample, which with the seed fixes its noise;  callback: called after each solver step with a ``Progress`` (of
        each batch of at most ``batch``).

        Sample i depends on (seed, first + i), its prompt and the settings alone: 16 samples of one call and 16
        calls for one sample with first=0, 1, ... agree to float32 rounding.  Raises UserError for settings that
        cannot be.
        """
        batch = checked("batch", batch)
        settings = self.settings(prompts, steps=steps, guidance=guidance, solver=solver, size=size, seed=seed,
                                 negative=negative, compose=compose, weighted=weighted, long=long, first=first,
                                 given_noise=noise is not None)
        start = None if noise is None else as_noise(noise, self.noise_shape(settings))
        parts, info = [], None
        for i in range(0, len(settings.prompts), batch):
            part = replace(settings, prompts=settings.prompts[i : i + batch], first=settings.first + i)
            latents, info = self._solve(part, None if start is None else start[i : i + batch], callback)
            parts.append(self._decode(latents).float().clamp(-1, 1).cpu())
        assert info is not None
        texts = dict.fromkeys([*self._texts(settings), settings.negative])
        if settings.weighted:
            texts = dict.fromkeys(emphasis(text)[0] for text in texts)
        notes = [None if long else self.system.text.cut(text) for text in texts]
        notes += [unseen(texts, self.words), self._tuned_at(settings)]
        return Output(torch.cat(parts), settings, info, self.recipe, self.run, tuple(filter(None, notes)))

    def settings(self, prompts: str | Sequence[str], **given: Any) -> Settings:
        """The recipe's settings with the caller's in their place, checked."""
        default, data = self.recipe.sample, self.recipe.data
        usual = {"steps": default.steps, "guidance": default.guidance, "solver": default.solver,
                 "size": (data.height, data.width)}
        solver = self.solver(given.get("solver") or default.solver)
        if isinstance(solver, Tuned):
            usual["steps"] = solver.nfe
        if isinstance(solver, Procedure) and given.get("steps") is not None:
            raise UserError(f"{given.get('solver') or default.solver} chooses its own steps: leave them out.")
        chosen = {name: usual.get(name) if value is None else value for name, value in (usual | given).items()}
        if not isinstance(chosen["guidance"], Guidance):
            chosen["guidance"] = replace(default.guidance, scale=checked("guidance", chosen["guidance"]).scale)
        chosen["prompts"] = [prompts] if isinstance(prompts, str) else prompts
        chosen["loras"] = self.loras
        settings = Settings(**{name: checked(name, value) for name, value in chosen.items()})
        self.system.latent_size(*settings.size)
        check_threshold(self.recipe, settings.guidance)
        if isinstance(solver, Tuned) and settings.steps != solver.nfe:
            raise UserError(f"The solver {settings.solver} takes {solver.nfe} steps and no other number "
                            f"(got {settings.steps}).")
        return settings

    def solver(self, name: str) -> Solver | str:
        """The solver of a name: "auto", one of ``SOLVERS``, or one tuned for this run.  UserError for another."""
        name = checked("solver", name)
        if name == "auto":
            return name
        if name == "picard":
            raise UserError("picard asks for many times at once, which a prompt's batch does not fit: use it in "
                            "Python, with fromnoise.sample.solve.")
        if name in SOLVERS:
            return SOLVERS[name]
        own = self.tuned_solvers()
        if name in own:
            return Tuned.load(own[name])
        there = f"Tuned for this run: {', '.join(sorted(own))}." if own else "None was tuned for this run."
        raise UserError(f'There is no solver "{name}". {nearest(name, ["auto", *SOLVERS, *own])} {there}')

    def tuned_solvers(self) -> dict[str, Path]:
        """The files of the solvers that were tuned for this run, by name."""
        return {path.stem: path for path in (Path(self.run) / "solvers").glob("*.json")} if self.run else {}

    def _tuned_at(self, settings: Settings) -> str:
        """What to say where a tuned solver is used at another guidance than it was tuned for."""
        solver = self.solver(settings.solver)
        if not isinstance(solver, Tuned) or solver.guidance in (None, settings.guidance.scale):
            return ""
        return f"{settings.solver} was tuned at guidance {solver.guidance:g}, for which alone it is known to be good."

    def tune(self, nfe: int, *, guidance: float | None = None, samples: int = 192, seed: int = 0, batch: int = 32,
             teacher: int = 60, **choices: Any) -> Tuned:
        """A solver of ``nfe`` steps fitted to this model on its own paths, on prompts of its data; see ``sample.tune``.

        guidance: the scale, as in the recipe unless given;  samples: paths, a quarter of them to judge on;  choices:
        those of ``sample.tune`` (seconds, steps, teleport, weights, progress, ...).
        """
        usual = self.recipe.sample.guidance
        choice = usual if guidance is None else replace(usual, scale=checked("guidance", guidance).scale)
        if choice.guide is not None or getattr(choice.method, "momentum", 0):
            raise UserError("A solver is tuned on questions in any order, which guidance with momentum or by another "
                            "run does not allow: set sample.guidance otherwise in the recipe.")
        if self.recipe.train.self_conditioning:
            raise UserError("A solver is tuned on questions in any order, and this model is told its own last answer "
                            "(train.self_conditioning): it cannot be tuned.")
        prompts = list(self.recipe.data.open("test").prompts()) or [""]
        settings = self.settings([prompts[i % len(prompts)] for i in range(samples)], guidance=choice, seed=seed,
                                 first=TUNING)
        with torch.no_grad():
            condition, null = self.encode(settings.prompts, settings), self.encode([""], settings, negative=True)

        def denoise(x: Tensor, t: Tensor, rows: Condition) -> Tensor:
            nulls = null.map(lambda value: value.expand(len(x), *value.shape[1:]))
            return choice.of(self.system.denoiser, nulls, self.recipe.path)(x, t, rows).float()

        with autocast(self.system.device, self.recipe.train.precision):
            return tune(denoise, self.recipe.path, nfe=nfe, noise=self._noise(settings).to(self.system.device),
                        condition=condition, batch=batch, teacher=teacher, seed=seed, guidance=choice.scale, **choices)

    def noise_shape(self, settings: Settings) -> tuple[int, ...]:
        h, w = self.system.latent_size(*settings.size)
        return (len(settings.prompts), self.recipe.data.frames, self.system.latents.channels, h, w)

    def _solve(self, settings: Settings, noise: Tensor | None, callback: Callback | None):
        """Latents of one batch, and how the solver went."""
        device = self.system.device
        if noise is None:
            noise = self._noise(settings)
        noise = self._start(noise, settings)
        condition, guided = self._guided(settings)
        with autocast(device, self.recipe.train.precision):
            x0, info = solve(lambda x, t: guided(x, t, condition).float(), noise.to(device), path=self.recipe.path,
                             seed=settings.seed, first=settings.first, guidance=settings.guidance.strongest,
                             callback=callback, return_info=True, **self._clock(settings))
        return x0, replace(info, solver=info.solver if settings.solver == "auto" else settings.solver)

    def _guided(self, settings: Settings) -> tuple[Condition, Denoise]:
        """(the condition of the prompts, the denoiser with the guidance that was asked for)."""
        prompts, choice = settings.prompts, settings.guidance
        first, others = composed(prompts, settings.negative) if settings.compose else (prompts, [])
        weak = None
        if choice.guide is not None:
            if others:
                raise UserError("Composed prompts are guided by the unconditional model: leave the guide out.")
            weak = self._guide(choice.guide, prompts)
        null = self.encode([settings.negative] * len(prompts), settings, negative=True)
        guided = choice.of(self._denoiser(), null, self.recipe.path, weak=weak,
                           others=[(self.encode(texts, settings), weight) for texts, weight in others])
        return self.encode(first, settings), guided

    def _guide(self, run: str, prompts: list[str]) -> Denoise:
        """The denoiser of another run under its own reading of the prompts.  UserError where it cannot guide this."""
        if run not in self._guides:
            self._guides[run] = load(run, str(self.system.device))
        guide = self._guides[run]
        for name in ("path", "latents"):
            if getattr(guide.recipe, name) != getattr(self.recipe, name):
                raise UserError(f"{run} cannot guide this run: the {name} of its recipe is another.")
        if guide.recipe.data.channels != self.recipe.data.channels:
            raise UserError(f"{run} cannot guide this run: its pictures have {guide.recipe.data.channels} channels.")
        condition = guide.encode(prompts)
        denoise = guide._denoiser()
        return lambda x, t, _: denoise(x, t, condition)

    def _texts(self, settings: Settings) -> list[str]:
        """What the text encoder reads of the prompts."""
        if not settings.compose:
            return settings.prompts
        first, others = composed(settings.prompts, settings.negative)
        return [*first, *(text for texts, _ in others for text in texts)]

    def _clock(self, settings: Settings) -> dict[str, Any]:
        """Solver, steps and grid: the recipe's grid, unless the solver brings its own or chooses its steps."""
        solver, default = self.solver(settings.solver), self.recipe.sample
        if isinstance(solver, Procedure):
            return {"solver": solver}
        own = {} if settings.solver not in SOLVERS else {"grid": default.grid, "shift": default.shift}
        return {"solver": solver, "steps": settings.steps, **own}

    def _noise(self, settings: Settings) -> Tensor:
        return sample_noise(self.noise_shape(settings), settings.seed, settings.first)

    def starting_noise(self, prompts: str | Sequence[str], seed: int = 0,
                       size: tuple[int, int] | None = None) -> Tensor:
        """The noise ``[B, T, C, h, w]`` that ``sample`` starts from for these prompts and this seed."""
        return self._noise(self.settings(prompts, seed=seed, size=size))

    def encode(self, prompts: list[str], settings: Settings | None = None, negative: bool = False) -> Condition:
        """What the network is told of ``prompts``; ``negative`` ones are those to be steered away from."""
        return self._read(prompts, settings)

    def _read(self, prompts: list[str], settings: Settings | None, **told: bool) -> Condition:
        """What the text encoder makes of ``prompts``."""
        weighted, long = (settings.weighted, settings.long) if settings else (False, False)
        return read_prompts(self.system.text, prompts, weighted, long, **told)

    def _denoiser(self) -> Denoise:
        """The denoiser of one solve."""
        own = self.recipe.train.self_conditioning > 0
        return SelfConditioned(self.system.denoiser) if own else self.system.denoiser

    def _decode(self, latents: Tensor) -> Tensor:
        """Media ``[B, T, C, H, W]`` of ``latents``, a few pictures at a time."""
        factor = self.system.latents.factor
        few = self.system.at_once(latents.shape[-2] * factor, latents.shape[-1] * factor)
        return torch.cat([self.system.latents.decode(part) for part in latents.split(few)])

    def _start(self, noise: Tensor, settings: Settings) -> Tensor:
        """The noise that the solver is given for standard normal ``noise``."""
        return noise


def load(run: str | Path, device: str = "auto") -> Model:
    """The diffusion model of a run folder: ``recipe.json`` and ``model.safetensors`` alone rebuild it.

    UserError for a folder that is missing, has no weights, is damaged, comes from a newer version or holds a model of
    another kind.
    """
    load_diffusion(run_recipe(run))
    system, step, words = load_system(run, device)
    return Model(system, str(run), step, words)  # type: ignore[arg-type]


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
        return {**found, "run": checked("run", found["run"]), "recipe": checked("recipe", found["recipe"]),
                "settings": _read_settings(found["settings"], found.get("fromnoise", "unknown"))}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} does not say how it was made: it was not saved by fromnoise, or its "
                        "metadata was removed.") from None
    except UserError as e:
        raise UserError(f"{path} cannot be made again: {e}") from None


def _read_settings(found: dict[str, Any], version: str) -> Settings:
    """Settings as they stand in a picture."""
    if unknown := found.keys() - {f.name for f in fields(Settings)}:
        raise UserError(f"it comes from a newer fromnoise ({version}), and this one, {fromnoise.__version__}, does not "
                        f"know its setting {min(unknown)}; update fromnoise.")
    return Settings(**{name: checked(name, value) for name, value in found.items()})
