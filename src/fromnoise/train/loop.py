"""The training loop: data -> loss -> step -> average, checkpoints on the way, resumable at any point.

To go on with a stopped run, call ``train`` again with the same recipe and folder.  Everything random is
a function of (seed, step), and a checkpoint holds weights, average and optimiser state, so the resumed
run ends in the same weights, bit for bit on the same machine, as one that was never stopped.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from fromnoise.config import to_dict
from fromnoise.random import DATA, fold
from fromnoise.recipe import AnyRecipe
from fromnoise.system import Built, System, autocast, build_system, resolve_device
from fromnoise.train.autoencoder import fill_autoencoder, keep
from fromnoise.train.checkpoint import (
    Checkpoint,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizers,
    save_checkpoint,
)
from fromnoise.train.ema import Ema
from fromnoise.train.hooks import Hooks, Result
from fromnoise.train.latent_cache import cached_latents, never_cached, training_source
from fromnoise.train.lock import locked
from fromnoise.train.memory import keep_freed_memory
from fromnoise.train.methods import METHODS, Method
from fromnoise.train.metrics import MetricsLog
from fromnoise.train.mup import slower
from fromnoise.train.optim import build_optimizers, rate
from fromnoise.train.order import Order
from fromnoise.train.prefetch import Prefetch
from fromnoise.train.resume import changed_on_the_way, check_folder, data_state, resume_remarks
from fromnoise.train.snapshots import Snapshots
from fromnoise.train.start import begin, fill, with_start
from fromnoise.train.stopping import Interrupted, not_finite, stop_requests
from fromnoise.train.threads import fastest_threads
from fromnoise.types import Batch, UserError
from fromnoise.weights import save_weights

LOG_EVERY = 10  # steps between looks at the loss, each of which waits for the device


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
        check_folder(recipe, out, found)
        changed = changed_on_the_way(recipe, out, found)
        trainer = Trainer(recipe, out, hooks, found, autoencoder)  # refuses what cannot be built: nothing is left
        recipe.save(out / "recipe.json")
        keep(trainer.system, out)
        trainer.resume(changed)
        trainer.encode_data()
        return trainer.run()


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
            for remark in resume_remarks(self.recipe, self.out, found, changed, self.data_state()):
                self.hooks.message(remark)
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
        return data_state(len(self.source), self.captions)

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
        if why := never_cached(self.source, self.order.unbounded):
            self.hooks.message(why)
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
        with stop_requests() as stop, Prefetch(self.fetch, self.step) as batches:
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
        return dataclasses.replace(batch.beside(self.moved), media=self.moved(batch.media))

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
        raise not_finite(what, step, self.saved)

    def _trial_step(self) -> None:
        """A step's work without its effect, to measure thread counts."""
        self.method.loss(self.fetch(0), self.recipe.seed, 0).backward()
        for p in self.parameters:
            p.grad = None


@torch.no_grad()
def _copy(source: list[Tensor], target: list[torch.nn.Parameter]) -> None:
    torch._foreach_copy_(list(target), source)
