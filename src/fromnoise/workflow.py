"""What the commands do: train a run from data to page, judge it again, and the demo.

A run is a folder:

    recipe.json          every choice, resolved          metrics.jsonl     the loss over time
    model.safetensors    the averaged weights, to use    evaluation.json   what was measured
    checkpoints/         what a stopped run goes on from samples/          previews and samples
    index.html           the page                        README.md         the model card
    training.json        how it was trained: command, machine, memory
"""

from __future__ import annotations

import json
import platform
import re
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from fromnoise import enlargements, reconstructions
from fromnoise.codec import Codec
from fromnoise.denoise import Guidance
from fromnoise.evaluate import Report, evaluate
from fromnoise.files import write_text
from fromnoise.generate import Model
from fromnoise.media import enlargement, grid, ungrid
from fromnoise.opening import load, open_autoencoder
from fromnoise.process import describe_weighting, effective_weighting
from fromnoise.process.effective import LAMBDAS, named_weightings
from fromnoise.recipe import AnyRecipe, Recipe, has_own_grid, recipe_dict
from fromnoise.studio import FilmFrame, Showcase, Weightings, write_card, write_page
from fromnoise.system import Built, System, resolve_device
from fromnoise.train import Hooks, Interrupted, Result, train
from fromnoise.train.autoencoder import fill_autoencoder
from fromnoise.train.latent_cache import LatentCache, training_source
from fromnoise.train.memory import keep_freed_memory
from fromnoise.train.metrics import read_metrics
from fromnoise.train.order import UNBOUNDED
from fromnoise.train.threads import available_cores, fastest_threads
from fromnoise.types import UserError

TRAINING = "training.json"
PREVIEWS = 8  # pictures of a preview, always of the same prompts and seeds
COLUMNS = 8  # samples of each prompt on the page
SAY_EVERY = 30  # seconds between lines of progress where there is no terminal


@dataclass
class Timings:
    """Seconds spent in each part of a run."""

    parts: dict[str, float] = field(default_factory=dict)

    def measure(self, name: str):
        return _Measure(self, name)


class _Measure:
    def __init__(self, timings: Timings, name: str):
        self.timings, self.name = timings, name

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_) -> None:
        self.timings.parts[self.name] = time.perf_counter() - self.start


@dataclass(frozen=True)
class Manner:
    """How a kind of model is opened, measured and shown.

    open: (system, run folder, steps) to the model;  judge: (model, console, samples, guidance, seed) to a report, by
    the recipe where None is given;  settings: the model to what it is judged with by its recipe;  show: (model, run
    folder) to what its page has that those of other kinds have not;  preview: (model, run folder, step) writes
    ``PREVIEWS`` pictures.
    """

    open: Callable[..., Any]
    judge: Callable[..., Report]
    settings: Callable[..., dict[str, Any]]
    show: Callable[..., Showcase]
    preview: Callable[..., None]


def manner_of(recipe: AnyRecipe) -> Manner:
    """That of a recipe's kind, and of a diffusion model that enlarges pictures."""
    if isinstance(recipe, Recipe) and recipe.upsample.factor > 1:
        return Manner(Model, judge, evaluation_settings, enlargements.show, enlargements.save_preview)
    return {
        "diffusion": Manner(Model, judge, evaluation_settings, show, save_preview),
        "autoencoder": Manner(Codec, reconstructions.judge, reconstructions.evaluation_settings, reconstructions.show,
                              reconstructions.save_preview),
    }[recipe.kind]


def train_run(recipe: AnyRecipe, out: Path, command: str = "", console: Console | None = None) -> Showcase:
    """Train into ``out`` with live progress, then evaluate and write page and card.  Returns what the page shows."""
    console, manner = console or Console(stderr=True), manner_of(recipe)
    timings = Timings()
    summarise(recipe, console)
    command = command or repeat_command(recipe, out)
    with timings.measure("training"):
        try:
            result = _train_with_progress(recipe, out, console)
        except Interrupted:
            save_training_facts(out, command, resolve_device(recipe.train.device))
            raise
    save_training_facts(out, command, result.system.device if result.steps_done else None)
    model = manner.open(result.system, str(out), result.step)
    report = read_report(out)
    if result.steps_done or report is None or report.settings != manner.settings(model):
        with timings.measure("evaluation"):
            report = manner.judge(model, console)
            save_report(report, out)
    return write_up(model, out, report, timings)


def write_up(model: Model | Codec, out: Path, report: Report, timings: Timings) -> Showcase:
    """Page and card of a run.  Returns what they show."""
    with timings.measure("samples and page"):
        showcase = completed(manner_of(model.recipe).show(model, out), model, out, report, timings)
        write_page(out / "index.html", f"fromnoise: {model.recipe.name}", [showcase])
        write_card(out / "README.md", showcase, run=str(out))
    return showcase


def summarise(recipe: AnyRecipe, console: Console) -> None:
    """Tell what the data are before training starts, where there is something to tell."""
    summary = getattr(recipe.data, "summary", None)
    if summary is not None:
        with console.status("Looking through the pictures"):
            lines = summary().lines()
        for line in lines:
            console.print(line, highlight=False, markup=False)


def _train_with_progress(recipe: AnyRecipe, out: Path, console: Console) -> Result:
    """``train`` with a live line (step, loss, speed, time left), or with a line now and then in a log file."""
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} steps"),
               TextColumn("loss {task.fields[loss]:.4f}"), TextColumn("{task.fields[speed]:.1f} steps/s"),
               TimeRemainingColumn(elapsed_when_finished=True))
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    task = bar.add_task(recipe.name, total=recipe.train.steps, loss=float("nan"), speed=0.0)
    first: list[tuple[int, float]] = []
    said = [time.perf_counter()]

    def started(system: Built, step: int) -> None:
        threads = f", {torch.get_num_threads()} threads" if system.device.type == "cpu" else ""
        console.print(f"{size_of(system)} on {system.device}{threads}", highlight=False)
        first.append((step, time.perf_counter()))
        bar.update(task, completed=step)
        bar.start()  # not before: what cannot be built is refused without a bar

    def progress(line: dict) -> None:
        step, start = first[0]
        speed = (line["step"] - step) / max(1e-9, time.perf_counter() - start)
        bar.update(task, completed=line["step"], loss=line["loss"], speed=speed)
        now = time.perf_counter()
        if not console.is_terminal and (now - said[-1] >= SAY_EVERY or line["step"] == recipe.train.steps):
            said.append(now)
            left = timedelta(seconds=round((recipe.train.steps - line["step"]) / max(1e-9, speed)))
            console.print(f"{recipe.name}: {line['step']}/{recipe.train.steps} steps, loss {line['loss']:.4f}, "
                          f"{speed:.1f} steps/s, {left} left", highlight=False)

    manner = manner_of(recipe)

    def preview(system: Built, step: int) -> None:
        manner.preview(manner.open(system), out, step)

    try:
        hooks = Hooks(console.print, started, progress, preview, encoding_progress(console))
        source = recipe.encoding.source if isinstance(recipe, Recipe) else ""
        return train(recipe, out, hooks, lambda: open_autoencoder(source)[1])
    finally:
        bar.stop()


def size_of(system: Built) -> str:
    """The parameters that are learned, and those of the autoencoder in front of them, in words."""
    frozen = sum(tensor.numel() for tensor in system.frozen().values())
    learned = sum(p.numel() for p in system.learned().values())
    return f"{learned:,} parameters" + (f" behind an autoencoder of {frozen:,}" if frozen else "")


def encode_data(recipe: Recipe, root: Path, run: Path, console: Console | None = None) -> Path:
    """Keep the latents of a recipe's training data below ``root``, and return the folder they are in.

    run: where the autoencoder's weights are looked for before its source.  UserError for pixels and for data without
    end.
    """
    console = console or Console(stderr=True)
    source = training_source(recipe)
    if not recipe.latent:
        raise UserError("Pixels are not encoded: name a trained autoencoder with --latents.")
    if len(source) >= UNBOUNDED:
        raise UserError("These data have no end: say with --encoding.examples how many to keep the latents of.")
    system = System(recipe, recipe.text.learn_tokenizer(list(source.captions)))
    fill_autoencoder(system, run, lambda: open_autoencoder(recipe.encoding.source)[1])
    cache = LatentCache(root, system.to(resolve_device(recipe.train.device)), source)
    cache.fill(encoding_progress(console), console.print)
    return cache.folder


def encoding_progress(console: Console) -> Callable[[int, int], None]:
    """Tells how far the encoding of the data is: a live line, or a line now and then in a log file."""
    columns = (TextColumn("[bold]encoding the data"), BarColumn(), TextColumn("{task.completed}/{task.total} pictures"),
               TimeRemainingColumn(elapsed_when_finished=True))
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    task = bar.add_task("encoding")
    begun: list[tuple[int, float]] = []
    said = [time.perf_counter()]

    def tell(done: int, total: int) -> None:
        now = time.perf_counter()
        if not begun:
            begun.append((done, now))
            bar.start()
        bar.update(task, completed=done, total=total)
        if done == total:
            bar.stop()
        if not console.is_terminal and (now - said[0] >= SAY_EVERY or done == total):
            first, start = begun[0]
            said[0], left = now, (total - done) * (now - start) / max(1, done - first)
            console.print(f"encoding the data: {done}/{total} pictures, {timedelta(seconds=round(left))} left",
                          highlight=False)

    return tell


def evaluate_run(run: Path, samples: int | None = None, guidance: float | None = None, seed: int = 0,
                 device: str = "auto", console: Console | None = None) -> Report:
    """Judge a trained run anew, and bring its evaluation.json, page and card up to date."""
    console = console or Console(stderr=True)
    model = load(run, device)
    settle_threads(model)
    timings = Timings()
    with timings.measure("evaluation"):
        report = manner_of(model.recipe).judge(model, console, samples, guidance, seed)
    save_report(report, run)
    write_up(model, run, report, timings)
    return report


def judge(model: Model, console: Console, samples: int | None = None, guidance: float | None = None,
          seed: int = 0) -> Report:
    """Evaluate by the recipe's settings unless others are given."""
    settings = evaluation_settings(model, samples, guidance, seed)

    def sample(prompts: Sequence[str], seed: int) -> Tensor:
        return model.sample(list(prompts), guidance=settings["guidance"], seed=seed).media

    with console.status("Evaluating") as status:

        def tell(doing: str) -> None:
            status.update(f"Evaluating: {doing}")

        if model.enlarges:
            report = enlargements.measure(model, settings, tell)
        else:
            report = evaluate(sample, model.recipe.data, count=settings["samples"], seed=seed, progress=tell)
    return replace(report, settings=settings)


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


def settle_threads(model: Model | Codec) -> None:
    """Keep freed memory, and use as many CPU threads as make this model fastest: on small networks often one."""
    if model.system.device.type == "cpu":
        keep_freed_memory()
        torch.set_num_threads(fastest_threads(model.trial))


def save_report(report: Report, run: Path) -> None:
    write_text(run / "evaluation.json", json.dumps(report.to_dict(), indent=2) + "\n")


def read_report(run: Path) -> Report | None:
    """The last evaluation of a run; None where there is none, or a damaged one."""
    path = run / "evaluation.json"
    try:
        return Report.from_dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


# ---- what a page shows ----------------------------------------------------------------------------------


def completed(showcase: Showcase, model: Model | Codec, out: Path, report: Report | None,
              timings: Timings) -> Showcase:
    """The showcase with what a run of any kind has: its previews, loss, report, facts, recipe and command."""
    recipe = model.recipe
    return replace(
        showcase, headline=headline(recipe), previews=read_previews(model, out),
        weighting=weightings(model) if isinstance(model, Model) else None,
        metrics=read_metrics(out / "metrics.jsonl"), report=report, facts=facts(model, out, timings),
        recipe=recipe_dict(recipe), command=read_training_facts(out).get("command") or repeat_command(recipe, out))


def show(model: Model, out: Path) -> Showcase:
    """Sample what the page shows."""
    recipe = model.recipe
    source = recipe.data.open("test")
    prompts = list(source.prompts())[:10]
    wide = COLUMNS if model.recipe.data.height <= 16 else 6
    output = model.sample([p for p in prompts for _ in range(wide)], seed=0)
    output.save(out / "samples" / "grid.png", columns=wide)
    group = list(max(source.groups, key=len)[:12])  # pictures of one size
    real = source.batch(group, range(len(group)))
    name, film = film_of(model, prompts[0])
    return Showcase(
        name=recipe.name, description=description(recipe), prompts=prompts,
        grid=output.media.unflatten(0, (len(prompts), wide)), real=real.media, real_captions=list(real.text), film=film,
        film_prompt=name, preview_prompts=preview_prompts(model))


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
    return [prompts[i % len(prompts)] for i in range(PREVIEWS)]


def save_preview(model: Model, out: Path, step: int) -> None:
    """``samples/step-000500.png``: the preview prompts on one row."""
    output = model.sample(preview_prompts(model), seed=0)
    output.save(out / "samples" / f"step-{step:06d}.png", columns=PREVIEWS)


def read_previews(model: Model | Codec, out: Path) -> list[tuple[int, Tensor]]:
    """The previews of a run, from its folder; at most eight, spread over training.

    Other files are passed over, and so are previews that cannot be read or are not of this model's size.
    """
    named = ((re.fullmatch(r"step-([0-9]+)\.png", f.name), f) for f in (out / "samples").glob("step-*.png"))
    files = sorted((int(match[1]), f) for match, f in named if match)
    if len(files) > 8:
        files = [files[round(i * (len(files) - 1) / 7)] for i in range(8)]
    read = [(step, read_preview(model, f)) for step, f in files]
    return [(step, media) for step, media in read if media is not None]


def read_preview(model: Model | Codec, path: Path) -> Tensor | None:
    """The pictures ``[PREVIEWS, 1, C, H, W]`` of a preview; None where the file is damaged or something else."""
    data = model.recipe.data
    blank = torch.zeros(PREVIEWS, 1, data.channels, data.height, data.width)
    enlarge = enlargement(data.height)
    expected = grid(blank, PREVIEWS, enlarge)
    try:
        with Image.open(path) as image:
            if (image.size, image.mode) != (expected.size, expected.mode):
                return None
        return ungrid(path, (data.height, data.width), PREVIEWS, enlarge)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def facts(model: Model | Codec, out: Path, timings: Timings) -> dict[str, str]:
    """Size, time, memory and machine of the training, in words; the four that matter most first."""
    lines = read_metrics(out / "metrics.jsonl")
    last = {"seconds": 0.0, "core_seconds": 0.0, "step": model.step} | (lines[-1] if lines else {})
    known = read_training_facts(out)
    found = {
        "Parameters": size_of(model.system).replace(" parameters", ""),
        "Training time": f"{last['seconds']:.0f} s",
        "Core-seconds": f"{last['core_seconds']:.0f}",
        "Peak memory": f"{known['peak_mebibytes']} MiB" if "peak_mebibytes" in known else "",
        "Steps": f"{last['step']:,} of {model.recipe.train.batch} examples",
        "Machine": known.get("machine", ""),
        "Software": known.get("software", ""),
    }
    found |= {f"Time for {name}": f"{s:.1f} s" for name, s in timings.parts.items() if name != "training"}
    return {name: words for name, words in found.items() if words}


def save_training_facts(out: Path, command: str, device: torch.device | None) -> None:
    """``training.json``, which later looks at the run read back: an evaluation may be made on another machine.

    device: where it was just trained; None where nothing was left to train, and then only the command is new.
    """
    known = read_training_facts(out) | {"command": command}
    if device is not None:
        peak = round(peak_memory(device) / 2**20)
        known |= {"machine": machine(device), "peak_mebibytes": max(peak, known.get("peak_mebibytes", 0)),
                  "software": f"torch {torch.__version__}, Python {platform.python_version()}"}
    write_text(out / TRAINING, json.dumps(known, indent=2, ensure_ascii=False) + "\n")


def read_training_facts(out: Path) -> dict[str, Any]:
    """What ``training.json`` holds of command, machine, peak_mebibytes and software; damaged parts are left out."""
    kinds = {"command": str, "machine": str, "peak_mebibytes": int, "software": str}
    try:
        found = json.loads((out / TRAINING).read_text(encoding="utf-8", errors="replace"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    known = found if isinstance(found, dict) else {}
    return {name: known[name] for name, kind in kinds.items() if isinstance(known.get(name), kind)}


def peak_memory(device: torch.device) -> int:
    """Largest memory use in bytes: of the GPU, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} of {available_cores()} cores"


def headline(recipe: AnyRecipe) -> str:
    """The first line of the named recipe's docstring, or the recipe's name."""
    from fromnoise.recipes import RECIPES

    named = RECIPES.get(recipe.name)
    return (named.__doc__ or "").strip().splitlines()[0] if named and named.__doc__ else recipe.name


def description(recipe: Recipe) -> str:
    return (f"A {recipe.net.kind} that predicts {recipe.objective.prediction} along the {recipe.path.kind} path, "
            f"sampled with {recipe.sample.solver} in {recipe.sample.steps} steps at "
            f"guidance {recipe.sample.guidance.words()}.")


def repeat_command(recipe: AnyRecipe, out: Path) -> str:
    """A command that trains the same recipe again, from its file."""
    return shlex.join(["fromnoise", "train", str(out / "recipe.json"), "--out", f"{out}-again"])
