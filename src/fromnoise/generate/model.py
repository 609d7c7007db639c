"""A model that samples: its settings, its prompts read, its noise, its guidance, and the way from these to media."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fromnoise.actions import rows_of
from fromnoise.denoise import Denoise, Guidance, Keep, SelfConditioned, experts
from fromnoise.denoise.experts import fill
from fromnoise.generate import solvers
from fromnoise.generate.small import check_augment, noisy, small_pictures
from fromnoise.given import GivenFrames, Known, known_of
from fromnoise.output import Output
from fromnoise.random import sample_noise
from fromnoise.recipe import load_diffusion
from fromnoise.sample import Callback, Order, Procedure, Solver, Tuned
from fromnoise.settings import Adapter, Expert, Noise, Settings, as_noise, checked
from fromnoise.system import System, autocast, check_threshold, load_system, run_recipe
from fromnoise.text import composed, emphasis, read_prompts, unseen
from fromnoise.types import Condition, UserError
from fromnoise.weights import digest
from fromnoise.windows import check_clip, check_room, filled, remarks, starting_noise, usual_overlap

Around = Callable[[Denoise], Denoise]


class Model:
    """A system ready to sample."""

    def __init__(self, system: System, run: str = "", step: int = 0, words: Sequence[str] = ()):
        self.system, self.run, self.step, self.words = system.eval(), run, step, frozenset(words)
        self._others: dict[str, Model] = {}  # runs that guide this one, or are experts of it
        self.recipe = system.recipe

    @property
    def loras(self) -> list[Adapter]:
        """The LoRAs that its weights hold now."""
        return []

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.system.parameters())

    @property
    def enlarges(self) -> bool:
        """Whether the model enlarges small pictures, which it then has to be given."""
        return self.recipe.upsample.factor > 1

    @property
    def small_size(self) -> tuple[int, int]:
        """(height, width) of the small pictures that its usual pictures are made of."""
        data, factor = self.recipe.data, self.recipe.upsample.factor
        return data.height // factor, data.width // factor

    @torch.no_grad()
    def sample(self, prompts: str | Sequence[str], *, steps: int | None = None,
               guidance: float | Guidance | None = None, solver: str | None = None,
               size: tuple[int, int] | None = None, seed: int = 0, negative: str = "", compose: bool = False,
               weighted: bool = False, long: bool = False,
               image: Output | Noise | None = None, augment: float | None = None, experts: Sequence[Expert] = (),
               noise: Noise | None = None, first: int = 0, callback: Callback | None = None,
               fps: float | None = None, batch: int = 256, frames: int | None = None,
               given: GivenFrames | None = None, schedule: str | Order | None = None, keep: str | Keep | None = None,
               overlap: int = 0, actions: Any = None, action_guidance: float | None = None) -> Output:
        """A sample for every prompt.

        steps, guidance, solver, size (height, width): as in the recipe unless given;  solver: a name of ``SOLVERS``,
        or of one that was tuned for this run, which has its own number of steps;  guidance: the scale, with
        the rest as in the recipe, or a ``Guidance`` with its schedule, method and threshold;  negative: what to steer
        away from, with guidance other than 1;  compose: whether AND and NOT in a prompt join and exclude what stands
        on their sides (``fromnoise.text.composed``);  weighted: whether brackets in a prompt weigh words
        (``fromnoise.text.emphasis``);  long: whether a prompt that is too long is read in windows;  image: for a model
        that enlarges pictures, the small ones, samples of another or ``[B or 1, T, C, h, w]`` in [-1, 1], and augment:
        how much noise is added to them;  experts: runs that take this one's place between two times each, (run folder,
        lowest t, highest t);  noise: the
        starting noise ``[B, T, C, h, w]``, instead of seed, as any array of numbers;  first: the index of the first
        sample, which with the seed fixes its noise;  callback: called after each solver step with a ``Progress`` (of
        each batch of at most ``batch``, and of a rollout each window);  fps: frames a second of films, which the
        network is told where it was so in training, and at which they are played.

        frames: of each clip, as in the data unless given;  given: frames and pixels that are known, ``{0: picture}`` or
        a ``Given``, which come back bit for bit;  schedule: in which order frames come out of the noise, and keep: how
        what is given is kept, by the name of a kind or as in a recipe;  overlap: above 0, more frames than training had
        are made window by window, of which each knows so many of the frames before it (``rollout``).

        actions: for a model that is told them, what leads to each frame of the clips, ``[T]`` or ``[B, T]`` numbers or
        names of choices (``[..., A]`` where an action is several numbers), or those of the frames after the given ones
        that clips begin with; -1, NaN or None is an action that is not told;  action_guidance: how much more closely
        than in the data frames follow them, as in the recipe unless given; 1 is none.

        Sample i depends on (seed, first + i), its prompt and the settings alone: 16 samples of one call and 16
        calls for one sample with first=0, 1, ... agree to float32 rounding.  Raises UserError for settings that
        cannot be.
        """
        batch = checked("batch", batch)
        before = image if isinstance(image, Output) else None
        settings = self.settings(prompts, steps=steps, guidance=guidance, solver=solver, size=size, seed=seed,
                                 negative=negative, compose=compose, weighted=weighted, long=long, first=first,
                                 given_noise=noise is not None, augment=augment, experts=experts, fps=fps,
                                 frames=frames, schedule=schedule, keep=keep, overlap=overlap,
                                 action_guidance=action_guidance,
                                 stage=None if before is None else before.settings.stage + 1)
        check_room(self, settings)
        known = None if given is None else known_of(given, settings, self.recipe.data.channels)
        if known is not None:
            settings = replace(settings, given=known.digest)
        settings = replace(settings, actions=rows_of(actions, settings, self.recipe, known))
        start = None if noise is None else as_noise(noise, self.noise_shape(settings))
        small = small_pictures(self, image.media if isinstance(image, Output) else image, settings)
        if small is not None and before is None:
            settings = replace(settings, given_image=digest({"image": small.contiguous()}, {})[:16])
        parts, info = [], None
        for i in range(0, len(settings.prompts), batch):
            doing = settings.actions if len(settings.actions) == 1 else settings.actions[i : i + batch]
            part = replace(settings, prompts=settings.prompts[i : i + batch], first=settings.first + i, actions=doing)
            latents, info = self._solve(part, None if start is None else start[i : i + batch], callback,
                                        None if small is None else small[i : i + batch],
                                        None if known is None else known.rows(i, i + batch).latent(self.system))
            media = self._decode(latents).float().clamp(-1, 1).cpu()
            parts.append(media if known is None else known.rows(i, i + batch).paste(media))
        assert info is not None
        texts = dict.fromkeys([*self._texts(settings), settings.negative])
        if settings.weighted:
            texts = dict.fromkeys(emphasis(text)[0] for text in texts)
        notes = [None if long else self.system.text.cut(text) for text in texts]
        notes += [unseen(texts, self.words), solvers.remark(self.solver(settings.solver), settings),
                  *remarks(self, settings)]
        return Output(torch.cat(parts), settings, info, self.recipe, self.run, tuple(filter(None, notes)), before)

    def rollout(self, prompts: str | Sequence[str], frames: int, overlap: int | None = None, **choices: Any) -> Output:
        """Clips of so many frames, window by window of the length of training; the rest as for ``sample``.

        overlap: frames that a window knows of those before it, by default half of its length, or as many less as the
        autoencoder makes whole latents of.  A causal network keeps what it has seen of these and is not shown them
        again.
        """
        overlap = usual_overlap(self) if overlap is None else overlap
        return self.sample(prompts, frames=frames, overlap=overlap, **choices)

    def settings(self, prompts: str | Sequence[str], **given: Any) -> Settings:
        """The recipe's settings with the caller's in their place, checked."""
        default, data = self.recipe.sample, self.recipe.data
        usual = {"steps": default.steps, "guidance": default.guidance, "solver": default.solver,
                 "size": (data.height, data.width), "augment": default.augment if self.enlarges else 0.0,
                 "stage": int(self.enlarges), "fps": self.recipe.fps, "frames": data.frames,
                 "schedule": default.schedule, "keep": default.keep, "action_guidance": default.action_guidance}
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
        check_augment(self.recipe.upsample, settings.augment)
        self._check_rate(settings.fps)
        check_clip(self, settings)
        if isinstance(solver, Tuned) and settings.steps != solver.nfe:
            raise UserError(f"The solver {settings.solver} takes {solver.nfe} steps and no other number "
                            f"(got {settings.steps}).")
        return settings

    def solver(self, name: str) -> Solver | str:
        """The solver of a name: "auto", one of ``SOLVERS``, or one tuned for this run.  UserError for another."""
        return solvers.named(name, self.run)

    def tuned_solvers(self) -> dict[str, Path]:
        """The files of the solvers that were tuned for this run, by name."""
        return solvers.tuned_solvers(self.run)

    def tune(self, nfe: int, *, guidance: float | None = None, samples: int = 192, seed: int = 0, batch: int = 32,
             teacher: int = 60, **choices: Any) -> Tuned:
        """A solver of ``nfe`` steps fitted to this model on its own paths, on prompts of its data; see ``sample.tune``.

        guidance: the scale, as in the recipe unless given;  samples: paths, a quarter of them to judge on;  choices:
        those of ``sample.tune`` (seconds, steps, teleport, weights, progress, ...).
        """
        return solvers.tuned(self, nfe, guidance, samples, seed, batch=batch, teacher=teacher, **choices)

    def noise_shape(self, settings: Settings) -> tuple[int, ...]:
        h, w = self.system.latent_size(*settings.size)
        frames = self.system.latents.latent_frames(settings.frames)
        return (len(settings.prompts), frames, self.system.latents.channels, h, w)

    def _solve(self, settings: Settings, noise: Tensor | None, callback: Callback | None, small: Tensor | None = None,
               known: Known | None = None):
        """Latents of one batch, and how the solver went; ``small``: the small pictures that are enlarged; ``known``:
        the latents that are given."""
        device = self.system.device
        if noise is None:
            noise = self._noise(settings)
        noise = self._start(noise, settings).to(device)
        told = None if small is None else noisy(small, self.recipe.upsample, settings).to(device)
        with autocast(device, self.recipe.train.precision):
            x0, info = filled(self, settings, noise, known, told, callback)
        return x0, replace(info, solver=info.solver if settings.solver == "auto" else settings.solver)

    def _told(self, settings: Settings, image: Tensor | None, around: Around) -> Denoise:
        """The denoiser under the prompts, each expert under its own reading of them, whatever condition it is given.

        around: what is put around every network.
        """
        condition, guided = self._guided(settings, image, around)

        def own(x: Tensor, t: Tensor, _: Condition) -> Tensor:
            return guided(x, t, condition).to(x.dtype)

        if not settings.experts:
            return own
        alone = replace(settings, experts=[])
        others = [(self._other(run, "be an expert of", settings)._told(alone, image, around), low, high)
                  for run, low, high in settings.experts]
        rest = fill([(low, high) for _, low, high in settings.experts])
        return experts([*others, *((own, low, high) for low, high in rest)])

    def _guided(self, settings: Settings, image: Tensor | None, around: Around) -> tuple[Condition, Denoise]:
        """(the condition of the prompts, the denoiser with the guidance that was asked for).

        image: the condition's, in all of them;  around: what is put around every network.
        """
        prompts, choice = settings.prompts, settings.guidance
        first, others = composed(prompts, settings.negative) if settings.compose else (prompts, [])
        weak = None
        if choice.guide is not None:
            if others:
                raise UserError("Composed prompts are guided by the unconditional model: leave the guide out.")
            weak = self._guide(choice.guide, settings, around)
        null = self._heard([settings.negative] * len(prompts), settings, image, negative=True)
        guided = choice.of(around(self._denoiser()), null, self.recipe.path, weak=weak, others=[
            (self._heard(texts, settings, image), weight) for texts, weight in others])
        return self._heard(first, settings, image), guided

    def _guide(self, run: str, settings: Settings, around: Around) -> Denoise:
        """The denoiser of another run under its own reading of the prompts.  UserError where it cannot guide this."""
        guide = self._other(run, "guide", settings)
        condition = guide.encode(settings.prompts)
        denoise = around(guide._denoiser())
        return lambda x, t, told: denoise(x, t, replace(condition, image=told.image, fps=told.fps))

    def _other(self, run: str, what: str, settings: Settings) -> Model:
        """The model of another run that is asked beside this one.  UserError where it cannot, ``what`` it was to do."""
        if run not in self._others:
            self._others[run] = load(run, str(self.system.device))
        other = self._others[run]
        for name in ("path", "latents", "upsample"):
            if getattr(other.recipe, name) != getattr(self.recipe, name):
                raise UserError(f"{run} cannot {what} this run: the {name} of its recipe is another.")
        if other.recipe.data.channels != self.recipe.data.channels:
            raise UserError(f"{run} cannot {what} this run: its pictures have {other.recipe.data.channels} channels.")
        other.system.latent_size(*settings.size)
        return other

    def _texts(self, settings: Settings) -> list[str]:
        """What the text encoder reads of the prompts."""
        if not settings.compose:
            return settings.prompts
        first, others = composed(settings.prompts, settings.negative)
        return [*first, *(text for texts, _ in others for text in texts)]

    def _clock(self, settings: Settings) -> dict[str, Any]:
        """Solver, steps and grid: the recipe's grid, unless the solver brings its own or chooses its steps."""
        return solvers.clock(self.solver(settings.solver), settings, self.recipe.sample)

    def _noise(self, settings: Settings) -> Tensor:
        shape = self.noise_shape(settings)
        rolled = starting_noise(settings, shape, *self.window(settings))
        return sample_noise(shape, settings.stream, settings.first) if rolled is None else rolled

    def window(self, settings: Settings) -> tuple[int, int]:
        """The latent frames of a window of a rollout, and those of them that it knows of the window before."""
        count = self.system.latents.latent_frames
        return count(self.recipe.data.frames), count(settings.overlap) if settings.overlap else 0

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

    def _heard(self, prompts: list[str], settings: Settings, image: Tensor | None = None,
               negative: bool = False) -> Condition:
        """All that the network is told: ``prompts``, small pictures to enlarge, and frames a second of films."""
        fps = torch.full((len(prompts),), settings.fps, device=self.system.device) if settings.fps else None
        return replace(self.encode(prompts, settings, negative=negative), image=image, fps=fps)

    def _check_rate(self, fps: float) -> None:
        """UserError for films without frames a second, and for pictures with them."""
        if self.recipe.fps and not fps:
            raise UserError("fps must be above 0, frames a second of the film (got 0).")
        if fps and not self.recipe.fps:
            raise UserError(f"{self.run or 'This model'} makes pictures, which have no frames a second: leave fps out "
                            f"(got {fps:g}).")

    def _denoiser(self) -> Denoise:
        """The denoiser of one solve."""
        own = self.recipe.train.self_conditioning > 0
        return SelfConditioned(self.system.denoiser) if own else self.system.denoiser

    def trial(self) -> None:
        """A little of its work, by which threads are measured."""
        data = self.recipe.data
        small = torch.zeros(1, data.frames, data.channels, *self.small_size) if self.enlarges else None
        actions = [None] * data.frames if self.recipe.net.reads_actions else None
        self.sample([""] * max(1, 32 // data.frames), steps=1, guidance=1.0, image=small, actions=actions)

    def _decode(self, latents: Tensor) -> Tensor:
        """Media ``[B, T, C, H, W]`` of ``latents``, a few pictures at a time."""
        factor, times = self.system.latents.factor, self.system.latents.time_factor
        few = self.system.at_once(latents.shape[-2] * factor, latents.shape[-1] * factor, latents.shape[1] * times)
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
