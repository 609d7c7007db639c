"""Post-hoc EMA: an average of any width from snapshots of two averages (Karras et al. 2024, "EDM2", section 3.2).

    RUN/snapshots/step-000500.safetensors      both averages after step 500, as "<width>/<name of the weight>"

A power-function average gives every earlier step a share of itself, its profile.  The profile of any width is nearly a
sum of those of the snapshots; the same sum of the snapshots is then nearly the average of that width.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fromnoise.files import disk_errors, replacing
from fromnoise.train.ema import Ema, gamma_of
from fromnoise.types import UserError

WIDTHS = (0.05, 0.10)  # of the averages that are tracked, relative to training so far (EDM2)
BINS = 8192  # into which the steps of a long training are put for the least squares
_NAME = re.compile(r"step-(\d{6,})\.safetensors")


class Snapshots:
    """Two averages of the weights, kept beside them while training goes on, and the snapshots taken of them.

    count: how many are taken, evenly over ``steps``, so that the recipe bounds their space; 0: none.
    """

    def __init__(self, out: Path, names: Sequence[str], tensors: Sequence[Tensor], count: int, steps: int):
        self.folder, self.names = out / "snapshots", list(names)
        self.averages = {width: Ema(tensors, width) for width in WIDTHS} if count else {}
        self.due = {round(steps * k / count) for k in range(1, count + 1)} if count else set()

    @property
    def bytes(self) -> int:
        """Space that all snapshots take on the disk."""
        return len(self.due) * sum(t.nbytes for average in self.averages.values() for t in average.tensors)

    def take(self, tensors: Sequence[Tensor], step: int) -> None:
        """Take in the weights after step 1, 2, ..., and save the averages where they are due."""
        for average in self.averages.values():
            average.update(tensors, step)
        if step in self.due:
            path = self.folder / f"step-{step:06d}.safetensors"
            flat = {f"{width}/{name}": t.cpu().contiguous() for width, kept in self.tensors().items()
                    for name, t in kept.items()}
            with disk_errors(path), replacing(path) as temporary:
                save_file(flat, temporary)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint holds of the averages: weights by name, by width."""
        return {str(width): dict(zip(self.names, average.tensors, strict=True))
                for width, average in self.averages.items()}

    def restore(self, tensors: dict[str, dict[str, Tensor]], step: int) -> None:
        """Go on from a checkpoint of ``step``; snapshots of later steps belong to what was lost."""
        for width, average in self.averages.items():
            average.restore([tensors[str(width)][name] for name in self.names])
        for later, path in list_snapshots(self.folder.parent):
            if later > step:
                path.unlink()


def list_snapshots(run: Path) -> list[tuple[int, Path]]:
    """(step, file) of every snapshot of a run, in order."""
    folder = run / "snapshots"
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted((int(m[1]), p) for p in files if (m := _NAME.fullmatch(p.name)))


def profiles(edges: Tensor, averages: Iterable[tuple[int, float]]) -> Tensor:
    """``[A, bins]``: the shares that steps from edges[i] + 1 to edges[i + 1] have in averages (step, gamma).

    Steps up to s have the share (s / step)^(gamma + 1) of all: what the update of ``Ema`` comes to, step by step.
    """
    return torch.stack([(edges / step).clamp(max=1).pow(gamma + 1).diff() for step, gamma in averages])


def mixture(snapshots: Sequence[tuple[int, float]], step: int, sigma_rel: float) -> tuple[Tensor, float]:
    """Weights of the snapshots (step, width) whose sum is nearest to the average of width ``sigma_rel`` after ``step``.

    Least squares over the profiles; also how far that of the sum is from the one wanted, relative to it.
    """
    edges = torch.linspace(0, step, min(step, BINS) + 1, dtype=torch.float64)
    given = profiles(edges, [(s, gamma_of(width)) for s, width in snapshots])
    wanted = profiles(edges, [(step, gamma_of(sigma_rel))])[0]
    weights = torch.linalg.lstsq(given.T, wanted[:, None], driver="gelsd").solution[:, 0]
    return weights, float((weights @ given - wanted).norm() / wanted.norm())


def reconstruct(run: Path, sigma_rel: float, step: int | None = None) -> tuple[dict[str, Tensor], int, float]:
    """The average of width ``sigma_rel`` after ``step``, by default that of the last snapshot: (weights, step, error).

    error: that of the profile (``mixture``).  UserError for a run without snapshots, or with none up to ``step``.
    """
    found = list_snapshots(run)
    if not found:
        raise UserError(f"{run} has no snapshots: train with --train.snapshots 16 (or another number) to have them.")
    last = found[-1][0] if step is None else step
    if last > found[-1][0] or last < found[0][0]:
        raise UserError(f"The snapshots of {run} reach from step {found[0][0]} to {found[-1][0]}: choose a step there "
                        f"(got {last}).")
    used = [(s, path, width) for s, path in found if s <= last for width in WIDTHS]
    weights, error = mixture([(s, width) for s, _, width in used], last, sigma_rel)
    total: dict[str, Tensor] = {}
    for weight, (_, path, width) in zip(weights.tolist(), used, strict=True):
        for name, tensor in _read(path, width).items():
            total[name] = total.get(name, 0) + weight * tensor.double()
    return {name: tensor.float() for name, tensor in total.items()}, last, error


def _read(path: Path, width: float) -> dict[str, Tensor]:
    """One average of a snapshot."""
    try:
        with safe_open(path, "pt") as file:
            return {key.split("/", 1)[1]: file.get_tensor(key) for key in file.keys()  # noqa: SIM118
                    if key.startswith(f"{width}/")}
    except (SafetensorError, OSError) as e:
        raise UserError(f"{path} is damaged ({str(e).splitlines()[0]}): delete it, and the others will do.") from None
