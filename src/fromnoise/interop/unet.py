"""U-Nets of diffusers (``UNet2DModel``, ``UNet2DConditionModel``): settings and weights, in and out.

Both ways are pure functions of plain data: ``read_config`` and ``write_config`` turn their ``config.json`` into a spec
and back, ``to_ours`` and ``to_theirs`` rename tensors.  Facts of their layout that are settled here and nowhere else:

- ``attention_head_dim`` of ``UNet2DConditionModel`` counts heads where it is one number, and so do its lists; in
  ``UNet2DModel`` it is the width of a head.
- Sinusoids stand fastest first in their layout, slowest first in ours; ``flip_sin_to_cos`` puts cosines first, as ours.
- Queries, keys and values are three tensors in theirs and one in ours; 1x1 convolutions around a spatial transformer
  (``use_linear_projection`` false) are linear maps; a table of classes is the transpose of a matrix on one-hot vectors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from fromnoise.blocks.waves import Sinusoid
from fromnoise.interop.rules import Rule, give
from fromnoise.nets.unet import UNet
from fromnoise.types import UserError

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Peer:
    """A foreign U-Net in our terms: ``spec.build(channels, text_width)``."""

    spec: UNet
    channels: int
    text_width: int | None


# What their other settings must be, since no spec says otherwise.
NEEDED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"), "center_input_sample": (False,), "time_embedding_type": ("positional",),
    "mid_block_scale_factor": (1, 1.0), "dual_cross_attention": (False,), "only_cross_attention": (False,),
    "encoder_hid_dim": (None,), "encoder_hid_dim_type": (None,), "class_embed_type": (None,),
    "resnet_skip_time_act": (False,), "resnet_out_scale_factor": (1, 1.0), "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,), "time_cond_proj_dim": (None,), "conv_in_kernel": (3,), "conv_out_kernel": (3,),
    "attention_type": ("default",), "class_embeddings_concat": (False,), "cross_attention_norm": (None,),
    "mid_block_only_cross_attention": (None, False), "reverse_transformer_layers_per_block": (None,),
    "add_attention": (True,), "mid_block_type": ("UNetMidBlock2D", "UNetMidBlock2DCrossAttn"),
    "num_attention_heads": (None,), "addition_embed_type": (None, "text_time"),
}
DOWN = ("DownBlock2D", "AttnDownBlock2D", "CrossAttnDownBlock2D", "ResnetDownsampleBlock2D")


# ---- settings ----------------------------------------------------------------------------------------------------


def read_config(config: Config) -> Peer:
    """The spec of a diffusers U-Net; UserError, one sentence, for a setting that our U-Net does not have."""
    for key, allowed in NEEDED.items():
        if key in config and config[key] not in allowed:
            raise refused(key, config[key])
    conditional = "cross_attention_dim" in config
    widths = [int(w) for w in config["block_out_channels"]]
    if any(w % widths[0] for w in widths):
        raise refused("block_out_channels", widths)
    time_width = config.get("time_embedding_dim") or 4 * widths[0]
    if time_width % widths[0]:
        raise refused("time_embedding_dim", time_width)
    inside, outside = config["in_channels"], config["out_channels"]
    spec = UNet(
        width=widths[0], multipliers=tuple(w // widths[0] for w in widths),
        blocks=same(config, "layers_per_block", 2), groups=config.get("norm_num_groups", 32),
        epsilon=config.get("norm_eps", 1e-5), skips="all", middle="residual", time_ratio=time_width // widths[0],
        modulation="scale_shift" if config.get("resnet_time_scale_shift", "default") == "scale_shift" else "add",
        time=waves(widths[0] // 2, 1000.0, config), image_channels=max(0, inside - outside),
        extra_outputs=max(0, outside - inside), **resampling(config), **pooled(config),
        **(spatial(config, widths) if conditional else plain(config)),
    )
    spec.check()
    return Peer(spec, min(inside, outside), same(config, "cross_attention_dim", 1280) if conditional else None)


def refused(key: str, value: Any) -> UserError:
    return UserError(f"This U-Net cannot be opened here: its config.json has {key} = {value!r:.80}, for which our "
                     "U-Net has no setting.")


def same(config: Config, key: str, default: int) -> int:
    """A setting that may be given for every scale, but must then be the same for all."""
    value = config.get(key, default)
    values = set(value) if isinstance(value, (list, tuple)) else {value}
    if len(values) != 1 or not isinstance(next(iter(values)), int):
        raise refused(key, value)
    return values.pop()


def waves(count: int, scale: float, config: Config) -> Sinusoid:
    return Sinusoid(waves=count, scale=scale, max_period=10_000.0, shift=float(config.get("freq_shift", 0)))


def mirrored(config: Config) -> list[str]:
    """Their names of the scales on the way down, which the way up must mirror."""
    down, up = list(config["down_block_types"]), list(config["up_block_types"])
    if up[::-1] != [upward(name) for name in down]:
        raise refused("up_block_types", up)
    if any(name not in DOWN for name in down):
        raise refused("down_block_types", down)
    return down


def upward(name: str) -> str:
    """Their name of a scale on the way up, from that on the way down."""
    return name.replace("Downsample", "Upsample").replace("DownBlock", "UpBlock")


def resampling(config: Config) -> dict[str, Any]:
    names, attending = mirrored(config), config.get("downsample_type", "conv")
    if attending != config.get("upsample_type", "conv"):
        raise refused("upsample_type", config["upsample_type"])
    kinds = {"residual" if name.startswith("Resnet") or (name.startswith("Attn") and attending == "resnet") else "conv"
             for name in names[:-1]}
    if len(kinds) > 1:
        raise refused("down_block_types", names)
    how = kinds.pop() if kinds else "conv"
    ends = how == "conv" and config.get("downsample_padding", 1) == 0
    return {"resample": how, "pad": "end" if ends else "both"}


def plain(config: Config) -> dict[str, Any]:
    """Attention of ``UNet2DModel``."""
    if config.get("resnet_time_scale_shift", "default") == "scale_shift":
        groups = config.get("attn_norm_num_groups")
        if groups != config.get("norm_num_groups", 32):  # without it the middle attention has no norm
            raise refused("attn_norm_num_groups", groups)
    width = config.get("attention_head_dim", 8)
    return {"attention": "plain", "depths": tuple(int(n.startswith("Attn")) for n in mirrored(config)),
            **({"head_width": width} if width else {"heads": 1})}


def spatial(config: Config, widths: list[int]) -> dict[str, Any]:
    """Attention of ``UNet2DConditionModel``."""
    names, depth = mirrored(config), config.get("transformer_layers_per_block", 1)
    depths = list(depth) if isinstance(depth, (list, tuple)) else [depth] * len(names)
    if any(name.startswith("Attn") for name in names) or not all(isinstance(d, int) for d in depths):
        raise refused("transformer_layers_per_block", depth)
    middle = depths[-1]
    depths = [d if name.startswith("Cross") else 0 for d, name in zip(depths, names, strict=True)]
    heads = config.get("attention_head_dim", 8)
    told: dict[str, Any] = {"heads": heads}
    if isinstance(heads, (list, tuple)):
        head_widths = {w // h for w, h in zip(widths, heads, strict=True)}
        if len(head_widths) > 1:
            raise refused("attention_head_dim", heads)
        told = {"head_width": head_widths.pop()}
    return {"attention": "spatial", "depths": tuple(depths), "middle_depth": middle, **told}


def pooled(config: Config) -> dict[str, Any]:
    """What is added to time: a table of classes, or SDXL's pooled text and six numbers."""
    if config.get("addition_embed_type") == "text_time":
        numbers, waves_ = 6, config["addition_time_embed_dim"] // 2
        width = config["projection_class_embeddings_input_dim"] - numbers * 2 * waves_
        if config.get("num_class_embeds") or config.get("freq_shift", 0):
            raise refused("num_class_embeds", config.get("num_class_embeds"))
        return {"pooled": "mlp", "pooled_width": width, "numbers": numbers, "number_waves": waves_}
    classes = config.get("num_class_embeds")
    return {"pooled": "linear", "pooled_width": classes} if classes else {"pooled": "none"}


def write_config(peer: Peer) -> dict[str, Any]:
    """The ``config.json`` of a U-Net of ours; UserError where diffusers has no such U-Net."""
    spec, conditional = peer.spec, peer.spec.attention == "spatial"
    residual, depths = spec.resample == "residual", spec.all_depths
    kind = ("CrossAttn" if conditional else "Attn") + "DownBlock2D"
    names = [kind if depth else "ResnetDownsampleBlock2D" if residual else "DownBlock2D" for depth in depths]
    time = spec.time if isinstance(spec.time, Sinusoid) else Sinusoid()
    config: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel" if conditional else "UNet2DModel",
        "in_channels": peer.channels + spec.image_channels, "out_channels": peer.channels + spec.extra_outputs,
        "block_out_channels": list(spec.widths), "layers_per_block": spec.blocks, "norm_num_groups": spec.groups,
        "norm_eps": spec.epsilon, "resnet_time_scale_shift": "default" if spec.modulation == "add" else "scale_shift",
        "flip_sin_to_cos": True, "freq_shift": int(time.shift), "time_embedding_dim": spec.time_ratio * spec.width,
        "down_block_types": names, "downsample_padding": 0 if spec.pad == "end" else 1,
        "up_block_types": [upward(name) for name in names[::-1]],
    }
    if conditional:
        heads = [w // spec.head_width for w in spec.widths] if spec.head_width else spec.heads
        deep = [depth or spec.middle_depth for depth in depths]
        deep[-1] = spec.middle_depth
        config |= {"cross_attention_dim": peer.text_width, "attention_head_dim": heads, "use_linear_projection": True,
                   "transformer_layers_per_block": deep, "mid_block_type": "UNetMidBlock2DCrossAttn"}
    else:
        kinds = {"downsample_type": "resnet", "upsample_type": "resnet"} if residual else {}
        config |= {"attention_head_dim": spec.head_width or None, "attn_norm_num_groups": spec.groups, **kinds}
    if spec.pooled == "mlp":
        added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 2 * spec.number_waves}
        total = spec.pooled_width + 2 * spec.numbers * spec.number_waves
        config |= {**added, "projection_class_embeddings_input_dim": total}
    elif spec.pooled == "linear":
        config["num_class_embeds"] = spec.pooled_width
    told = replace(spec, heads=UNet.heads) if spec.head_width else spec  # heads says nothing where head_width does
    try:
        same = read_config(config) == replace(peer, spec=told)
    except (UserError, ValidationError):  # sizes that do not meet
        same = False
    if not same:
        raise UserError("This U-Net cannot be exported: diffusers has no U-Net of its settings.")
    return config


# ---- weights -----------------------------------------------------------------------------------------------------

PLACES = [  # where a module of ours stands in theirs
    (r"^time\.", "time_embedding."), (r"^text\.(?=inner|outer)", "add_embedding."), (r"^text\.", "class_embedding."),
    (r"^norm_out\.", "conv_norm_out."),
    (r"^middle\.", "mid_block.resnets.0."), (r"^middle_out\.", "mid_block.resnets.1."),
    (r"^attention\.(?=.)", "mid_block.attentions.0."),
    (r"^(down|up)\.(\d+)\.", r"\1_blocks.\2.resnets."), (r"^(down|up)_attention\.(\d+)\.", r"\1_blocks.\2.attentions."),
    (r"^(down|up)sample\.(\d+)\.", r"\1_blocks.\2.\1samplers.0."),
]
LEAVES = [  # what a layer of ours is called there
    (r"(embedding\.)inner\.", r"\1linear_1."), (r"(embedding\.)outer\.", r"\1linear_2."),
    (r"((?:resnets|samplers)\.\d+\.)modulation\.", r"\1time_emb_proj."),
    (r"((?:resnets|samplers)\.\d+\.)skip\.", r"\1conv_shortcut."),
    (r"(attentions\.\d+\.)enter\.", r"\1proj_in."), (r"(attentions\.\d+\.)leave\.", r"\1proj_out."),
    (r"(attentions\.\d+\.)blocks\.", r"\1transformer_blocks."),
    (r"(transformer_blocks\.\d+\.)attention\.", r"\1attn1."), (r"(transformer_blocks\.\d+\.)cross\.", r"\1attn2."),
    (r"\.feed_forward\.inner\.", ".ff.net.0.proj."), (r"\.feed_forward\.outer\.", ".ff.net.2."),
    (r"(attn\d\.)q\.", r"\1to_q."), (r"(attn\d\.)out\.", r"\1to_out.0."),
    (r"(attentions\.\d+\.)attention\.out\.", r"\1to_out.0."), (r"(attentions\.\d+\.)attention\.qkv", r"\1qkv"),
    (r"(mid_block\.attentions\.0\.|attentions\.\d+\.)norm\.", r"\1@norm."),
]
OLD_NAMES = [(r"\.query\.", ".to_q."), (r"\.key\.", ".to_k."), (r"\.value\.", ".to_v."),
             (r"\.proj_attn\.", ".to_out.0.")]  # attention in files written before diffusers 0.14
PARTS = {"qkv": ("to_q", "to_k", "to_v"), "kv": ("to_k", "to_v")}


def their_names(ours: str, spec: UNet) -> list[str]:
    """The tensors of theirs that one of ours is made of, in order."""
    name = ours
    for pattern, place in PLACES + LEAVES:
        name = re.sub(pattern, place, name)
    name = name.replace("@norm", "norm" if spec.attention == "spatial" else "group_norm")
    packed = re.fullmatch(r"(.*\.)(qkv|kv)(_bias)?", name)
    if packed is None:
        return [name]
    kind = "bias" if packed[3] else "weight"
    return [f"{packed[1]}{part}.{kind}" for part in PARTS[packed[2]]]


def our_shapes(peer: Peer) -> dict[str, torch.Size]:
    """Names and shapes of the weights of our network, without memory."""
    with torch.device("meta"):
        net = peer.spec.build(peer.channels, peer.text_width)
    return {name: tensor.shape for name, tensor in net.state_dict().items()}


def wave_orders(peer: Peer, config: Config) -> Iterator[tuple[str, Tensor]]:
    """Weights whose columns stand for sinusoids, and which column of theirs each of ours is."""
    spec, cosines_first = peer.spec, config.get("flip_sin_to_cos", True)

    def order(n: int) -> Tensor:
        blocks = torch.arange(2 * n).view(2, n).flip(1)
        return (blocks if cosines_first else blocks.flip(0)).flatten()

    yield "time.inner.weight", order(spec.width // 2)
    if spec.pooled == "mlp":
        n = order(spec.number_waves)
        numbers = [spec.pooled_width + i * len(n) + n for i in range(spec.numbers)]
        yield "text.inner.weight", torch.cat([torch.arange(spec.pooled_width), *numbers])


def rules(config: Config) -> list[Rule]:
    """Where the weights of a diffusers U-Net go, one rule for each tensor of ours."""
    peer = read_config(config)
    orders = dict(wave_orders(peer, config))
    pointwise = peer.spec.attention == "spatial" and not config.get("use_linear_projection", False)
    return [rule(name, shape, their_names(name, peer.spec), orders.get(name), pointwise)
            for name, shape in our_shapes(peer).items()]


def rule(ours: str, shape: torch.Size, theirs: list[str], order: Tensor | None, pointwise: bool) -> Rule:
    """One tensor of ours from those of theirs that it is made of; order: which column of theirs each of ours is.

    pointwise: the maps around their spatial transformers are convolutions.
    """
    table = theirs[0].startswith("class_embedding.")
    convolution = pointwise and theirs[0].endswith(("proj_in.weight", "proj_out.weight"))

    def take(tensors: list[Tensor]) -> list[Tensor]:
        tensor = torch.stack(tensors) if len(tensors) > 1 else tensors[0]
        tensor = tensor.T if table else tensor
        if tensor.numel() == shape.numel() and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
            tensor = tensor.view(shape)
        return [tensor if order is None or tensor.shape != shape else tensor[:, order]]

    def give(tensors: list[Tensor]) -> list[Tensor]:
        tensor = tensors[0] if order is None else tensors[0][:, order.argsort()]
        tensor = tensor.T if table else tensor
        tensor = tensor[:, :, None, None] if convolution else tensor
        return list(tensor.unbind()) if len(theirs) > 1 else [tensor]

    return Rule((ours,), tuple(theirs), take, give)


def to_ours(state: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """Their weights under our names; UserError naming the first tensor that is missing, unknown or of a wrong shape."""
    shapes, state, ours = our_shapes(read_config(config)), modern(state), {}
    left = set(state)
    for each in rules(config):
        for key in each.theirs:
            if key not in state:
                raise UserError(f"The weights of this U-Net are incomplete: {key} is missing.")
        (name,), (tensor,) = each.ours, each.take([state[key] for key in each.theirs])
        if tensor.shape != shapes[name]:
            raise UserError(f"The weights of this U-Net do not fit its config.json: {each.theirs[0]} is "
                            f"{tuple(tensor.shape)}, but the settings make it {tuple(shapes[name])}.")
        ours[name] = tensor
        left -= set(each.theirs)
    if left:
        raise UserError(f"The weights of this U-Net do not fit its config.json: nothing there needs {min(left)}.")
    return ours


def modern(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under today's names of theirs."""
    renamed = {}
    for name, tensor in state.items():
        for old, new in OLD_NAMES:
            name = re.sub(old, new, name)
        renamed[name] = tensor
    return renamed


def to_theirs(state: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """Our weights under their names: the inverse of ``to_ours``."""
    return give(dict(state), rules(config))
