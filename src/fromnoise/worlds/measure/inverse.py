"""Inverse dynamics: which action led from the frames before to this one, read by a small network.

What it reads from frames that a world made, beside what it reads from real ones, says whether the world did what it was
told (as in GameWorld and MineWorld).  An action without an effect that can be seen is read from neither.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fromnoise.data.episodes import EpisodeSource
from fromnoise.data.episodes.actions import Actions, Continuous, Discrete
from fromnoise.files import disk_errors, replacing
from fromnoise.perception.features import Classifier
from fromnoise.random import fold
from fromnoise.worlds.measure.windows import led_to, rows_of, seen

SEEN = 3  # frames that are looked at: this one and two before, which tell a speed
NAME, KEY = "inverse.safetensors", "fromnoise.inverse"
BATCH, RATE, NOISE = 64, 4e-3, 0.1


class Inverse:
    """Reads the action that led to the last of ``SEEN`` frames."""

    def __init__(self, known: Actions, height: int, width: int):
        self.known = known
        if isinstance(known, Discrete):
            heads = [known.n]
        else:
            heads = [len(known.low)] if isinstance(known, Continuous) else [2] * known.n
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = Classifier(3 * SEEN, height, width, heads).eval()

    @torch.no_grad()
    def read(self, frames: Tensor, batch: int = 256) -> Tensor:
        """Actions ``[n]`` or ``[n, A]`` from frames ``[n, SEEN, 3, H, W]`` in [-1, 1]."""
        return torch.cat([self.meant(self.net(changes(part))) for part in frames.split(batch)])

    def meant(self, said: list[Tensor]) -> Tensor:
        """The actions that the heads say."""
        if isinstance(self.known, Discrete):
            return said[0].argmax(1)
        if isinstance(self.known, Continuous):
            low, high = torch.tensor(self.known.low), torch.tensor(self.known.high)
            return low + (high - low) * said[0].add(1).div(2).clamp(0, 1)
        return torch.stack([head.argmax(1) for head in said], 1).float()

    def loss(self, said: list[Tensor], actions: Tensor) -> Tensor:
        """Cross-entropy of choices and switches, mean squared error of numbers brought to [-1, 1]."""
        if isinstance(self.known, Discrete):
            return F.cross_entropy(said[0], actions)
        if isinstance(self.known, Continuous):
            low, high = torch.tensor(self.known.low), torch.tensor(self.known.high)
            return F.mse_loss(said[0], 2 * (actions - low) / (high - low).clamp(min=1e-9) - 1)
        return torch.stack([F.cross_entropy(head, actions[:, i].long()) for i, head in enumerate(said)]).mean()


def changes(frames: Tensor) -> Tensor:
    """The last of frames ``[n, SEEN, 3, H, W]`` and how each differs from the one before, ``[n, 3 SEEN, H, W]``."""
    return torch.cat([frames[:, -1:], frames.diff(dim=1)], dim=1).flatten(1, 2)


def fit(known: Actions, source: EpisodeSource, steps: int, progress: Callable[[int], None] | None = None) -> Inverse:
    """A reader of the actions of a split, the same for the same recording.

    Choices are drawn alike, however seldom they are taken: what is read is what is seen, not what is usual.  Frames get
    a little noise, so that small faults of generated ones do not blind it.
    """
    inverse, last = Inverse(known, source.spec.height, source.spec.width), rows_of(source, before=SEEN - 1)
    kinds = [last]
    if isinstance(known, Discrete):
        kinds = [rows for a in range(known.n) if len(rows := last[source.recorded.actions[last] == a])]
    random, rng = torch.Generator().manual_seed(0), np.random.default_rng(int(fold(0)))
    optimizer = torch.optim.AdamW(inverse.net.parameters(), lr=RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    with torch.random.fork_rng(devices=[]):  # of dropout
        torch.manual_seed(0)
        inverse.net.train()
        for step in range(steps):
            rows = np.array([rng.choice(kinds[i]) for i in rng.integers(len(kinds), size=BATCH)])
            frames = seen(source, rows[:, None] + np.arange(1 - SEEN, 1))
            frames = frames + NOISE * torch.randn(frames.shape, generator=random)
            loss = inverse.loss(inverse.net(changes(frames)), led_to(source, rows))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if progress:
                progress(step + 1)
    inverse.net.eval()
    return inverse


def kept(known: Actions, source: EpisodeSource, steps: int, folder: Path,
         progress: Callable[[int], None] | None = None) -> Inverse:
    """The reader in a folder; where there is none of this recording and of so many steps, one is fitted and kept."""
    spec, path = source.spec, folder / NAME
    said = json.dumps({"data": source.fingerprint, "size": [spec.height, spec.width], "held_out": spec.held_out,
                       "frames": spec.frames, "seen": SEEN, "actions": str(known), "steps": steps}, sort_keys=True)
    inverse = Inverse(known, spec.height, spec.width)
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get(KEY) == said:
                inverse.net.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
                return inverse
    except (SafetensorError, OSError, RuntimeError):
        pass  # none is there, or what is there is damaged: it is made again
    inverse = fit(known, source, steps, progress)
    with disk_errors(path), replacing(path) as temporary:
        save_file(inverse.net.state_dict(), temporary, metadata={KEY: said})
    return inverse


def readings(inverse: Inverse, history: Tensor, frames: Tensor) -> Tensor:
    """The action read at each of the frames ``[S, J, K, 3, H, W]`` that follow ``history`` ``[S, T, 3, H, W]``."""
    before = history[:, None, 1 - SEEN :].expand(-1, frames.shape[1], -1, -1, -1, -1)
    whole = torch.cat([before, frames], dim=2)
    looked = torch.stack([whole[:, :, k : k + SEEN] for k in range(frames.shape[2])], dim=2)
    return inverse.read(looked.flatten(0, 2)).unflatten(0, frames.shape[:3])


def score(known: Actions, read: Tensor, told: Tensor) -> float:
    """How well actions were read: the share that is right, of numbers R^2 in the mean over those that vary."""
    if not isinstance(known, Continuous):
        return float((read == told).double().mean())
    read, told = read.double().flatten(0, -2), told.double().flatten(0, -2)
    spread = (told - told.mean(0)).square().sum(0)
    varied = spread > 0
    return float((1 - (read - told).square().sum(0)[varied] / spread[varied]).mean())


def shuffled(actions: Any, dims: int, seed: int = 0) -> Any:
    """The same actions in another order: of others, chosen by chance.  dims: leading dimensions that count them."""
    flat = actions.flatten(0, dims - 1)
    order = torch.randperm(len(flat), generator=torch.Generator().manual_seed(int(fold(seed))))
    return flat[order].view_as(actions)
