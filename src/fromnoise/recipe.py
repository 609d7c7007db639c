"""The recipe: every choice that makes a model, each one field.

A recipe is data.  Named recipes (``fromnoise.recipes``) are functions that return one; the command line
changes fields before anything is built; ``recipe.json`` in a run folder is the resolved form and can be
trained from directly.
"""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

import fromnoise
from fromnoise.config import from_dict, nearest, read_json, spec, to_dict
from fromnoise.data.digits import Digits
from fromnoise.data.glyphs import Glyphs
from fromnoise.data.pictures import Folder
from fromnoise.data.shapes import Shapes
from fromnoise.denoise import Guidance, Guided
from fromnoise.latents import Pixels
from fromnoise.nets import Transformer, Trunk, UNet
from fromnoise.process import Flow, Implied, Objective, Path
from fromnoise.sample import SOLVERS, Procedure
from fromnoise.text import Trained
from fromnoise.types import UserError

FORMAT = 2  # of recipe.json; raised when an older library could no longer read it rightly
OLDEST = 1  # with a number for sample.guidance, which is still short for its scale


def _folder_name(name: str) -> str:
    """A name that can be a folder in runs/ and leads nowhere else."""
    if name.strip() in ("", ".", "..") or len(name.encode()) > 200 or any(c in "/\\" or ord(c) < 32 for c in name):
        raise PydanticCustomError("name", "should be a plain name, since it names the run's folder in runs/: not "
                                          "empty, without / or \\, and not . or ..")
    return name


USABLE = ("auto", *(name for name in SOLVERS if name != "picard"))  # picard asks for other batches than a prompt's


def _solver(name: str) -> str:
    """The name of a solver."""
    if name not in USABLE:
        raise PydanticCustomError("solver", "is not the name of a solver. {hint}", {"hint": nearest(name, USABLE)})
    return name


Average = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, AfterValidator(_folder_name)]


@spec
class Optimizer:
    """How weights move: AdamW everywhere, or Muon on matrices and AdamW on the rest."""

    matrices: Literal["muon", "adamw"] = "muon"
    """What updates the matrices inside the blocks; everything else uses AdamW."""
    lr: Annotated[float, Field(gt=0)] = 2e-3
    """Learning rate of AdamW."""
    muon_lr: Annotated[float, Field(gt=0)] = 0.02
    """Learning rate of Muon."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay of both."""
    betas: tuple[Average, Average] = (0.9, 0.99)
    """AdamW's averages of gradients and squared gradients."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient; a larger one is scaled down."""
    warmup: Annotated[int, Field(ge=0)] = 50
    """Steps over which the rates rise from zero."""
    cooldown: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Last part of training over which the rates fall linearly to zero."""


@spec
class Training:
    """How long, with what, and what is kept."""

    steps: Annotated[int, Field(gt=0)] = 1000
    """Optimiser steps."""
    batch: Annotated[int, Field(gt=0)] = 64
    """Examples a step."""
    optimizer: Optimizer = Optimizer()
    text_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of captions replaced by the empty text, which classifier-free guidance needs."""
    self_conditioning: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of steps in which the network is told its own estimate of x0, as it then is in sampling (Analog Bits)."""
    ema: Annotated[float, Field(gt=0, lt=0.28)] = 0.1
    """Width of the power-function average of the weights, relative to the training length (EDM2's sigma_rel)."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto takes a GPU where there is one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Autocast of the network; auto is bfloat16 on GPUs that have it and float32 elsewhere."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 measures which number is fastest and keeps it for the run."""
    checkpoint_every: Annotated[int, Field(gt=0)] = 250
    """Steps between checkpoints, to which a stopped run returns."""
    keep: Annotated[int, Field(ge=1)] = 2
    """Checkpoints kept."""
    preview_every: Annotated[int, Field(ge=0)] = 250
    """Steps between preview pictures; 0 for none."""
    tracker: Literal["none", "tensorboard"] = "none"
    """Where metrics go besides metrics.jsonl."""


@spec
class Sampling:
    """How pictures are made unless the caller says otherwise."""

    solver: Annotated[str, AfterValidator(_solver)] = "dpmpp_2m"
    """What integrates from noise to picture: a name of docs/solvers.md, or auto, which also chooses the grid."""
    steps: Annotated[int, Field(ge=1, le=10_000)] = 20
    """Solver steps."""
    guidance: Guided = Guidance()
    """Guidance; a number alone is its scale, of which 1 is none."""
    grid: Literal["uniform", "quadratic", "cosine", "sigmoid", "beta", "karras", "logsnr", "angle", "flow"] = "uniform"
    """Where the steps are on the clock."""
    shift: Annotated[float, Field(gt=0)] = 1.0
    """Shift of the time grid towards noise."""


@spec
class Evaluation:
    """What is measured after training."""

    samples: Annotated[int, Field(gt=0)] = 600
    """Pictures generated and judged."""
    guidance: Annotated[float, Field(ge=0)] | None = None
    """Scale of guidance while judging, the rest as in sampling; by default that of sampling too."""


Data = Annotated[Digits | Glyphs | Shapes | Folder, Field(discriminator="kind")]
Net = Annotated[Transformer | UNet | Trunk, Field(discriminator="kind")]


@spec
class Recipe:
    """A model, its data, its training and its use."""

    name: Name
    """What the run is called."""
    data: Data
    text: Trained = Trained()
    latents: Pixels = Pixels()
    path: Path = Flow()
    objective: Objective = Objective()
    net: Net = Transformer()
    train: Training = Training()
    sample: Sampling = Sampling()
    evaluate: Evaluation = Evaluation()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Fixes initial weights, the order of the data and all noise."""

    def save(self, path: FilePath) -> None:
        """Write recipe.json."""
        import json

        from fromnoise.files import write_text

        write_text(path, json.dumps(recipe_dict(self), indent=2, ensure_ascii=False) + "\n")


def recipe_dict(recipe: Recipe) -> dict[str, Any]:
    """The JSON form, with the format and the library's version first."""
    return {"format": FORMAT, "fromnoise": fromnoise.__version__, **to_dict(recipe)}


def load_recipe(path: FilePath) -> Recipe:
    """The recipe in a file.  UserError where it is missing, damaged, newer than this library, or wrong."""
    return read_recipe(read_json(path), str(path))


def read_recipe(data: Any, where: str, kind: type[Recipe] = Recipe) -> Recipe:
    """A recipe of a kind from its JSON form.  UserError as for ``load_recipe``, naming ``where`` it stands."""
    if not isinstance(data, dict):
        raise UserError(f"{where} is not a recipe: it must be a JSON object.")
    version, found = data.get("fromnoise", "unknown"), data.get("format", FORMAT)
    if type(found) is not int or found < OLDEST:
        raise UserError(f"{where} has recipe format {found!r:.60}, which is not known here: it must be {OLDEST} to "
                        f"{FORMAT}.")
    if found > FORMAT:
        raise UserError(f"{where} was written by a newer fromnoise ({version}, recipe format {found}; this is "
                        f"{fromnoise.__version__}, format {FORMAT}): update fromnoise to open it.")
    return from_dict(kind, {k: v for k, v in data.items() if k not in ("format", "fromnoise")}, where)


# Fields that do not change what is learned.
OPERATIONAL = ("name", "source", "sample.", "evaluate.", "train.device", "train.threads", "train.checkpoint_every",
               "train.keep", "train.preview_every", "train.tracker")


def differences(a: Recipe, b: Recipe) -> dict[str, tuple[object, object]]:
    """The fields, dotted, in which two recipes learn something else: ``{"train.batch": (64, 32)}``."""
    return {field: values for field, values in changes(a, b).items() if not field.startswith(OPERATIONAL)}


def changes(a: Any, b: Any) -> dict[str, tuple[object, object]]:
    """The fields, dotted, in which two specs differ at all."""
    old, new = _leaves(to_dict(a)), _leaves(to_dict(b))
    return {field: (old.get(field), new.get(field)) for field in sorted(old.keys() | new.keys())
            if old.get(field) != new.get(field)}


def has_own_grid(sampling: Sampling) -> bool:
    """Whether the solver chooses its times itself, so that grid and shift say nothing."""
    return sampling.solver == "auto" or isinstance(SOLVERS[sampling.solver], Procedure)


def without_effect(recipe: Recipe) -> dict[str, str]:
    """The fields, dotted, that the other choices leave without effect, and why."""
    objective, optimizer, net = recipe.objective, recipe.train.optimizer, recipe.net
    implied = isinstance(objective.weighting, Implied)
    idle = {
        "objective.max_weight": implied and objective.prediction == objective.loss
        and "prediction and loss are the same",
        "objective.loss": not implied and "the weighting says how errors count in every space",
        "objective.shared_offset": not objective.stratified and "times are not stratified",
        "text.vocabulary": recipe.text.tokenizer == "bytes" and "the tokenizer is bytes",
        "net.reach": isinstance(net, Transformer) and net.positions == "rotary" and "positions are rotary",
        "net.heads": isinstance(net, UNet) and net.head_width > 0 and "net.head_width says how wide a head is",
        "net.groups": isinstance(net, UNet) and net.magnitude and "magnitude-preserving layers have no norms",
        "train.optimizer.muon_lr": optimizer.matrices == "adamw" and "matrices use AdamW, whose rate is lr",
    }
    if has_own_grid(recipe.sample):
        idle |= dict.fromkeys(("sample.grid", "sample.shift"), f"the solver {recipe.sample.solver} has its own grid")
    if isinstance(SOLVERS.get(recipe.sample.solver), Procedure):
        idle["sample.steps"] = f"{recipe.sample.solver} chooses its own steps"
    of_guidance = {f"sample.guidance.{field}": why for field, why in recipe.sample.guidance.idle().items()}
    return {field: why for field, why in (idle | of_guidance).items() if isinstance(why, str)}


def _leaves(values: dict[str, Any], prefix: str = "") -> dict[str, object]:
    """A nested recipe as dotted fields: ``{"train.batch": 64, ...}``."""
    found: dict[str, object] = {}
    for key, value in values.items():
        found |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
