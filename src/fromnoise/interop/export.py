"""A model of ours, or one that was opened from a folder of diffusers, written in the layout of diffusers.

What was opened goes back whole, with its weights as they are now.  Of a run of ours the network and its schedule go
where they have a counterpart; its text encoder, which was trained along, has none.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fromnoise.files import disk_errors, write_text
from fromnoise.folders import CONFIGS, Component, read_object
from fromnoise.generate import Model
from fromnoise.interop import unet
from fromnoise.interop.autoencoder import EXPORTED, to_diffusers
from fromnoise.interop.configs import counterpart
from fromnoise.interop.published import PublishedModel
from fromnoise.interop.rules import give
from fromnoise.interop.save import scheduler_of, write_model, write_pipeline, write_schedule
from fromnoise.interop.told import told_levels
from fromnoise.interop.transformers import FAMILIES
from fromnoise.text import FrozenEncoder, LabelEncoder
from fromnoise.text.opening import without_bars
from fromnoise.types import UserError

KEPT = (".json", ".txt", ".model", ".jinja", ".safetensors")  # of parts that are copied as they are


def export(model: Model, folder: str | Path) -> list[str]:
    """Write a model to ``folder`` and return sentences on what stands there.  UserError where it has no counterpart."""
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: name a new folder to export to.")
    return export_published(model, folder) if isinstance(model, PublishedModel) else export_run(model, folder)


def export_published(model: PublishedModel, folder: Path) -> list[str]:
    """Everything that was opened, as a pipeline."""
    pipeline, written = model.pipeline, {}
    for name, part in pipeline.components.items():
        if not part.folder.is_dir():
            continue  # it was not there to be opened
        if name in ("unet", "transformer"):
            write_model(folder / name, part.kind, part.config, network_weights(model, part))
        elif name == "vae" and isinstance(model.system.latents, EXPORTED):
            kind, config, tensors = to_diffusers(model.system.latents)
            write_model(folder / name, kind, part.config | config, tensors)
        elif not save_encoder(model, name, folder / name):
            copy_part(part, folder / name)
        written[name] = (part.library, part.kind)
    write_pipeline(folder, pipeline.kind, written, pipeline.settings)
    return [f"{folder} holds a whole {pipeline.kind}: diffusers.DiffusionPipeline.from_pretrained opens it."]


def network_weights(model: PublishedModel, part: Component) -> dict[str, Tensor]:
    """The network's tensors under their names, with the tables and classes that stand among them."""
    net, config = model.system.denoiser.net, part.config
    state = net.state_dict()
    if part.name == "unet":
        return unet.to_theirs(state, config)
    family = FAMILIES[part.kind]
    tensors = give(state, list(family.rules(net.spec, config)))  # type: ignore[arg-type]
    if isinstance(model.system.text, LabelEncoder):
        tensors |= give(model.system.text.state_dict(), list(family.told(config)))
    files = part.weights() if family.tables else {}
    return tensors | {name: files[name] for name in family.tables if name in files}


def save_encoder(model: PublishedModel, name: str, folder: Path) -> bool:
    """Whether ``name`` is a text encoder of the model, which is then written."""
    text = model.system.text
    if not isinstance(text, FrozenEncoder):
        return False
    towers = text.spec.towers  # type: ignore[union-attr]
    for tower, (encoder, _) in zip(towers, text.parts, strict=True):
        if name == tower.model:
            with disk_errors(folder), without_bars():
                encoder.save_pretrained(folder)  # type: ignore[operator]
            keep_config(model.pipeline.part(name), folder / CONFIGS[0])
            return True
    return False


def keep_config(part: Component, path: Path) -> None:
    """A model that is half of another is opened by the config of the whole, which it does not write by itself."""
    written = read_object(path)
    if written.get("model_type") != part.config.get("model_type"):
        write_text(path, json.dumps(part.config | {"dtype": written.get("dtype")}, indent=2) + "\n")


def copy_part(part: Component, folder: Path) -> None:
    """A part that is as it was, without anything that would be unpickled."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(part.folder.iterdir()):
            if path.is_file() and path.suffix in KEPT:
                shutil.copyfile(path, folder / path.name)


def export_run(model: Model, folder: Path) -> list[str]:
    """The network and the schedule of a run of ours."""
    recipe, system = model.recipe, model.system
    kind, config = counterpart(recipe, system)
    net, name = system.denoiser.net, "transformer" if kind in FAMILIES else "unet"
    scheduler, schedule = scheduler_of(recipe.path, recipe.objective.prediction)
    state = net.state_dict()
    if scheduler == "DDIMScheduler":
        state = told_levels(net, state, schedule["num_train_timesteps"])
    tensors = (give(state, list(FAMILIES[kind].rules(net.spec, config))) if name == "transformer"  # type: ignore
               else unet.to_theirs(state, config))
    write_schedule(folder / "scheduler", recipe.path, recipe.objective.prediction)
    write_model(folder / name, kind, config, tensors | tables(kind, config))
    write_text(folder / "README.md", readme(recipe.name, name, kind, scheduler))
    return [f"{folder}/{name} is a {kind} and {folder}/scheduler a {scheduler}: their from_pretrained opens them.",
            "The text encoder, which was trained along, has no counterpart there and stays with the run."]


def tables(kind: str, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Fixed tables that diffusers keeps among the weights, as its own class makes them."""
    names = FAMILIES[kind].tables if kind in FAMILIES else ()
    if not names:
        return {}
    try:
        import diffusers
    except ImportError:
        raise UserError(f"A {kind} is written with a table that diffusers makes: pip install 'fromnoise[diffusers]'."
                        ) from None
    state = getattr(diffusers, kind).from_config(dict(config)).state_dict()
    return {name: state[name] for name in names if name in state}


def readme(run: str, name: str, kind: str, scheduler: str) -> str:
    """What the folder is, for whoever finds it."""
    return (f"# {run}\n\nExported by fromnoise.\n\n```python\nfrom diffusers import {kind}, {scheduler}\n\n"
            f'network = {kind}.from_pretrained(".", subfolder="{name}")\n'
            f'scheduler = {scheduler}.from_pretrained(".", subfolder="scheduler")\n```\n')
