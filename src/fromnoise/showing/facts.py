"""What is known of a training in words: its size, time, memory, machine and command."""

from __future__ import annotations

import json
import platform
import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fromnoise.codec import Codec
from fromnoise.files import write_text
from fromnoise.generate import Model
from fromnoise.recipe import AnyRecipe
from fromnoise.system import Built
from fromnoise.train.metrics import read_metrics
from fromnoise.train.threads import available_cores

TRAINING = "training.json"


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


def size_of(system: Built) -> str:
    """The parameters that are learned, those that stay, and those of the autoencoder in front of them, in words."""
    frozen, learned = system.frozen(), system.learned()
    coder = sum(tensor.numel() for tensor in frozen.values())
    kept = sum(p.numel() for name, p in system.named_parameters() if name not in learned and name not in frozen)
    return f"{sum(p.numel() for p in learned.values()):,} parameters" + (
        f" beside {kept:,} that stay" if kept else "") + (f" behind an autoencoder of {coder:,}" if coder else "")


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


def repeat_command(recipe: AnyRecipe, out: Path) -> str:
    """A command that trains the same recipe again, from its file."""
    return shlex.join(["fromnoise", "train", str(out / "recipe.json"), "--out", f"{out}-again"])
