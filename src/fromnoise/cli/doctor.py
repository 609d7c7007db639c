"""fromnoise doctor: what is there, and what is missing for what."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator

import torch
from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fromnoise import __version__
from fromnoise.cli.options import parse
from fromnoise.config import spec
from fromnoise.machine import memory
from fromnoise.train.threads import available_cores

PURPOSE = {  # of each extra in pyproject.toml
    "video": "films as .mp4 and other video files (fromnoise.films, --data.kind clips)",
    "worlds": "episodes of real environments, and films with logs of actions (fromnoise worlds)",
    "play": "worlds to play in the browser (fromnoise play)",
    "track": "the TensorBoard tracker (--train.tracker tensorboard)",
    "dev": "working on fromnoise itself (make test, make check)",
}


@spec
class Arguments:
    """The doctor takes no options."""


def main(argv: list[str]) -> int:
    parse(Arguments, argv, "fromnoise doctor", about="Say what this machine has, and what is missing for what.")
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    for name, value in [*machine(), *packages()]:
        table.add_row(name, Text(value))
    Console(highlight=False).print(table)
    return 0


def machine() -> Iterator[tuple[str, str]]:
    """Hardware, Python and torch, in words."""
    yield "fromnoise", __version__
    yield "python", f"{platform.python_version()} ({sys.executable})"
    room = f", {there / 2**30:.0f} GiB memory" if (there := memory()) < float("inf") else ""
    yield "system", f"{platform.system()} {platform.machine()}, {available_cores()} of {os.cpu_count()} cores{room}"
    yield "disk", f"{shutil.disk_usage('.').free / 2**30:.0f} GiB free in this folder" + (
        "" if os.access(".", os.W_OK) else ", WHICH CANNOT BE WRITTEN: give --out a folder that can")
    gpu = [f"{name} {v}" for name, v in (("CUDA", torch.version.cuda), ("ROCm", torch.version.hip)) if v]
    yield "torch", f"{torch.__version__}, a {gpu[0] if gpu else 'CPU'} build, {torch.get_num_threads()} threads"
    for device in devices():
        yield "device", device


def devices() -> Iterator[str]:
    """Every device that --train.device can name, best first."""
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        yield f"cuda:{i}, {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        yield "mps"
    yield "cpu"
    if not torch.cuda.is_available() and shutil.which("nvidia-smi"):
        yield "(there may be an NVIDIA GPU that this torch cannot use: see pytorch.org for a CUDA build)"


def packages() -> Iterator[tuple[str, str]]:
    """What the package needs, and what each extra adds, from its metadata."""
    needed = [Requirement(text) for text in metadata.requires("fromnoise") or []]
    core = [r for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    bad = faults(core)
    yield "packages", f"missing: {', '.join(bad)}; pip install --upgrade fromnoise" if bad else "all there"
    for extra in metadata.metadata("fromnoise").get_all("Provides-Extra") or []:
        bad = faults([r for r in needed if r.marker and r.marker.evaluate({"extra": extra}) and r not in core])
        state = f"missing ({', '.join(bad)}); pip install 'fromnoise[{extra}]'" if bad else "there"
        yield f"extra {extra}", f"{state}: for {PURPOSE.get(extra, 'more')}"


def faults(requirements: list[Requirement]) -> list[str]:
    """Requirements that are not met, with what is there instead."""
    found = []
    for requirement in requirements:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            found.append(requirement.name)
            continue
        if not requirement.specifier.contains(version.split("+")[0], prereleases=True):
            found.append(f"{requirement.name} {version}, needed is {requirement.specifier}")
    return found
