"""Our U-Net against diffusers' classes: the same weights, outputs and gradients; settings and weights in and out.

Every parameter is drawn anew, since zeros and ones hide faults; pictures are not square and, where the architecture
allows it, of odd sides; texts are padded.
"""

import warnings

import pytest
import torch

from fromnoise.blocks.waves import Sinusoid
from fromnoise.interop.unet import Peer, read_config, to_ours, to_theirs, write_config
from fromnoise.nets import UNet
from fromnoise.nets.unet_presets import PRESETS, adm, ddpm, edm2, sd1, sd2, sdxl, simple_diffusion
from fromnoise.types import Condition, UserError

diffusers = pytest.importorskip("diffusers")

TINY = {"block_out_channels": (32, 64), "norm_num_groups": 8, "layers_per_block": 1, "sample_size": 8}
TEXT = {**TINY, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 24}
CROSS = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
         "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
DEEP = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
ATTENTION = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
RESIDUAL = {"down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"), "downsample_type": "resnet",
            "upsample_type": "resnet", "resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 8}

# name: (class, config, size of the picture)
PEERS = {
    "ddpm": ("UNet2DModel", {**TINY, **ATTENTION, "attention_head_dim": None, "freq_shift": 1, "flip_sin_to_cos": False,
                             "downsample_padding": 0, "norm_eps": 1e-6}, (6, 10)),
    "two blocks, heads of 16": ("UNet2DModel", {**TINY, **ATTENTION, "layers_per_block": 2, "attention_head_dim": 16},
                                (6, 10)),
    "adm": ("UNet2DModel", {**TINY, **RESIDUAL, "attention_head_dim": 16, "out_channels": 6, "num_class_embeds": 7},
            (6, 10)),
    "sd1": ("UNet2DConditionModel", {**TEXT, **CROSS, "attention_head_dim": 4}, (9, 13)),
    "sd1 inpainting": ("UNet2DConditionModel", {**TEXT, **CROSS, "attention_head_dim": 4, "in_channels": 9}, (7, 10)),
    "sd2": ("UNet2DConditionModel", {**TEXT, **CROSS, "attention_head_dim": (2, 4), "use_linear_projection": True,
                                     "norm_num_groups": 16}, (9, 13)),
    "sdxl": ("UNet2DConditionModel", {
        **TEXT, **DEEP, "attention_head_dim": (2, 4), "use_linear_projection": True,
        "transformer_layers_per_block": (1, 2), "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 20}, (9, 13)),
}


def peer(name: str, dtype: torch.dtype):
    """Their network, its settings, ours with its weights, and what both are called with."""
    kind, config, size = PEERS[name]
    torch.manual_seed(0)
    theirs = getattr(diffusers, kind)(**config).to(dtype)
    with torch.no_grad():
        for key, p in theirs.named_parameters():
            p.copy_(0.2 * torch.randn(p.shape) + ("norm" in key and key.endswith("weight")))
    config = dict(theirs.config)
    found = read_config(config)
    ours = found.spec.build(found.channels, found.text_width).to(dtype)
    ours.load_state_dict(to_ours(theirs.state_dict(), config))
    spec, B = found.spec, 2
    steps = torch.tensor([7, 901])
    image = torch.randn(B, 1, spec.image_channels, *size, dtype=dtype) if spec.image_channels else None
    text, mask = None, None
    if found.text_width:
        text, mask = torch.randn(B, 5, found.text_width, dtype=dtype), torch.tensor([[1] * 5, [1, 1, 1, 0, 0]]).bool()
    pooled = torch.randn(B, spec.pooled_width, dtype=dtype) if spec.pooled == "mlp" else None
    classes = torch.tensor([2, 5]) if spec.pooled == "linear" else None
    if classes is not None:
        pooled = torch.nn.functional.one_hot(classes, spec.pooled_width).to(dtype)
    numbers = torch.tensor([[1024.0, 768, 0, 16, 512, 640]] * B).to(dtype) if spec.numbers else None
    x = torch.randn(B, 1, found.channels, *size, dtype=dtype, requires_grad=True)
    condition = Condition(text, mask, pooled, numbers, image)
    return theirs, config, ours, x, steps, condition, classes


def their_answer(theirs, x, steps, condition, classes):
    sample = x[:, 0] if condition.image is None else torch.cat([x, condition.image], 2)[:, 0]
    if condition.text is None:
        return theirs(sample, steps, class_labels=classes).sample
    added = None
    if condition.numbers is not None:
        added = {"text_embeds": condition.pooled, "time_ids": condition.numbers}
    return theirs(sample, steps, condition.text, encoder_attention_mask=condition.mask, added_cond_kwargs=added).sample


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", PEERS)
def test_outputs_and_gradients_are_theirs(name, dtype, tolerance):
    theirs, config, ours, x, steps, condition, classes = peer(name, dtype)
    t = (steps.to(dtype) / 1000)[:, None]
    want, got = their_answer(theirs, x, steps, condition, classes), ours(x, t, condition)[:, 0]
    assert float(want.detach().std()) > 0.1
    torch.testing.assert_close(got, want, atol=tolerance * float(want.detach().abs().max()), rtol=0)
    weights = torch.randn_like(want) / want.numel()
    (their_x,) = torch.autograd.grad((want * weights).sum(), x, retain_graph=True)
    (our_x,) = torch.autograd.grad((got * weights).sum(), x, retain_graph=True)
    torch.testing.assert_close(our_x, their_x, atol=tolerance * float(their_x.abs().max()), rtol=0)
    (want * weights).sum().backward()
    inner = ours(x.detach(), t, condition)[:, 0]  # with channels innermost, as in training
    torch.testing.assert_close(inner, got, atol=tolerance * float(want.detach().abs().max()), rtol=0)
    (inner * weights).sum().backward()
    gradients = to_ours({key: p.grad for key, p in theirs.named_parameters()}, config)
    largest = max(float(g.abs().max()) for g in gradients.values())
    for key, p in ours.named_parameters():
        # Small gradients are differences of large ones: in float64 they must agree too, in float32 they carry rounding.
        scale = largest if dtype == torch.float32 else max(float(gradients[key].abs().max()), 1e-3 * largest)
        assert float((p.grad - gradients[key]).abs().max()) <= tolerance * scale, key


@pytest.mark.parametrize("name", PEERS)
def test_weights_go_back_as_they_came_and_settings_too(name):
    theirs, config, ours, *_ = peer(name, torch.float32)
    back = to_theirs(ours.state_dict(), config)
    state = theirs.state_dict()
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
    found = read_config(config)
    written = write_config(found)
    again = getattr(diffusers, written.pop("_class_name"))(**written)
    again.load_state_dict(to_theirs(ours.state_dict(), written))
    assert read_config(dict(again.config)) == found


def test_attention_under_its_old_names_is_read():
    theirs, config, ours, *_ = peer("ddpm", torch.float32)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for key, tensor in theirs.state_dict().items():
        for new, before in old.items():
            key = key.replace(f".{new}.", f".{before}.")
        state[key] = tensor
    assert any("proj_attn" in key for key in state)
    read = to_ours(state, config)
    assert all(torch.equal(read[key], tensor) for key, tensor in ours.state_dict().items())


def test_weights_that_do_not_fit_are_a_sentence():
    theirs, config, *_ = peer("sd1", torch.float32)
    state = theirs.state_dict()
    with pytest.raises(UserError, match=r"conv_in\.weight is missing"):
        to_ours({k: v for k, v in state.items() if k != "conv_in.weight"}, config)
    with pytest.raises(UserError, match=r"conv_in\.weight is \(32, 4, 3\), but"):
        to_ours(state | {"conv_in.weight": torch.zeros(32, 4, 3)}, config)
    with pytest.raises(UserError, match=r"nothing there needs adapter\.weight"):
        to_ours(state | {"adapter.weight": torch.zeros(1)}, config)


@pytest.mark.parametrize(("name", "change", "key"), [
    ("sd1", {"act_fn": "gelu"}, "act_fn"), ("sd1", {"time_cond_proj_dim": 256}, "time_cond_proj_dim"),
    ("sd1", {"attention_head_dim": (2, 8)}, "attention_head_dim"), ("sd1", {"layers_per_block": (1, 2)}, "layers_per"),
    ("sd1", {"up_block_types": ("UpBlock2D", "UpBlock2D")}, "up_block_types"),
    ("adm", {"attn_norm_num_groups": None}, "attn_norm_num_groups"),
    ("ddpm", {"time_embedding_type": "fourier"}, "time_embedding_type"),
    ("ddpm", {"block_out_channels": (32, 48)}, "block_out_channels"),
])
def test_settings_that_we_lack_are_a_sentence(name, change, key):
    _, config, _ = PEERS[name]
    defaults = {"in_channels": 3, "out_channels": 3}
    with pytest.raises(UserError, match=key):
        read_config(defaults | config | change)


@pytest.mark.parametrize("spec", [UNet(), edm2("XS"), simple_diffusion(depth=1),
                                  UNet(**{**vars(sd1(32, (1, 2), (1, 0), 8)), "time": Sinusoid()})])
def test_a_unet_without_a_peer_is_not_exported(spec):
    with pytest.raises(UserError, match="diffusers has no U-Net of its settings"):
        write_config(Peer(spec, 4, 24))


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


# Published sizes; those of Stable Diffusion and DDPM are also counted in diffusers' class below.
COUNTS = [(ddpm(), 3, None, 35_746_307), (sd1(), 4, 768, 859_520_964), (sd2(), 4, 1024, 865_910_724),
          (sdxl(), 4, 2048, 2_567_463_684)]


@pytest.mark.parametrize(("spec", "channels", "text", "published"), COUNTS)
def test_published_sizes_and_those_of_the_peer(spec, channels, text, published):
    with torch.device("meta"):
        assert count(spec.build(channels, text)) == published
    config = write_config(Peer(spec, channels, text))
    with torch.device("meta"):
        assert count(getattr(diffusers, config.pop("_class_name"))(**config)) == published


@pytest.mark.parametrize(("spec", "channels", "millions"), [
    (adm(), 3, 554), (adm(256, (1, 1, 2, 3, 4), (0, 0, 1, 1, 1)), 3, 422),
    (adm(192, (1, 2, 3, 4), (0, 1, 1, 1), 3), 3, 296),
    (edm2("XS"), 4, 125), (edm2("S"), 4, 280), (edm2("M"), 4, 498), (edm2("L"), 4, 777), (edm2("XL"), 4, 1119),
    (edm2("XXL"), 4, 1523), (simple_diffusion(), 3, 2000),
])
def test_sizes_published_in_millions(spec, channels, millions):
    with torch.device("meta"):
        assert round(count(spec.build(channels, None)) / 1e6) == millions


def test_every_preset_is_listed_with_a_line_of_its_own():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, preset in PRESETS.items():
            assert preset.__name__ == name
            assert preset.__doc__
            preset().check()
