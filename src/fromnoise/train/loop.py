"""The training loop: data -> loss -> step -> average, checkpoints on the way, resumable at any point.

To go on with a stopped run, call ``train`` again with the same recipe and folder.  Everything random is
a function of (seed, step), and a checkpoint holds weights, average and optimiser state, so the resumed
run ends in the same weights, bit for bit on the same machine, as one that was never stopped.
"""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fromnoise.config import to_dict
from fromnoise.random import fold
from fromnoise.recipe import Recipe, load_recipe
from fromnoise.system import System, autocast, resolve_device
from fromnoise.train.checkpoint import (
    Checkpoint,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizers,
    save_checkpoint,
)
from fromnoise.train.ema import Ema
from fromnoise.train.lock import locked
from fromnoise.train.methods import Diffusion
from fromnoise.train.metrics import MetricsLog
from fromnoise.train.optim import build_optimizers, rate
from fromnoise.train.order import Order
from fromnoise.train.threads import fastest_threads
from fromnoise.types import Batch, Source, UserError
from fromnoise.weights import save_weights

LOG_EVERY = 10  # steps between looks at the loss, each of which waits for the device


@dataclass
class Hooks:
    """What a caller is told while training goes on.  All are optional."""

    message: Callable[[str], None] = lambda text: None
    started: Callable[[System, int], None] = lambda system, step: None
    progress: Callable[[dict], None] = lambda line: None
    preview: Callable[[System, int], None] = lambda system, step: None


@dataclass(frozen=True)
class Result:
    """How a run ended.  ``steps_done`` counts this call; seconds and core_seconds the whole run."""

    system: System = field(repr=False)
    step: int
    steps_done: int
    seconds: float
    core_seconds: float
    loss: float


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop (Ctrl-C or SIGTERM) and has saved its state."""


def train(recipe: Recipe, out: Path, hooks: Hooks | None = None) -> Result:
    """Train ``recipe`` into the run folder ``out``, going on from its newest whole checkpoint.

    Raises UserError for a folder that belongs to another recipe or is in use, for losses that are not
    finite and for a disk that refuses; Interrupted after Ctrl-C, when the state has been saved.
    """
    with locked(out):
        refuse_another(recipe, out)
        trainer = Trainer(recipe, out, hooks or Hooks())  # refuses what cannot be built, and then nothing is left
        recipe.save(out / "recipe.json")
        trainer.resume()
        return trainer.run()


# Fields that do not change what is learned, and so may differ when a run goes on.
OPERATIONAL = {"train": {"device", "threads", "checkpoint_every", "keep", "preview_every", "tracker"},
               "sample": None, "evaluate": None, "name": None}


def refuse_another(recipe: Recipe, out: Path) -> None:
    """UserError when the recipe that is in the folder would train to other weights."""
    path = out / "recipe.json"
    if path.exists() and (changed := differences(learned_from(load_recipe(path)), learned_from(recipe))):
        raise UserError(f"{out} was trained with another recipe ({changed}): choose another folder with --out, "
                        f"or delete {out} to start again.")


def learned_from(recipe: Recipe) -> dict:
    """The recipe without its operational fields."""
    fields = {k: v for k, v in to_dict(recipe).items() if OPERATIONAL.get(k, ()) is not None}
    fields["train"] = {k: v for k, v in fields["train"].items() if k not in OPERATIONAL["train"]}
    return fields


def differences(a: dict, b: dict, prefix: str = "") -> str:
    """The fields in which two recipes differ: ``train.batch 64 -> 32, ...``."""
    found = []
    for key in sorted(a.keys() | b.keys()):
        old, new = a.get(key), b.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found.append(differences(old, new, f"{prefix}{key}."))
        elif old != new:
            found.append(f"{prefix}{key} {old} -> {new}")
    return ", ".join(filter(None, found))


class Trainer:
    """The state of one run while it trains."""

    def __init__(self, recipe: Recipe, out: Path, hooks: Hooks):
        self.recipe, self.out, self.hooks = recipe, out, hooks
        self.device = resolve_device(recipe.train.device)
        self.source: Source = recipe.data.open("train")
        if len(self.source) == 0:
            raise UserError("The training split has no examples.")
        tokenizer = recipe.text.learn_tokenizer(self.source.captions)
        self.system = System(recipe, tokenizer).to(self.device)
        self.method = Diffusion(self.system)
        self.parameters = list(self.system.parameters())
        self.ema = Ema(self.parameters, recipe.train.ema)
        self.optimizers = build_optimizers(self.system, recipe.train.optimizer)
        self.rates = [[g["lr"] for g in o.param_groups] for o in self.optimizers]
        self.order = Order(self.source.groups, recipe.train.batch, recipe.seed)
        self.metrics = MetricsLog(out, recipe.train.tracker)
        self.step, self.threads = 0, recipe.train.threads
        self.seconds = self.core_seconds = 0.0  # of earlier calls

    # ---- state -------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Take up the newest whole checkpoint, if there is one."""
        found = load_checkpoint(self.out / "checkpoints", self.hooks.message)
        if found is not None:
            self.system.load_state_dict(found.tensors["weights"])
            names = [name for name, _ in self.system.named_parameters()]
            self.ema.tensors = [found.tensors["ema"][name].to(self.device) for name in names]
            restore_optimizers(self.optimizers, found.tensors["optimizer"])
            self.step, self.threads = found.step, found.state["threads"]
            self.seconds, self.core_seconds = found.state["seconds"], found.state["core_seconds"]
            self.hooks.message(f"Going on from step {self.step} of {self.recipe.train.steps} in {self.out}.")
            if (before := found.state.get("examples", len(self.source))) != len(self.source):
                self.hooks.message(f"The data have changed since this run began: {before} examples then, "
                                   f"{len(self.source)} now. What follows is learned from those of now.")
        self.metrics.cut(self.step)

    def save(self) -> None:
        """A checkpoint to go on from, and the averaged weights to use."""
        names = [name for name, _ in self.system.named_parameters()]
        state = {"threads": self.threads, "seconds": self.elapsed(), "core_seconds": self.cpu_elapsed(),
                 "examples": len(self.source)}
        average = dict(zip(names, self.ema.tensors, strict=True))
        tensors = {"weights": dict(self.system.state_dict()), "ema": average,
                   "optimizer": optimizer_tensors(self.optimizers)}
        save_checkpoint(self.out / "checkpoints", Checkpoint(self.step, tensors, state), self.recipe.train.keep)
        save_weights(self.out, average, self.system.text.tokenizer.to_json(), self.step)

    @contextmanager
    def averaged(self) -> Iterator[System]:
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

    # ---- the loop ----------------------------------------------------------------------------------

    def run(self) -> Result:
        self._start, self._cpu_start = time.perf_counter(), time.process_time()
        spec = self.recipe.train
        first, loss = self.step, float("nan")
        if self.device.type == "cpu" and self.step < spec.steps:
            self.threads = self.threads or fastest_threads(self._trial_step)
            torch.set_num_threads(self.threads)
        self.hooks.started(self.system, self.step)
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
        torch.nn.utils.clip_grad_norm_(self.parameters, spec.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.parameters, self.step + 1)
        return loss.detach()

    def fetch(self, step: int) -> Batch:
        """The batch of a step, on the device."""
        indices = self.order.indices(step)
        keys = fold(self.recipe.seed, step, range(len(indices)))
        batch = self.source.batch(indices, keys.tolist())
        media = batch.media
        if self.device.type == "cuda":
            media = media.pin_memory().to(self.device, non_blocking=True)
        return dataclasses.replace(batch, media=media.to(self.device))

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
            step = self.step - len(losses) + int((~finite).nonzero()[0]) + 1
            self.metrics.close()
            raise UserError(
                f"The loss was not finite at step {step}; the last good checkpoint in {self.out / 'checkpoints'} "
                "is kept. Try a lower --train.optimizer.lr (and --train.optimizer.muon-lr), a smaller "
                "--train.optimizer.clip, or a longer --train.optimizer.warmup.")
        loss = float(values.mean())
        line = {"step": self.step, "loss": loss, "lr": self.optimizers[0].param_groups[0]["lr"],
                "seconds": round(self.elapsed(), 3), "core_seconds": round(self.cpu_elapsed(), 3)}
        self.metrics.write(line)
        self.hooks.progress(line)
        return loss

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


