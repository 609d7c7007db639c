"""Which layers of which network the names in a LoRA's file mean.

The layers of the peer are known by name, from the rules that import its weights.  Layouts differ in what stands before
these names and in whether their parts are joined by points (peft, diffusers) or by underscores (kohya); joined by
underscores all are the same, so one table finds them.  Files in the names of a system's first code (``double_blocks``,
``input_blocks``) are put into those of diffusers by diffusers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from fromnoise.interop.lora.file import Factors, Lora, side_of
from fromnoise.interop.rules import Rule, same
from fromnoise.interop.transformers import FAMILIES
from fromnoise.interop.unet import rules as unet_rules
from fromnoise.text.towers import FrozenEncoder
from fromnoise.types import UserError

NETWORK, FIRST, LAST = "network", "text_encoder", "last text encoder"
BEFORE = {  # what stands before the names of layers, and whose layers they are
    "base_model.model.": "", "diffusion_model.": NETWORK, "transformer.": NETWORK, "unet.": NETWORK,
    "lora_unet_": NETWORK, "lora_transformer_": NETWORK, "text_encoder.": FIRST, "lora_te_": FIRST, "lora_te1_": FIRST,
    "text_encoder_2.": "text_encoder_2", "lora_te2_": "text_encoder_2", "text_encoder_3.": "text_encoder_3",
    "lora_te3_": LAST,  # kohya has T5 third, in Flux too, where there are two
}
LOADERS = {  # diffusers' readers of kohya's files in the names of a system's first code
    "UNet2DConditionModel": "StableDiffusionXLLoraLoaderMixin", "FluxTransformer2DModel": "FluxLoraLoaderMixin",
    "Flux2Transformer2DModel": "Flux2LoraLoaderMixin", "ZImageTransformer2DModel": "ZImageLoraLoaderMixin",
}


@dataclass(frozen=True)
class Place:
    """A network that a LoRA may be added to: our module, and the rules by which its peer's weights go there.

    kind: the peer's class in diffusers;  config: its settings.
    """

    module: nn.Module
    rules: tuple[Rule, ...]
    kind: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layers(self) -> dict[str, str]:
        """The peer's weights by the names of their layers, joined by underscores."""
        weights = [name for rule in self.rules for name in rule.theirs if name.endswith(".weight")]
        return {flat(name.removesuffix(".weight")): name for name in weights}


def place_of(net: nn.Module, kind: str, config: Mapping[str, Any]) -> Place:
    """A network of ours whose weights came from a ``kind`` of diffusers with this ``config``."""
    if kind in FAMILIES:
        family, settings = FAMILIES[kind], dict(config)
        return Place(net, tuple(family.rules(family.spec(settings), settings)), kind, config)
    if kind in ("UNet2DConditionModel", "UNet2DModel"):
        return Place(net, tuple(unet_rules(config)), kind, config)
    raise UserError(f"A LoRA cannot be added to a {kind}: it must be a U-Net or one of {', '.join(FAMILIES)}.")


def places_of(net: nn.Module, kind: str, config: Mapping[str, Any], text: nn.Module | None = None) -> dict[str, Place]:
    """All of a system that a LoRA may adapt: its network, as in ``place_of``, and its frozen text encoders."""
    return {NETWORK: place_of(net, kind, config), **(encoder_places(text) if isinstance(text, FrozenEncoder) else {})}


def own_place(module: nn.Module) -> Place:
    """A module whose weights go by the names that they have in it."""
    return Place(module, tuple(rule for name, _ in module.named_parameters() for rule in same(name, name)))


def encoder_places(text: FrozenEncoder) -> dict[str, Place]:
    """The frozen encoders of a system by the names of their folders; their weights are those of the peer."""
    return {tower.model: own_place(model) for tower, (model, _) in zip(text.spec.towers, text.parts, strict=True)}


def flat(name: str) -> str:
    return name.replace(".", "_")


def owner(layer: str) -> tuple[str, str]:
    """(component, name within it) of a layer of a file; without a prefix it is the network's."""
    for prefix, component in BEFORE.items():
        if layer.startswith(prefix):
            rest = layer.removeprefix(prefix)
            return (component, rest) if component else owner(rest)
    return NETWORK, layer


def spellings(name: str) -> Iterator[str]:
    """The name, joined by underscores, as today's diffusers and transformers have it."""
    name = flat(name)
    name = re.sub(r"self_attn_to_(q|k|v|out)$", r"self_attn_\1_proj", name)  # text encoders before diffusers 0.17
    yield name
    yield re.sub(r"to_out$", "to_out_0", name)  # to_out_lora
    yield name.removeprefix("text_model_")  # CLIP before and after transformers 5
    yield f"text_model_{name}"


# ---- finding -----------------------------------------------------------------------------------------------------


def located(places: Mapping[str, Place], lora: Lora) -> dict[str, dict[str, Factors]]:
    """The factors for each weight of the peers, component by component.  UserError naming a layer without a place."""
    found: dict[str, dict[str, Factors]] = {}
    tables = {component: place.layers for component, place in places.items()}
    for layer, factors in lora.layers.items():
        component, name = owner(layer)
        if component == LAST:
            component = max((c for c in places if c != NETWORK), default=FIRST)
        if component not in places:
            raise UserError(f"{lora.where} adapts {layer}, but this model has no {component} that it could be "
                            "added to.")
        weight = weight_of(tables[component], name)
        parts = {weight: factors} if weight else translated(places[component], tables[component], name, factors)
        if not parts:
            raise UserError(f"{lora.where} does not fit this model: there is no place for its layer {layer}.")
        for weight, part in parts.items():
            if weight in found.setdefault(component, {}):
                raise UserError(f"{lora.where} adapts {weight.removesuffix('.weight')} twice, the second time as "
                                f"{layer}.")
            found[component][weight] = part
    return found


def weight_of(table: Mapping[str, str], name: str) -> str | None:
    """The peer's weight that a layer's name means."""
    return next((table[s] for s in spellings(name) if s in table), None)


def translated(place: Place, table: Mapping[str, str], name: str, factors: Factors) -> dict[str, Factors]:
    """A layer under its foreign name, as diffusers reads it; empty where it does not, which it seldom says.

    Its readers get one layer at a time, since they pass over what they do not know, and without alpha, which they do
    not heed everywhere.  Queries, keys and values that are one layer there become three.
    """
    if place.kind not in LOADERS:
        return {}
    stem = f"lora_unet_{flat(name)}"
    state = {f"{stem}.lora_down.weight": factors.down, f"{stem}.lora_up.weight": factors.up}
    sides: dict[str, dict[str, Tensor]] = {"down": {}, "up": {}}
    for key, tensor in read_by_diffusers(place, state).items():
        layer, side = side_of(key, stem)
        sides[side][weight_of(table, owner(layer)[1]) or ""] = tensor
    if "" in sides["down"] or sides["down"].keys() != sides["up"].keys():
        return {}
    return {weight: Factors(down, sides["up"][weight], factors.factor) for weight, down in sides["down"].items()}


def read_by_diffusers(place: Place, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What diffusers makes of the tensors of one layer; nothing where it cannot read them."""
    try:
        from diffusers.loaders import lora_pipeline
    except ImportError:
        raise UserError(f"{next(iter(state))} is a name that only diffusers knows: pip install "
                        "'fromnoise[diffusers]'.") from None
    told = {}
    if place.kind == "UNet2DConditionModel":
        told = {"unet_config": SimpleNamespace(layers_per_block=place.config["layers_per_block"])}
    try:
        answer = getattr(lora_pipeline, LOADERS[place.kind]).lora_state_dict(state, **told)
    except Exception:  # whatever its reader trips over, this is not a name that it knows
        return {}
    return answer[0] if isinstance(answer, tuple) else answer
