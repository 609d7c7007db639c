"""What the commands do: train a run from data to page, judge it again, and the demo.

A run is a folder:

    recipe.json          every choice, resolved          metrics.jsonl     the loss over time
    model.safetensors    the averaged weights, to use    evaluation.json   what was measured
    checkpoints/         what a stopped run goes on from samples/          previews and samples
    index.html           the page                        README.md         the model card
    training.json        how it was trained: command, machine, memory
    beginnings.safetensors   of a world: a few moments of held-out episodes, to play on from
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from fromnoise.codec import Codec
from fromnoise.data.episodes import Episodes
from fromnoise.evaluate import Report, evaluate
from fromnoise.files import write_text
from fromnoise.generate import Model
from fromnoise.opening import load, open_autoencoder
from fromnoise.recipe import AnyRecipe, Recipe, recipe_dict
from fromnoise.showing import enlargements, filling, generated, reconstructions, worlds
from fromnoise.showing.facts import (
    Timings,
    facts,
    headline,
    read_training_facts,
    repeat_command,
    save_training_facts,
    size_of,
)
from fromnoise.showing.previews import read_previews
from fromnoise.studio import Showcase, write_card, write_page
from fromnoise.system import Built, System, resolve_device
from fromnoise.train import Hooks, Interrupted, Result, train
from fromnoise.train.autoencoder import fill_autoencoder
from fromnoise.train.latent_cache import LatentCache, training_source
from fromnoise.train.memory import keep_freed_memory
from fromnoise.train.metrics import read_metrics
from fromnoise.train.order import UNBOUNDED
from fromnoise.train.threads import fastest_threads
from fromnoise.types import UserError
from fromnoise.worlds import beginnings

SAY_EVERY = 30  # seconds between lines of progress where there is no terminal


@dataclass(frozen=True)
class Manner:
    """How a kind of model is opened, measured and shown.

    open: (system, run folder, steps) to the model;  judge: (model, console, samples, guidance, seed, tasks, rollout)
    to a report, by the recipe where None is given;  settings: the model to what it is judged with by its recipe;
    show: (model, run folder) to what its page has that those of other kinds have not;  preview: (model, run folder,
    step) writes ``PREVIEWS`` pictures.
    """

    open: Callable[..., Any]
    judge: Callable[..., Report]
    settings: Callable[..., dict[str, Any]]
    show: Callable[..., Showcase]
    preview: Callable[..., None]


def manner_of(recipe: AnyRecipe) -> Manner:
    """That of a recipe's kind, and of a diffusion model that enlarges pictures or is told actions."""
    if isinstance(recipe, Recipe) and recipe.upsample.factor > 1:
        return Manner(Model, judge, generated.evaluation_settings, enlargements.show, enlargements.save_preview)
    if isinstance(recipe, Recipe) and recipe.net.reads_actions:
        return Manner(Model, worlds.judge, worlds.evaluation_settings, worlds.show, worlds.save_preview)
    return {
        "diffusion": Manner(Model, judge, generated.evaluation_settings, generated.show, generated.save_preview),
        "autoencoder": Manner(Codec, reconstructions.judge, reconstructions.evaluation_settings, reconstructions.show,
                              reconstructions.save_preview),
    }[recipe.kind]


def train_run(recipe: AnyRecipe, out: Path, command: str = "", console: Console | None = None) -> Showcase:
    """Train into ``out`` with live progress, then evaluate and write page and card.  Returns what the page shows."""
    console, manner = console or Console(stderr=True), manner_of(recipe)
    timings = Timings()
    for line in summary(recipe, console):
        console.print(line, highlight=False, markup=False)
    command = command or repeat_command(recipe, out)
    with timings.measure("training"):
        try:
            result = _train_with_progress(recipe, out, console)
        except Interrupted:
            save_training_facts(out, command, resolve_device(recipe.train.device))
            raise
    save_training_facts(out, command, result.system.device if result.steps_done else None)
    model = manner.open(result.system, str(out), result.step)
    if isinstance(model.recipe.data, Episodes) and model.recipe.data.frames > 1:
        try:
            beginnings.of_run(out, model.recipe.data)  # so that the world starts without its data
        except UserError as error:
            console.print(str(error), highlight=False, markup=False)
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


def summary(recipe: AnyRecipe, console: Console) -> list[str]:
    """What there is to tell of the data, which are looked through.  UserError where they cannot be used."""
    look = getattr(recipe.data, "summary", None)
    if look is None:
        return []
    with console.status("Looking through the folder"):
        return look().lines()


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


def encode_data(recipe: Recipe, root: Path, run: Path, console: Console | None = None) -> Path:
    """Keep the latents of a recipe's training data below ``root``, and return the folder they are in.

    run: where the autoencoder's weights are looked for before its source.  UserError for pixels and for data without
    end.
    """
    console = console or Console(stderr=True)
    source = training_source(recipe)
    if not recipe.latent:
        raise UserError("Pixels are not encoded: name a trained autoencoder with --latents.")
    if not source.versions:
        raise UserError("Every step cuts its own clips of films, whose latents cannot all be kept: train without.")
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
                 device: str = "auto", console: Console | None = None, tasks: int | None = None,
                 rollout: int | None = None) -> Report:
    """Judge a trained run anew, and bring its evaluation.json, page and card up to date."""
    console = console or Console(stderr=True)
    model = load(run, device)
    settle_threads(model)
    timings = Timings()
    with timings.measure("evaluation"):
        report = manner_of(model.recipe).judge(model, console, samples, guidance, seed, tasks, rollout)
    save_report(report, run)
    write_up(model, run, report, timings)
    return report


def judge(model: Model, console: Console, samples: int | None = None, guidance: float | None = None,
          seed: int = 0, tasks: int | None = None, rollout: int | None = None) -> Report:
    """Evaluate by the recipe's settings unless others are given; tasks, rollout: as there."""
    settings = generated.evaluation_settings(model, samples, guidance, seed, tasks, rollout)
    given = filling.tasks(model, settings)

    def sample(prompts: Sequence[str], seed: int) -> Tensor:
        return model.sample(list(prompts), guidance=settings["guidance"], seed=seed).media

    with console.status("Evaluating") as status:

        def tell(doing: str) -> None:
            status.update(f"Evaluating: {doing}")

        if model.enlarges:
            report = enlargements.measure(model, settings, tell)
        else:
            report = evaluate(sample, model.recipe.data, count=settings["samples"], seed=seed, progress=tell)
            if given:
                report = replace(report, rows=[*report.rows, *filling.made(model, settings, given, tell)])
    return replace(report, settings=settings)


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
        weighting=generated.weightings(model) if isinstance(model, Model) else None,
        metrics=read_metrics(out / "metrics.jsonl"), report=report, facts=facts(model, out, timings),
        recipe=recipe_dict(recipe), command=read_training_facts(out).get("command") or repeat_command(recipe, out))
