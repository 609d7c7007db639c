"""The demo: train the default model, measure it, and write one page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from fromnoise.recipes import digits
from fromnoise.studio import write_page
from fromnoise.workflow import train_run


def demo(out: Path, console: Console | None = None) -> Path:
    """Train the demo's models below ``out``, stopped ones going on, and return the path of their page."""
    console = console or Console(stderr=True)
    recipes = [digits()]
    shown = []
    for recipe in recipes:
        showcase = train_run(recipe, out / recipe.name, "fromnoise demo", console)
        if showcase.report is not None:
            console.print(showcase.report.table())
        shown.append(replace(showcase, command="fromnoise demo"))
    return write_page(out / "index.html", "fromnoise: from noise to picture", shown)
