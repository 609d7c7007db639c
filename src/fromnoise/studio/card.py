"""The model card of a run folder: what the model is, what it is made of, how good, how to use it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from fromnoise.files import write_text
from fromnoise.studio.page import Showcase, environment, report_how, report_rows

DATA_NOTES = {
    "digits": "Optical Recognition of Handwritten Digits (E. Alpaydin and C. Kaynak, UCI Machine Learning "
    "Repository, CC BY 4.0), 1,797 scans of 8x8 pixels as they come with scikit-learn.",
    "glyphs": "Letters and digits rendered from the DejaVu typefaces (Sans, Serif and Sans Mono) that come "
    "with matplotlib, under their own free licence.",
    "shapes": "Scenes of coloured shapes, rendered by fromnoise itself; no outside data.",
    "clips": "Films from a folder on the machine of the person who trained the model. Their licence, and what it says "
    "about models trained on them, is for that person to state here.",
    "moving": "Clips of coloured shapes that move, fall and bounce, rendered by fromnoise itself; no outside data.",
    "folder": "Pictures from a folder on the machine of the person who trained the model. Their licence, and "
    "what it says about models trained on them, is for that person to state here.",
}

_SECTIONS = {
    "data": "Data",
    "text": "Text encoder",
    "latents": "Latents",
    "net": "Network",
    "loss": "Loss",
    "path": "Path from data to noise",
    "objective": "Objective",
    "train": "Training",
    "sample": "Sampling",
}

_KINDS = {
    "flow": "straight-line flow, x_t = (1 - t) x0 + t eps",
    "cosine": "cosine path, variance preserving",
    "trunk": "transformer over patches and words",
    "unet": "U-Net",
    "pixels": "the pixels themselves",
    "kl": "KL autoencoder",
    "trained": "trained along with the model",
    "frozen": "trained by others, and left as it is",
}


def write_card(
    path: str | Path, showcase: Showcase, *, run: str = "", data: str = "", licence: str = ""
) -> Path:
    """Write the model card (Markdown, with the metadata block that model hubs read), whole or not at all.

    run: the run folder as the reader would type it, by default the folder of ``path``.
    data, licence: notes on where the data come from and how the weights may be used; without them the
    card says what is known of the recipe's data, and that a licence has not been stated.
    Raises UserError when it cannot be written.
    """
    path = Path(path)
    write_text(path, render_card(showcase, run=run or path.parent.as_posix(), data=data, licence=licence))
    return path


def render_card(showcase: Showcase, *, run: str, data: str = "", licence: str = "") -> str:
    """The card as text; see ``write_card``."""
    prompt = " ".join(next((p for p in showcase.prompts if p), "").split())  # a code block takes one line
    enlarges = showcase.small is not None
    through = showcase.reconstructions is not None and not enlarges
    moves = showcase.grid is not None and showcase.grid.shape[2] > 1
    thing, made = ("film", "text-to-video") if moves else ("picture", "text-to-image")
    kind = (showcase.recipe.get("data") or {}).get("kind", "")
    sampling = showcase.recipe.get("sample") or {}
    env = environment(autoescape=False)
    env.filters["md"] = escape_markdown
    text = env.get_template("card.md.j2").render(
        showcase=showcase,
        prompt=prompt,
        through=through,
        enlarges=enlarges,
        moves=moves,
        what="an autoencoder" if through else f"a {made if prompt else thing} model"
        + (" that enlarges small pictures," if enlarges else ""),
        python_run=json.dumps(run, ensure_ascii=False),
        python_prompt=json.dumps(prompt, ensure_ascii=False),
        steps=int(sampling.get("steps", 20)),
        guidance=scale_of(sampling.get("guidance", 2.0)),
        shell_sample=shlex.join(["fromnoise", "sample", run, prompt, *(["--image", "small.png"] if enlarges else [])]),
        shell_evaluate=shlex.join(["fromnoise", "evaluate", run]),
        choices=recipe_in_words(showcase.recipe),
        rows=report_rows(showcase.report),
        report_how=report_how(showcase.report),
        data=data or DATA_NOTES.get(kind, ""),
        licence=licence,
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def scale_of(guidance: Any) -> float:
    """The scale of a recipe's guidance, which older recipes have as a number."""
    return float(guidance["scale"] if isinstance(guidance, dict) else guidance)


def recipe_in_words(recipe: dict[str, Any]) -> list[tuple[str, str]]:
    """(part, choices) of a recipe, such as ("Network", "transformer over patches and words; width 96")."""
    return [
        (title, _phrase(recipe[key]))
        for key, title in _SECTIONS.items()
        if isinstance(recipe.get(key), dict) and recipe[key]
    ]


def _phrase(section: dict[str, Any]) -> str:
    kind = section.get("kind")
    plain, nested = [], []
    for key, value in section.items():
        name = key.replace("_", " ")
        if key == "kind" or value is None:
            continue
        if isinstance(value, dict):
            nested.append(f"{name} ({_phrase(value).replace('; ', ', ')})" if value else "")
        elif isinstance(value, bool):
            plain.append(name if value else f"{name} off")
        elif isinstance(value, list | tuple):
            plain.append(f"{name} {' '.join(str(v) for v in value)}")
        else:
            plain.append(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}")
    words = [_KINDS.get(str(kind), str(kind).replace("_", " "))] if kind else []
    return "; ".join(part for part in [*words, ", ".join(plain), *nested] if part)


def escape_markdown(text: str) -> str:
    """Text that Markdown and HTML show as it is, on one line and inside a table cell."""
    text = " ".join(str(text).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", text)
