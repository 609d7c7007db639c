"""What the page of a diffusion model shows: samples beside real pictures, a film from noise to picture, weightings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from fromnoise.denoise import Guidance
from fromnoise.films import moving
from fromnoise.generate import Model
from fromnoise.output import Output
from fromnoise.process import describe_weighting, effective_weighting
from fromnoise.process.effective import LAMBDAS, named_weightings
from fromnoise.recipe import Recipe, has_own_grid
from fromnoise.showing.previews import FILMS, PREVIEWS
from fromnoise.studio import FilmFrame, Showcase, Weightings

COLUMNS = 8  # samples of each prompt on the page


def show(model: Model, out: Path) -> Showcase:
    """Sample what the page shows."""
    recipe = model.recipe
    source = recipe.data.open("test")
    moves = recipe.data.frames > 1
    prompts = list(source.prompts())[: 6 if moves else 10]
    wide = 4 if moves else COLUMNS if recipe.data.height <= 16 else 6
    output = model.sample([p for p in prompts for _ in range(wide)], seed=0)
    save(output, out / "samples" / "grid.png", wide)
    group = list(max(source.groups, key=len)[:12])  # pictures of one size
    real = source.batch(group, range(len(group)))
    name, film = film_of(model, prompts[0])
    return Showcase(
        name=recipe.name, description=description(recipe), prompts=prompts,
        grid=output.media.unflatten(0, (len(prompts), wide)), real=real.media, real_captions=list(real.text), film=film,
        film_prompt=name, preview_prompts=preview_prompts(model), fps=recipe.fps)


def save(output: Output, path: Path, columns: int) -> None:
    """A PNG, and beside the contact sheet of films the films themselves."""
    output.save(path, columns=columns)
    if output.films:
        output.save(path.with_suffix(moving(output.settings.fps)), columns=columns)


def weightings(model: Model) -> Weightings:
    """The effective weighting of the recipe, with the variance where that was learned, beside the named ones."""
    objective, path, learned = model.recipe.objective, model.recipe.path, model.system.variance
    variance = None if learned is None else lambda at: learned(at.to(model.system.device)).cpu()
    at = LAMBDAS[::5]
    named = {name: values.numpy() for name, values in named_weightings(path, at).items()}
    return Weightings(at.numpy(), effective_weighting(objective, path, at, variance).numpy(), named,
                      describe_weighting(objective, path))


def film_of(model: Model, prompt: str) -> tuple[str, list[FilmFrame]]:
    """One sample from noise to picture: x_t and the predicted x0 at a dozen times."""
    frames: list[FilmFrame] = []
    noise: list[Tensor] = []
    decode = model.system.latents.decode

    def keep(progress) -> None:
        before = noise[-1] if noise else model.starting_noise([prompt], seed=3)
        frames.append(FilmFrame(progress.t, decode(before)[0].cpu(), decode(progress.x0)[0].cpu()))
        noise.append(progress.x)

    steps = max(12, model.recipe.sample.steps)
    model.sample([prompt], seed=3, steps=steps, callback=keep)
    frames.append(FilmFrame(0.0, decode(noise[-1])[0].cpu(), frames[-1].x0))
    chosen = sorted({round(i * (len(frames) - 1) / 11) for i in range(12)})
    return prompt, [frames[i] for i in chosen]


def preview_prompts(model: Model) -> list[str]:
    prompts = list(model.recipe.data.open("test").prompts())
    return [prompts[i % len(prompts)] for i in range(FILMS if model.recipe.data.frames > 1 else PREVIEWS)]


def save_preview(model: Model, out: Path, step: int) -> None:
    """``samples/step-000500.png``: the preview prompts on one row, or films, which are beside it as they move."""
    output = model.sample(preview_prompts(model), seed=0)
    save(output, out / "samples" / f"step-{step:06d}.png", PREVIEWS)


def description(recipe: Recipe) -> str:
    return (f"A {recipe.net.kind} that predicts {recipe.objective.prediction} along the {recipe.path.kind} path, "
            f"sampled with {recipe.sample.solver} in {recipe.sample.steps} steps at "
            f"guidance {recipe.sample.guidance.words()}.")


def evaluation_settings(model: Model, samples: int | None = None, guidance: float | None = None,
                        seed: int = 0) -> dict[str, Any]:
    """What an evaluation is made with, by the recipe unless given: with others its numbers would be others."""
    spec, sampling = model.recipe.evaluate, model.recipe.sample
    own = has_own_grid(sampling)
    chosen = next(g for g in (guidance, spec.guidance, sampling.guidance.scale) if g is not None)
    full = replace(sampling.guidance, scale=chosen)
    rest = {} if full == Guidance(scale=chosen) else {"guidance_words": full.words()}
    return {"samples": samples or spec.samples, "guidance": chosen, **rest, "solver": sampling.solver,
            "steps": sampling.steps, "grid": "own" if own else sampling.grid, "shift": 1.0 if own else sampling.shift,
            **({"augment": sampling.augment} if model.enlarges else {}), "seed": seed, "trained_steps": model.step}
