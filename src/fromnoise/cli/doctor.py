"""fromnoise doctor: what is there, and what is missing for what."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys

EXTRAS = {
    "track": ("tensorboard", "the TensorBoard tracker (--train.tracker tensorboard)"),
    "dev": ("pytest", "running the tests"),
}


def main(argv: list[str]) -> int:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in facts():
        table.add_row(f"[bold]{name}", value)
    Console().print(table)
    return 0


def facts() -> list[tuple[str, str]]:
    import torch

    from fromnoise import __version__
    from fromnoise.train.threads import available_cores

    free = shutil.disk_usage(".").free / 2**30
    found = [
        ("fromnoise", __version__),
        ("Python", f"{platform.python_version()} at {sys.executable}"),
        ("System", f"{platform.system()} {platform.machine()}, {available_cores()} cores{memory()}"),
        ("Disk", f"{free:.0f} GiB free here" + ("" if os.access(".", os.W_OK) else ", not writable")),
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        ("Devices", ", ".join(devices(torch))),
    ]
    for extra, (module, use) in EXTRAS.items():
        there = importlib.util.find_spec(module) is not None
        found.append((f"extra {extra}", f"{'there' if there else 'missing'}: for {use}"
                      + ("" if there else f"; pip install 'fromnoise[{extra}]'")))
    return found


def memory() -> str:
    try:
        return f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB of memory"
    except (ValueError, OSError, AttributeError):
        return ""


def devices(torch) -> list[str]:
    found = ["cpu"]
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        found.append(f"cuda:{i} ({properties.name}, {properties.total_memory / 2**30:.0f} GiB)")
    if torch.backends.mps.is_available():
        found.append("mps")
    if torch.version.cuda is None and shutil.which("nvidia-smi"):
        found.append("an NVIDIA GPU is there but this torch is a CPU build: install torch with CUDA to use it")
    return found
