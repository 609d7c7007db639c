"""The recipe: every choice that makes a model, each one field.

A recipe is data.  Named recipes (``fromnoise.recipes``) are functions that return one; the command line
changes fields before anything is built; ``recipe.json`` in a run folder is the resolved form and can be
trained from directly.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

import fromnoise
from fromnoise.blocks import TemporalSpec
from fromnoise.config import Named, Short, from_dict, nearest, read_json, spec, to_dict
from fromnoise.data.clips import Clips
from fromnoise.data.digits import Digits
from fromnoise.data.episodes import Episodes
from fromnoise.data.glyphs import Glyphs
from fromnoise.data.moving import Moving
from fromnoise.data.pictures import Folder
from fromnoise.data.shapes import Shapes
from fromnoise.denoise import Guidance, Guided, Held, Keep
from fromnoise.films import PLAYED
from fromnoise.latents import KL, CausalKL, EndToEnd, Foreign, Latents, Pixels, Reconstruction, Representation
from fromnoise.nets import Trunk, UNet, house
from fromnoise.process import Flow, Frames, Implied, Objective, Path, Upsampling
from fromnoise.sample import SOLVERS, FullSequence, Order, Procedure
from fromnoise.terms import Contrastive, Direction, Dispersive, Hub, Repa
from fromnoise.text import Frozen, Trained
from fromnoise.types import UserError

FORMAT = 3  # of recipe.json; raised when an older library could no longer read it rightly
OLDEST = 1  # with a number for sample.guidance, which is still short for its scale; 2 had no kinds of recipes


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
    decay_after: Annotated[int, Field(ge=0)] = 0
    """Steps after which the rates fall as 1 / sqrt(steps) (EDM2, eq. 67); 0: they hold until the cool-down."""
    base_width: Annotated[int, Field(ge=0)] = 0
    """Width of the network for which the rates were chosen: at another net.width they follow muP; 0: no such rule."""


@spec
class Schedule:
    """How long, with what, and what is kept."""

    steps: Annotated[int, Field(gt=0)] = 1000
    """Optimiser steps."""
    batch: Annotated[int, Field(gt=0)] = 64
    """Examples a step."""
    optimizer: Optimizer = Optimizer()
    ema: Annotated[float, Field(gt=0, lt=0.28)] = 0.1
    """Width of the power-function average of the weights, relative to the training length (EDM2's sigma_rel)."""
    snapshots: Annotated[int, Field(ge=0)] = 0
    """Snapshots of two averages that are kept, evenly over training, from which `fromnoise ema` makes one of any
    width; each takes twice the space of the weights."""
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
class Encoding:
    """The trained autoencoder in front of the model, and the latents that are kept of its data."""

    source: str = ""
    """The folder its weights were read from: a run of ours or an autoencoder of diffusers; --latents sets it."""
    sha256: str = ""
    """Of these weights, which are kept in the run: the folder is read only when a run starts."""
    draw: bool = False
    """Train on draws of the latents' distribution, new ones in each step, and not on its mean."""
    examples: Annotated[int, Field(ge=0)] = 0
    """How many examples to train on, of data without end; 0 for all, which cannot be kept and are encoded anew."""
    cached: bool = True
    """Encode the data once and keep the latents, where the data have an end."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """In which latents are kept; bfloat16 takes half the room and is right to three digits."""
    folder: str = ""
    """Where latents are kept; by default latent-cache beside the run, which runs share."""


@spec
class Start:
    """The weights that training begins with, where they are not random: the run is a branch of another."""

    run: str = ""
    """A run folder whose averaged weights are taken, of the same network, or of one that is the same but for layers
    along time (net.temporal): those begin as the identity, and the image model is inflated to films."""
    sha256: str = ""
    """Of these weights, which are read only when the run starts; it sets this itself."""


@spec
class Training(Schedule):
    """How long, with what, and what is kept; and what a diffusion model is told on the way."""

    start: Annotated[Start, Short("run")] = Start()

    only: Literal["all", "temporal"] = "all"
    """What is trained: all that is learned, or the layers along time alone, while the image model that train.start
    names stays as it is."""
    text_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of captions replaced by the empty text, which classifier-free guidance needs."""
    self_conditioning: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of steps in which the network is told its own estimate of x0, as it then is in sampling (Analog Bits)."""
    stills: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of steps in which single frames take the place of films, as pictures (joint image and video training)."""
    frames: Frames = Frames()
    repa: Repa = Repa()
    dispersive: Dispersive = Dispersive()
    contrastive: Contrastive = Contrastive()
    direction: Direction = Direction()
    end_to_end: Annotated[EndToEnd, Short("lr")] = EndToEnd()


TERMS = ("repa", "dispersive", "contrastive", "direction")  # fields of Training that are added to the loss


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
    schedule: Order = FullSequence()
    """In which order the frames of a clip come out of the noise."""
    keep: Keep = Held()
    """How frames and pixels that are given are kept."""
    augment: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Noise on the small picture that is enlarged, as upsample.noise says it."""


@spec
class Evaluation:
    """What is measured after training."""

    samples: Annotated[int, Field(gt=0)] = 600
    """Pictures generated and judged."""
    guidance: Annotated[float, Field(ge=0)] | None = None
    """Scale of guidance while judging, the rest as in sampling; by default that of sampling too."""


@spec
class Looking:
    """What is measured of an autoencoder after training."""

    samples: Annotated[int, Field(gt=1)] = 512
    """Held-out pictures that are taken through it."""


def _learns(latents: Any) -> Any:
    """An autoencoder with something to learn."""
    if isinstance(latents, Pixels | Foreign):
        kind = "pixels have nothing to train" if isinstance(latents, Pixels) else "foreign ones are not trained here"
        raise PydanticCustomError("latents", "should be an autoencoder, such as kl: {kind}", {"kind": kind})
    return latents


Data = Annotated[Digits | Glyphs | Shapes | Moving | Folder | Clips | Episodes, Field(discriminator="kind")]
Learned = Annotated[Latents, AfterValidator(_learns)]
Text = Annotated[Trained | Frozen, Field(discriminator="kind")]
Net = Annotated[UNet | Trunk, Field(discriminator="kind"), Named("transformer", house)]


class Saved:
    """What recipes of every kind have in common."""

    @property
    def latent(self) -> bool:
        """Whether a trained autoencoder stands in front of what is trained."""
        return False

    def resolved(self) -> Self:
        """The recipe with what it names from outside looked up and written down."""
        return self

    def save(self, path: FilePath) -> None:
        """Write recipe.json."""
        import json

        from fromnoise.files import write_text

        write_text(path, json.dumps(recipe_dict(self), indent=2, ensure_ascii=False) + "\n")  # type: ignore[arg-type]


@spec
class Recipe(Saved):
    """A model, its data, its training and its use."""

    kind: Literal["diffusion"] = "diffusion"
    name: Name
    """What the run is called."""
    data: Data
    text: Text = Trained()
    latents: Latents = Pixels()
    encoding: Encoding = Encoding()
    path: Path = Flow()
    objective: Objective = Objective()
    upsample: Upsampling = Upsampling()
    net: Net = house()
    train: Training = Training()
    sample: Sampling = Sampling()
    evaluate: Evaluation = Evaluation()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Fixes initial weights, the order of the data and all noise."""

    @property
    def latent(self) -> bool:
        return not isinstance(self.latents, Pixels)

    @property
    def fps(self) -> float:
        """Frames a second at which its films are made unless the caller says otherwise; 0 where data are pictures."""
        return (getattr(self.data, "fps", 0.0) or PLAYED) if self.data.frames > 1 else 0.0

    @property
    def joint(self) -> bool:
        """Whether the autoencoder goes on learning with the network."""
        return self.train.end_to_end.lr > 0

    def resolved(self) -> Self:
        """The recipe with what its data and text encoder name from outside, and room in its network for the small
        picture."""
        told = self.upsample.channels(self.data.channels)
        net = replace(self.net, image_channels=self.net.image_channels or told)
        data = self.data.resolved() if isinstance(self.data, Episodes) else self.data
        return replace(self, data=data, text=self.text.resolved(), net=net)

    def idle(self) -> dict[str, str]:
        """The fields, dotted, that the other choices leave without effect, and why."""
        return _idle(self)


@spec
class Coder(Saved):
    """An autoencoder, its data and its training: the latents that diffusion models may then be made in."""

    kind: Literal["autoencoder"] = "autoencoder"
    name: Name
    """What the run is called."""
    data: Data
    latents: Learned = KL()
    loss: Reconstruction = Reconstruction()
    train: Schedule = Schedule()
    evaluate: Looking = Looking()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Fixes initial weights, the order of the data and all noise."""

    def idle(self) -> dict[str, str]:
        """The fields, dotted, that the other choices leave without effect, and why."""
        idle = {f"loss.{field}": why for field, why in self.loss.idle().items()}
        if isinstance(self.latents, CausalKL) and self.latents.norm == "rms":
            idle["latents.groups"] = "its norms are over the channels of a place"
        return idle


AnyRecipe = Recipe | Coder
KINDS: dict[str, type[AnyRecipe]] = {"diffusion": Recipe, "autoencoder": Coder}


def recipe_dict(recipe: AnyRecipe) -> dict[str, Any]:
    """The JSON form, with the format and the library's version first."""
    return {"format": FORMAT, "fromnoise": fromnoise.__version__, **to_dict(recipe)}


def named_outside(recipe: AnyRecipe) -> list[str]:
    """Models of others, folders or hub ids, that training begins by reading."""
    found = [recipe.latents.encoder] if isinstance(recipe.latents, Representation) else []
    if isinstance(recipe, Recipe) and recipe.train.repa.weight and isinstance(recipe.train.repa.teacher, Hub):
        found.append(recipe.train.repa.teacher.model)
    return found


def load_recipe(path: FilePath) -> AnyRecipe:
    """The recipe in a file.  UserError where it is missing, damaged, newer than this library, or wrong."""
    return read_recipe(read_json(path), str(path))


def load_diffusion(path: FilePath) -> Recipe:
    """The recipe of a diffusion model in a file.  UserError as for ``load_recipe``, and where it is of another kind."""
    recipe = load_recipe(path)
    if not isinstance(recipe, Recipe):
        raise UserError(f"{path.parent} is a run of kind {recipe.kind}, and this asks for a diffusion model: name "
                        "another run.")
    return recipe


def read_recipe(data: Any, where: str, as_type: type[AnyRecipe] | None = None) -> AnyRecipe:
    """A recipe from its JSON form.  UserError as for ``load_recipe``, naming ``where`` it stands.

    One that does not say its kind is of before there were kinds: of a diffusion model.  as_type: what it is read as,
    for recipes that stand in no file, as those of published models.
    """
    if not isinstance(data, dict):
        raise UserError(f"{where} is not a recipe: it must be a JSON object.")
    version, found = data.get("fromnoise", "unknown"), data.get("format", FORMAT)
    if type(found) is not int or found < OLDEST:
        raise UserError(f"{where} has recipe format {found!r:.60}, which is not known here: it must be {OLDEST} to "
                        f"{FORMAT}.")
    if found > FORMAT:
        raise UserError(f"{where} was written by a newer fromnoise ({version}, recipe format {found}; this is "
                        f"{fromnoise.__version__}, format {FORMAT}): update fromnoise to open it.")
    kind = data.get("kind", "diffusion")
    if kind not in KINDS:
        raise UserError(f"{where} is a recipe of kind {kind!r:.60}, which is not known here. "
                        f"{nearest(str(kind), KINDS)}")
    values = {k: v for k, v in data.items() if k not in ("format", "fromnoise")}
    return from_dict(as_type or KINDS[kind], values, where)


# Fields that do not change what is learned.
OPERATIONAL = ("name", "source", "data.cache", "sample.", "evaluate.", "encoding.source", "encoding.folder",
               "text.folder", "text.offload", "text.cache_texts", "text.cache_folder", "train.device", "train.threads",
               "train.checkpoint_every", "train.keep", "train.preview_every", "train.tracker", "train.start.run")


def differences(a: AnyRecipe, b: AnyRecipe) -> dict[str, tuple[object, object]]:
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


# Fields of the trunk that mean nothing to magnitude-preserving layers.
UNMEASURED = tuple(f"net.{field}" for field in (
    "norm", "norm_eps", "norm2_eps", "norm_gain", "head", "head_norm", "head_bias", "patch_bias", "attention.qk_norm",
    "attention.eps", "attention.bias", "attention.out_bias", "feed_forward.activation", "feed_forward.bias",
    "modulation.shift", "modulation.tanh_gate", "modulation.bias", "time.bias", "time.hidden", "text.norm", "text.eps",
    "text.map", "text.norm_after", "text.bias"))


def without_effect(recipe: AnyRecipe) -> dict[str, str]:
    """The fields, dotted, that the other choices leave without effect, and why."""
    common = {}
    if recipe.train.optimizer.matrices == "adamw":
        common["train.optimizer.muon_lr"] = "matrices use AdamW, whose rate is lr"
    if isinstance(recipe.data, Moving) and recipe.data.gravity == "off":
        common["data.g"] = "nothing falls (data.gravity is off)"
    return common | recipe.idle()


def _idle(recipe: Recipe) -> dict[str, str]:
    """Those of a diffusion recipe alone."""
    objective, net = recipe.objective, recipe.net
    text = recipe.text
    frozen = isinstance(text, Frozen)
    implied = isinstance(objective.weighting, Implied)
    idle = {
        "objective.max_weight": implied and objective.prediction == objective.loss
        and "prediction and loss are the same",
        "objective.loss": not implied and "the weighting says how errors count in every space",
        "objective.shared_offset": not objective.stratified and "times are not stratified",
        "text.vocabulary": getattr(recipe.text, "tokenizer", "") == "bytes" and "the tokenizer is bytes",
        "latents.weight": isinstance(recipe.latents, KL | CausalKL) and not recipe.joint
        and "the autoencoder is trained already",
        "encoding.draw": recipe.joint and "an autoencoder that goes on learning gives draws, where it has some",
        "encoding.folder": not recipe.encoding.cached and "no latents are kept",
        "encoding.dtype": not recipe.encoding.cached and "no latents are kept",
        "text.cache_texts": frozen and text.cache != "memory" and "text.cache is not memory",
        "text.cache_folder": frozen and text.cache != "disk" and "text.cache is not disk",
        "text.cache_precision": frozen and text.cache == "none" and "text.cache is none",
        "net.heads": isinstance(net, UNet) and net.head_width > 0 and "net.head_width says how wide a head is",
        "net.groups": isinstance(net, UNet) and net.magnitude and "magnitude-preserving layers have no norms",
        "net.temporal.theta": net.temporal.reach > 0 and "net.temporal.reach takes the place of rotary positions",
        "net.temporal.causal": isinstance(net, Trunk) and net.mask == "causal" and 'net.mask is "causal"',
        "train.start.sha256": not recipe.train.start.run and "train.start.run names no run",
        "upsample.noise": recipe.upsample.factor == 1 and "upsample.factor is 1",
        "sample.augment": recipe.upsample.factor == 1 and "there is no small picture (upsample.factor is 1)",
        "train.stills": recipe.data.frames == 1 and "the data are single frames already",
        "train.repa.width": recipe.train.repa.projector == "conv" and "the convolution has no hidden features",
    }
    if isinstance(recipe.latents, Pixels):
        idle |= {f"encoding.{f.name}": "latents are pixels" for f in fields(Encoding)}  # type: ignore[arg-type]
    if not net.temporal.there:
        idle |= {f"net.temporal.{field.name}": f"net.temporal.{net.temporal.WHERE} names no place for layers along time"
                 for field in fields(TemporalSpec)}  # type: ignore[arg-type]
    if isinstance(net, Trunk) and net.magnitude:
        idle |= dict.fromkeys(UNMEASURED, "magnitude-preserving layers have no norms, biases, shifts or gates")
    frames = recipe.train.frames
    if recipe.data.frames == 1:
        idle |= {f"train.frames.{field}": "the data are pictures" for field in _leaves(to_dict(frames))}
        idle |= {f"sample.schedule.{field}": "the data are pictures"
                 for field in _leaves(to_dict(recipe.sample.schedule))}
    elif not frames.given:
        idle["train.frames.noise"] = "no frames are given"
    if has_own_grid(recipe.sample):
        idle |= dict.fromkeys(("sample.grid", "sample.shift"), f"the solver {recipe.sample.solver} has its own grid")
    if isinstance(SOLVERS.get(recipe.sample.solver), Procedure):
        idle["sample.steps"] = f"{recipe.sample.solver} chooses its own steps"
    idle |= {f"sample.keep.{field}": why for field, why in recipe.sample.keep.idle().items()}
    for term in TERMS:
        if not getattr(recipe.train, term).weight:
            idle |= {f"train.{term}.{field}": f"train.{term}.weight is 0"
                     for field in _leaves(to_dict(getattr(recipe.train, term)))}
    together = recipe.train.end_to_end
    alone = together.idle() if recipe.joint else dict.fromkeys(_leaves(to_dict(together)), "train.end_to_end.lr is 0")
    idle |= {f"train.end_to_end.{field}": why for field, why in alone.items()}
    of_guidance = {f"sample.guidance.{field}": why for field, why in recipe.sample.guidance.idle().items()}
    return {field: why for field, why in (idle | of_guidance).items() if isinstance(why, str)}


def _leaves(values: dict[str, Any], prefix: str = "") -> dict[str, object]:
    """A nested recipe as dotted fields: ``{"train.batch": 64, ...}``."""
    found: dict[str, object] = {}
    for key, value in values.items():
        found |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
