"""Fields that the other choices of a recipe leave without effect, and why: whoever sets one is told."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from fromnoise.blocks import TemporalSpec
from fromnoise.config import to_dict
from fromnoise.data.moving import Moving
from fromnoise.latents import KL, CausalKL, Pixels
from fromnoise.nets import Trunk, UNet
from fromnoise.process import Implied
from fromnoise.process.frames import TASKS
from fromnoise.recipe.comparing import leaves
from fromnoise.recipe.sampling import has_own_grid
from fromnoise.recipe.training import TERMS, Encoding
from fromnoise.sample import SOLVERS, Procedure
from fromnoise.text import Frozen

if TYPE_CHECKING:
    from fromnoise.recipe.kinds import AnyRecipe, Coder, Recipe

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


def of_autoencoder(recipe: Coder) -> dict[str, str]:
    """Those of an autoencoder's recipe alone."""
    idle = {f"loss.{field}": why for field, why in recipe.loss.idle().items()}
    if isinstance(recipe.latents, CausalKL) and recipe.latents.norm == "rms":
        idle["latents.groups"] = "its norms are over the channels of a place"
    return idle


def of_diffusion(recipe: Recipe) -> dict[str, str]:
    """Those of a diffusion recipe alone."""
    idle = _single(recipe) | _latents(recipe) | _network(recipe) | _frames(recipe) | _sampling(recipe) | _terms(recipe)
    return {field: why for field, why in idle.items() if isinstance(why, str)}


def _single(recipe: Recipe) -> dict[str, str | bool]:
    """Fields one by one; False where a field has its effect."""
    objective, net, text = recipe.objective, recipe.net, recipe.text
    frozen = isinstance(text, Frozen)
    implied = isinstance(objective.weighting, Implied)
    return {
        "objective.max_weight": implied and objective.prediction == objective.loss
        and "prediction and loss are the same",
        "objective.loss": not implied and "the weighting says how errors count in every space",
        "objective.shared_offset": not objective.stratified and "times are not stratified",
        "text.vocabulary": getattr(text, "tokenizer", "") == "bytes" and "the tokenizer is bytes",
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
        "train.action_dropout": not net.reads_actions and "the network is told no actions (net.actions)",
        "train.outcomes": not getattr(net, "outcomes", 0) and "nothing is foretold (net.outcomes)",
        "sample.action_guidance": not net.reads_actions and "the network is told no actions (net.actions)",
        "upsample.noise": recipe.upsample.factor == 1 and "upsample.factor is 1",
        "sample.augment": recipe.upsample.factor == 1 and "there is no small picture (upsample.factor is 1)",
        "train.stills": recipe.data.frames == 1 and "the data are single frames already",
        "train.repa.width": recipe.train.repa.projector == "conv" and "the convolution has no hidden features",
    }


def _latents(recipe: Recipe) -> dict[str, str]:
    """What is said of latents, where there are none."""
    if not isinstance(recipe.latents, Pixels):
        return {}
    return {f"encoding.{f.name}": "latents are pixels" for f in fields(Encoding)}  # type: ignore[arg-type]


def _network(recipe: Recipe) -> dict[str, str]:
    """Of layers along time that are not there, and of parts that magnitude-preserving layers lack."""
    net, idle = recipe.net, {}
    if not net.temporal.there:
        idle = {f"net.temporal.{field.name}": f"net.temporal.{net.temporal.WHERE} names no place for layers along time"
                for field in fields(TemporalSpec)}  # type: ignore[arg-type]
    if isinstance(net, Trunk) and net.magnitude:
        idle |= dict.fromkeys(UNMEASURED, "magnitude-preserving layers have no norms, biases, shifts or gates")
    return idle


def _frames(recipe: Recipe) -> dict[str, str]:
    """Of the clocks of frames, where data are pictures or none are given, and of what is measured with given ones."""
    frames, schedule, measured = recipe.train.frames, recipe.sample.schedule, ("evaluate.tasks", "evaluate.rollout")
    if recipe.data.frames == 1:
        return dict.fromkeys([*_below("train.frames", frames), *_below("sample.schedule", schedule), *measured],
                             "the data are pictures")
    told = recipe.net.told_frames > 0
    idle = {} if frames.given or told else {"train.frames.noise": "no frames are given"}
    if told:
        idle |= {f"train.frames.{task}": "every frame is told those before it (net.told_frames)" for task in TASKS}
    if not frames.heeded and not told:
        return idle | dict.fromkeys(measured, "training gives no frames (train.frames)")
    if recipe.upsample.factor > 1:
        return idle | dict.fromkeys(measured, "it is enlarging that is measured")
    if recipe.net.reads_actions:
        return idle | dict.fromkeys(measured, "it is what follows from actions that is measured")
    if not isinstance(recipe.data, Moving):
        return idle | {"evaluate.rollout": "nobody knows how these films go on"}
    if not recipe.evaluate.tasks:
        return idle | {"evaluate.rollout": "evaluate.tasks is 0"}
    short = recipe.evaluate.rollout <= recipe.data.frames
    return idle | ({"evaluate.rollout": "a clip of training is no shorter"} if short else {})


def _sampling(recipe: Recipe) -> dict[str, str]:
    """What the solver, the way of keeping and the guidance make of the other fields of ``sample``."""
    sample = recipe.sample
    idle: dict[str, str] = {}
    if has_own_grid(sample):
        idle |= dict.fromkeys(("sample.grid", "sample.shift"), f"the solver {sample.solver} has its own grid")
    if isinstance(SOLVERS.get(sample.solver), Procedure):
        idle["sample.steps"] = f"{sample.solver} chooses its own steps"
    idle |= {f"sample.keep.{field}": why for field, why in sample.keep.idle().items()}
    return idle | {f"sample.guidance.{field}": why for field, why in sample.guidance.idle().items()}


def _terms(recipe: Recipe) -> dict[str, str]:
    """Of what is added to the loss with weight 0, and of an autoencoder that does not go on learning."""
    idle, together = {}, recipe.train.end_to_end
    for term in TERMS:
        if not getattr(recipe.train, term).weight:
            idle |= dict.fromkeys(_below(f"train.{term}", getattr(recipe.train, term)), f"train.{term}.weight is 0")
    if not recipe.joint:
        return idle | dict.fromkeys(_below("train.end_to_end", together), "train.end_to_end.lr is 0")
    return idle | {f"train.end_to_end.{field}": why for field, why in together.idle().items()}


def _below(part: str, spec: Any) -> list[str]:
    """The fields, dotted, of a part of the recipe."""
    return [f"{part}.{field}" for field in leaves(to_dict(spec))]
