"""A model of ours, or one that was opened from a folder of diffusers, written in the layout of diffusers.

What was opened goes back whole, with its weights as they are now.  Of a run of ours the network, its schedule and its
autoencoder go where they have a counterpart; a text encoder that was trained along has none.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fromnoise.codec import Codec, autoencoder_of_run
from fromnoise.files import disk_errors, write_text
from fromnoise.folders import CONFIGS, Component, read_object
from fromnoise.generate import Model
from fromnoise.interop import unet
from fromnoise.interop.autoencoder import EXPORTED, to_diffusers
from fromnoise.interop.configs import counterpart
from fromnoise.interop.convolutional import NoCounterpart
from fromnoise.interop.published import PublishedModel
from fromnoise.interop.rules import give
from fromnoise.interop.save import scheduler_of, write_model, write_pipeline, write_schedule
from fromnoise.interop.told import told_levels
from fromnoise.interop.transformers import FAMILIES
from fromnoise.text import Frozen, FrozenEncoder, LabelEncoder, Trained
from fromnoise.text.opening import without_bars
from fromnoise.types import UserError

KEPT = (".json", ".txt", ".model", ".jinja", ".safetensors")  # of parts that are copied as they are
LATENTS = """
Before a network sees the latents of the {kind}, they are moved to mean 0 and standard deviation 1 by the numbers in its
files (`scaling_factor`, `latents_mean` and `latents_std`, or BatchNorm's).
"""


def export(model: Model | Codec, folder: str | Path) -> list[str]:
    """Write a model to ``folder`` and return sentences on what stands there.  UserError where it has no counterpart."""
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: name a new folder to export to.")
    if isinstance(model, Codec):
        return export_codec(model, folder)
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
    """The network, the schedule and the autoencoder of a run of ours."""
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
    classes, sentences = {name: kind, "scheduler": scheduler}, []
    if recipe.latent:
        try:
            classes["vae"] = export_autoencoder(system.latents, folder)
        except NoCounterpart as reason:
            sentences = [f"{reason} It stays with the run."]
    write_text(folder / "README.md", readme(recipe.name, classes))
    return [*written(folder, classes), *sentences, told_of_text(recipe.text)]


def export_codec(codec: Codec, folder: Path) -> list[str]:
    """The autoencoder of a run that trained one, with what was measured of its latents."""
    classes = {"vae": export_autoencoder(with_statistics(codec), folder)}
    write_text(folder / "README.md", readme(codec.recipe.name, classes))
    return written(folder, classes)


def with_statistics(codec: Codec) -> nn.Module:
    """The autoencoder with latents of mean 0 and standard deviation 1 a channel, where the run has measured them."""
    spec, tensors = autoencoder_of_run(Path(codec.run))
    latents = spec.build(codec.recipe.data.channels)
    latents.load_state_dict(tensors)
    return latents


def export_autoencoder(latents: nn.Module, folder: Path) -> str:
    """Write an autoencoder of ours to ``folder/vae``; its class there.  NoCounterpart where there is none like it."""
    kind, config, tensors = to_diffusers(latents)
    write_model(folder / "vae", kind, config, tensors)
    return kind


def written(folder: Path, classes: Mapping[str, str]) -> list[str]:
    """What stands in the folder."""
    return [f"{folder}/{name} is for {kind}.from_pretrained." for name, kind in classes.items()]


def told_of_text(text: Trained | Frozen) -> str:
    """What becomes of the text encoder."""
    if isinstance(text, Trained):
        return "The text encoder, which was trained along, has no counterpart there and stays with the run."
    mix = " The weights by which its layers are mixed stay with the run." if text.combine == "mix" else ""
    return f"The text encoder was not trained and is not copied: it is in {text.folder}.{mix}"


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


def readme(run: str, classes: Mapping[str, str]) -> str:
    """What the folder is, for whoever finds it."""
    lines = [f'{name} = {kind}.from_pretrained(".", subfolder="{name}")' for name, kind in classes.items()]
    text = (f"# {run}\n\nExported by fromnoise.\n\n```python\nfrom diffusers import {', '.join(classes.values())}\n\n"
            + "\n".join(lines) + "\n```\n")
    return text + (LATENTS.format(kind=classes["vae"]) if "vae" in classes else "")
