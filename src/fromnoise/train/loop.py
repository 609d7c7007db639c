"""The training loop: data -> loss -> step -> average, checkpoints on the way, resumable at any point.

To go on with a stopped run, call ``train`` again with the same recipe and folder.  Everything random is
a function of (seed, step), and a checkpoint holds weights, average and optimiser state, so the resumed
run ends in the same weights, bit for bit on the same machine, as one that was never stopped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from fromnoise.config import to_dict
from fromnoise.nets.trunk.house import is_older
from fromnoise.random import DATA, fold
from fromnoise.recipe import AnyRecipe, differences, load_recipe, read_recipe
from fromnoise.system import NET, Built, System, autocast, build_system, resolve_device
from fromnoise.train.autoencoder import fill_autoencoder, keep
from fromnoise.train.checkpoint import (
    Checkpoint,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizers,
    save_checkpoint,
)
from fromnoise.train.ema import Ema
from fromnoise.train.latent_cache import cached_latents, training_source
from fromnoise.train.lock import locked
from fromnoise.train.memory import keep_freed_memory
from fromnoise.train.methods import METHODS, Method
from fromnoise.train.metrics import MetricsLog
from fromnoise.train.mup import slower
from fromnoise.train.optim import build_optimizers, rate
from fromnoise.train.order import Order
from fromnoise.train.snapshots import Snapshots
from fromnoise.train.start import begin, fill, with_start
from fromnoise.train.threads import fastest_threads
from fromnoise.types import Batch, UserError
from fromnoise.weights import save_weights

LOG_EVERY = 10  # steps between looks at the loss, each of which waits for the device


@dataclass
class Hooks:
    """What a caller is told while training goes on.  All are optional."""

    message: Callable[[str], None] = lambda text: None
    started: Callable[[Built, int], None] = lambda system, step: None
    progress: Callable[[dict], None] = lambda line: None
    preview: Callable[[Built, int], None] = lambda system, step: None
    encoding: Callable[[int, int], None] = lambda done, total: None


@dataclass(frozen=True)
class Result:
    """How a run ended.  ``steps_done`` counts this call; seconds and core_seconds the whole run."""

    system: Built = field(repr=False)
    step: int
    steps_done: int
    seconds: float
    core_seconds: float
    loss: float


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop (Ctrl-C or SIGTERM) and has saved its state."""


def train(recipe: AnyRecipe, out: Path, hooks: Hooks | None = None,
          autoencoder: Callable[[], dict[str, Tensor]] | None = None) -> Result:
    """Train ``recipe`` into the run folder ``out``, going on from its newest whole checkpoint.

    autoencoder: reads the weights of the recipe's latents, when a run starts.

    Raises UserError for a folder that belongs to another recipe or is in use, for a network that does not
    take the data, for losses or weights that are not finite and for a disk that refuses; Interrupted after
    Ctrl-C, when the state has been saved.
    """
    hooks = hooks or Hooks()
    recipe = METHODS[recipe.kind].settled(recipe.resolved())
    with locked(out):
        recipe = with_start(recipe, out)
        found = load_checkpoint(out / "checkpoints", hooks.message)
        if found is not None and ("tokenizer" not in found.state or is_older(found.tensors["weights"], NET)):
            raise UserError(f"The checkpoints in {out} were written by an earlier fromnoise, which this one cannot go "
                            f"on from: choose another folder with --out, or delete {out} to start again.")
        if found is not None and found.step > recipe.train.steps:
            raise UserError(f"{out} has been trained for {found.step} steps already, which is more than train.steps "
                            f"{recipe.train.steps}: ask for more, or choose another --out.")
        if found is None and (out / "model.safetensors").exists() and not (out / "checkpoints").exists():
            raise UserError(f"{out} holds a model and no checkpoints to go on from: choose another folder with --out, "
                            f"or delete {out} to start again.")
        changed = compare(recipe, out, found)
        trainer = Trainer(recipe, out, hooks, found, autoencoder)  # refuses what cannot be built: nothing is left
        recipe.save(out / "recipe.json")
        keep(trainer.system, out)
        trainer.resume(changed)
        trainer.encode_data()
        return trainer.run()


# Fields that may be changed on the way: after losses that were not finite, or to train for longer.
ADJUSTABLE = ("train.steps", "train.optimizer.lr", "train.optimizer.muon_lr", "train.optimizer.clip",
              "train.optimizer.warmup", "train.optimizer.cooldown", "train.optimizer.decay_after")


def compare(recipe: AnyRecipe, out: Path, found: Checkpoint | None) -> str:
    """What is changed on the way against the recipe that the folder was trained with, in words.

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


class Trainer:
    """The state of one run while it trains."""

    def __init__(self, recipe: AnyRecipe, out: Path, hooks: Hooks, found: Checkpoint | None = None,
                 autoencoder: Callable[[], dict[str, Tensor]] | None = None):
        self.recipe, self.out, self.hooks, self.found = recipe, out, hooks, found
        self.device = resolve_device(recipe.train.device)
        self.source = training_source(recipe)
        if len(self.source) == 0:
            raise UserError("The training split has no examples.")
        self.captions = list(self.source.captions)
        # A run keeps the tokenizer that it began with: its weights mean nothing with another.
        start = begin(recipe) if found is None else None
        tokenizer = found.state["tokenizer"] if found else start and start.tokenizer
        self.system = build_system(recipe, self.captions, tokenizer)
        if start is not None:
            fill(self.system, start)
        fill_autoencoder(self.system, out, autoencoder)
        self.system.to(self.device)
        self.words = self.system.words(self.captions)
        self.check_sizes()
        self.method: Method = METHODS[recipe.kind](self.system)
        learned, apart = self.system.learned(), self.method.apart()
        self.parameters = list(learned.values())
        self.led = [p for name, p in learned.items() if name not in apart]  # by the optimisers here
        self.ema = Ema(self.parameters, recipe.train.ema)
        self.snapshots = Snapshots(out, list(learned), self.parameters, recipe.train.snapshots,
                                   recipe.train.steps)
        self.optimizers = build_optimizers(self.system, recipe.train.optimizer, slower(self.system), apart)
        self.rates = [[g["lr"] for g in o.param_groups] for o in self.optimizers]
        self.order = Order(self.source.groups, recipe.train.batch, recipe.seed)
        self.metrics = MetricsLog(out, recipe.train.tracker)
        self.step, self.threads = 0, recipe.train.threads
        self.saved = 0
        self.seconds = self.core_seconds = 0.0  # of earlier calls

    # ---- state -------------------------------------------------------------------------------------

    def check_sizes(self) -> None:
        """UserError where the network cannot take the data."""
        for group in self.source.groups:
            self.system.latent_size(*self.source.batch([group[0]], [0]).media.shape[-2:])

    def resume(self, changed: str = "") -> None:
        """Take up the newest whole checkpoint, if there is one; ``changed``: the fields changed on the way."""
        found, self.found = self.found, None
        for remark in self.system.remarks(self.captions):
            self.hooks.message(remark)
        if found is not None:
            self.system.load_state_dict(found.tensors["weights"] | self.system.frozen())
            self.ema.restore([found.tensors["ema"][name] for name in self.system.learned()])
            restore_optimizers(self.optimizers, found.tensors["optimizer"])
            self.method.restore(found.tensors.get("method", {}))
            self.snapshots.restore(found.tensors, found.step)
            self.step, self.saved = found.step, found.step
            self.threads = self.recipe.train.threads or found.state["threads"]
            self.seconds, self.core_seconds = found.state["seconds"], found.state["core_seconds"]
            self.hooks.message(f"Going on from step {self.step} of {self.recipe.train.steps} in {self.out}.")
            if changed:
                self.hooks.message(f"Changed on the way: {changed}. The run no longer equals one that had this "
                                   "from the start.")
            before, now = found.state["data"], self.data_state()
            if before != now:
                other = "" if before["examples"] != now["examples"] else ", with other captions"
                self.hooks.message(f"The data have changed since this run began: {before['examples']} examples then, "
                                   f"{now['examples']} now{other}. What follows is learned from those of now.")
        self.metrics.cut(self.step)
        self.system.prepare(self.captions, self.out, self.hooks.message)
        if count := len(self.snapshots.due):
            self.hooks.message(f"{count} snapshots of two averages will take {self.snapshots.bytes / 1e6:,.0f} MB in "
                               f"{self.snapshots.folder}.")

    def save(self) -> None:
        """A checkpoint to go on from, and the averaged weights to use."""
        if not all(bool(torch.isfinite(p).all()) for p in self.parameters):
            self.stop_not_finite("The weights were", self.step)
        state = {"threads": self.threads, "seconds": self.elapsed(), "core_seconds": self.cpu_elapsed(),
                 "data": self.data_state(), "tokenizer": self.system.tokenizer, "recipe": to_dict(self.recipe)}
        frozen = self.system.frozen()  # once in the run, and not in every checkpoint
        weights = {name: tensor for name, tensor in self.system.state_dict().items() if name not in frozen}
        tensors = {"weights": weights, "ema": self.average(),
                   "optimizer": optimizer_tensors(self.optimizers), **self.snapshots.tensors()}
        if held := self.method.tensors():
            tensors["method"] = held
        save_checkpoint(self.out / "checkpoints", Checkpoint(self.step, tensors, state), self.recipe.train.keep)
        self.saved = self.step
        self.save_average()

    def save_average(self) -> None:
        """model.safetensors."""
        tensors = {**self.system.state_dict(), **self.average()}
        save_weights(self.out, tensors, self.system.tokenizer, self.step, self.words)

    def average(self) -> dict[str, Tensor]:
        return dict(zip(self.system.learned(), self.ema.tensors, strict=True))

    def data_state(self) -> dict:
        """What tells whether the data are those the run began with."""
        digest = hashlib.sha256("\0".join(self.captions).encode("utf-8", "surrogatepass")).hexdigest()
        return {"examples": len(self.source), "captions": digest}

    @contextmanager
    def averaged(self) -> Iterator[Built]:
        """The system with the averaged weights in place, for previews."""
        kept = [p.detach().clone() for p in self.parameters]
        _copy(self.ema.tensors, self.parameters)
        try:
            yield self.system.eval()
        finally:
            _copy(kept, self.parameters)
            self.system.train()

    def elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self._start

    def cpu_elapsed(self) -> float:
        return self.core_seconds + time.process_time() - self._cpu_start

    def encode_data(self) -> None:
        """Latents in the place of pictures, where they are kept: those that are missing are encoded first."""
        system, recipe = self.system, self.recipe
        if not isinstance(system, System) or not recipe.latent or self.step == recipe.train.steps:
            return
        if not system.recipe.encoding.cached:
            return
        if self.order.unbounded:
            self.hooks.message("These data have no end, so each step encodes its own: --encoding.examples 20000 would "
                               "train on so many, whose latents are kept.")
            return
        if not self.source.versions:
            self.hooks.message("Every step cuts its own clips, so each encodes its own: no latents are kept.")
            return
        if recipe.train.threads and self.device.type == "cpu":
            torch.set_num_threads(recipe.train.threads)
        self.source = cached_latents(system, self.source, self.out, self.hooks.encoding, self.hooks.message)

    # ---- the loop ----------------------------------------------------------------------------------

    def run(self) -> Result:
        self._start, self._cpu_start = time.perf_counter(), time.process_time()
        spec = self.recipe.train
        first, loss = self.step, float("nan")
        if self.device.type == "cpu" and self.step < spec.steps:
            keep_freed_memory()
            self.threads = self.threads or fastest_threads(self._trial_step)
            torch.set_num_threads(self.threads)
        self.hooks.started(self.system, self.step)
        if self.step == spec.steps:  # a run that was killed after its last checkpoint, or lost this file since
            self.save_average()
        losses: list[Tensor] = []
        with _stop_requests() as stop, Prefetch(self.fetch, self.step) as batches:
            if self.step == 0 and spec.preview_every:
                self.preview()
            while self.step < spec.steps:
                losses.append(self.train_step(batches.next()))
                self.step += 1
                last = self.step == spec.steps
                saving = self.step % spec.checkpoint_every == 0 or last or stop.is_set()
                if self.step % LOG_EVERY == 0 or saving:
                    loss = self.log(losses)
                    losses = []
                if saving:
                    self.save()
                if stop.is_set() and not last:
                    self.metrics.close()
                    raise Interrupted(f"Stopped at step {self.step} of {spec.steps}; all is saved in {self.out}. "
                                      "Run the same command again to go on.")
                if spec.preview_every and (self.step % spec.preview_every == 0 or last):
                    self.preview()
        self.metrics.close()
        _copy(self.ema.tensors, self.parameters)
        if self.method.conclude(self.out, self.source, self.step):
            self.save_average()
        return Result(self.system.eval(), self.step, self.step - first, self.elapsed(), self.cpu_elapsed(), loss)

    def train_step(self, batch: Batch) -> Tensor:
        """One update; returns the loss without waiting for it."""
        spec = self.recipe.train.optimizer
        factor = rate(self.step, self.recipe.train.steps, spec)
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, lr in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = lr * factor
        with autocast(self.device, self.recipe.train.precision):
            loss = self.method.loss(batch, self.recipe.seed, self.step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.led, spec.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.method.follow(factor)
        self.ema.update(self.parameters, self.step + 1)
        self.snapshots.take(self.parameters, self.step + 1)
        return loss.detach()

    def fetch(self, step: int) -> Batch:
        """The batch of a step, on the device."""
        indices = self.order.indices(step)
        keys = fold(self.recipe.seed, DATA, step, range(len(indices)))
        batch = self.source.batch(indices, keys.tolist())
        latents = None if batch.latents is None else batch.latents.map(self.moved)
        fps = None if batch.fps is None else self.moved(batch.fps)
        return dataclasses.replace(batch, media=self.moved(batch.media), latents=latents, fps=fps)

    def moved(self, tensor: Tensor) -> Tensor:
        """On the device, without waiting for it where that can be."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def preview(self) -> None:
        """Show the averaged model; a preview that fails never ends training."""
        try:
            with self.averaged() as system:
                self.hooks.preview(system, self.step)
        except UserError:
            raise
        except Exception as e:
            self.hooks.message(f"The preview at step {self.step} failed ({type(e).__name__}: {e}); training goes on.")

    def log(self, losses: list[Tensor]) -> float:
        """Check and record the losses since the last look."""
        values = torch.stack(losses).float().cpu()
        finite = torch.isfinite(values)
        if not bool(finite.all()):
            self.stop_not_finite("The loss was", self.step - len(losses) + int((~finite).nonzero()[0]) + 1)
        loss = float(values.mean())
        line = {"step": self.step, "loss": loss, "lr": self.optimizers[0].param_groups[0]["lr"],
                "seconds": round(self.elapsed(), 3), "core_seconds": round(self.cpu_elapsed(), 3),
                **self.method.parts()}
        self.metrics.write(line)
        self.hooks.progress(line)
        return loss

    def stop_not_finite(self, what: str, step: int) -> NoReturn:
        """UserError that says what to do about numbers that are not finite."""
        self.metrics.close()
        kept = f"the last good checkpoint (step {self.saved}) is kept and gone on from" if self.saved else (
            "nothing was saved yet")
        raise UserError(
            f"{what} not finite at step {step}; {kept}. Try a lower --train.optimizer.lr (and "
            "--train.optimizer.muon-lr), a smaller --train.optimizer.clip, or a longer --train.optimizer.warmup.")

    def _trial_step(self) -> None:
        """A step's work without its effect, to measure thread counts."""
        self.method.loss(self.fetch(0), self.recipe.seed, 0).backward()
        for p in self.parameters:
            p.grad = None


@torch.no_grad()
def _copy(source: list[Tensor], target: list[torch.nn.Parameter]) -> None:
    torch._foreach_copy_(list(target), source)


class Prefetch:
    """Batches made one step ahead on a thread, so that the loader hides behind the network."""

    def __init__(self, fetch: Callable[[int], Batch], step: int):
        self.fetch, self.step = fetch, step
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="data")
        self.future = self.pool.submit(fetch, step)

    def next(self) -> Batch:
        batch = self.future.result()
        self.step += 1
        self.future = self.pool.submit(self.fetch, self.step)
        return batch

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *_) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """Set when Ctrl-C or SIGTERM asks for a stop; a second Ctrl-C stops at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def ask(number, frame):
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


