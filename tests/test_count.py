"""Parameters and operations at published sizes, on the meta device: those of diffusers' classes and of the papers."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fromnoise.blocks import AttentionSpec, FeedForwardSpec
from fromnoise.interop.transformers import FAMILIES
from fromnoise.nets import UNet, count, house
from fromnoise.nets.trunk import Trunk
from fromnoise.nets.trunk.attempts import ATTEMPTS, matched
from fromnoise.nets.trunk.presets import dit, flux1, jit, pixart, pixart_sigma, prx, sana, sd3, sit, uvit
from fromnoise.types import Condition, UserError

SQUARE = {"sample_size": 128, "in_channels": 4, "out_channels": 8, "caption_channels": 4096}
SPRINT = {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"}
PUBLISHED = {  # our preset; diffusers' class and published configuration; widths of text and pooled text
    "dit": (replace(dit(), norm2_eps=1e-5, time=replace(dit().time, shift=1.0)), "DiTTransformer2DModel",
            {"out_channels": 8}, None, 1152),
    "pixart": (pixart(), "PixArtTransformer2DModel", SQUARE, 4096, None),
    "pixart_sigma": (pixart_sigma(), "PixArtTransformer2DModel", SQUARE | {"use_additional_conditions": False}, 4096,
                     None),
    "sana": (sana(), "SanaTransformer2DModel", {}, 2304, None),
    "sana 0.6B": (sana(1152, 36, 28, 16), "SanaTransformer2DModel", {
        "num_attention_heads": 36, "num_layers": 28, "num_cross_attention_heads": 16, "cross_attention_head_dim": 72,
        "cross_attention_dim": 1152}, 2304, None),
    "sana sprint": (sana(guided=True), "SanaTransformer2DModel", SPRINT, 2304, None),
    "prx": (prx(), "PRXTransformer2DModel", {}, 2304, None),
    "sd3": (sd3(), "SD3Transformer2DModel", {
        "sample_size": 128, "num_layers": 24, "attention_head_dim": 64, "num_attention_heads": 24,
        "joint_attention_dim": 4096, "caption_projection_dim": 1536, "pos_embed_max_size": 192}, 4096, 2048),
    "flux1": (flux1(), "FluxTransformer2DModel", {"guidance_embeds": True}, 4096, 768),
}


def parameters(module) -> int:
    return sum(p.numel() for p in module.parameters())


def built(spec, channels, *widths):
    with torch.device("meta"):
        return spec.build(channels, *widths)


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_are_the_published_configurations_and_have_their_parameters(name):
    diffusers = pytest.importorskip("diffusers")
    spec, kind, config, text, pooled = PUBLISHED[name]
    with torch.device("meta"):
        peer = getattr(diffusers, kind)(**config)
    config, family = dict(peer.config), FAMILIES[kind]
    assert family.spec(config) == spec
    for block in peer.transformer_blocks[1:] if name == "dit" else ():  # copies count once
        block.norm1.emb = peer.transformer_blocks[0].norm1.emb
    told, idle = family.told(config), (rule for rule in family.rules(spec, config) if not rule.ours)
    passed = {n for rule in (*told, *idle) for n in rule.theirs}
    theirs = sum(p.numel() for n, p in peer.named_parameters() if n not in passed)
    channels = config["in_channels"] // (4 if name == "flux1" else 1)
    assert parameters(built(spec, channels, text, pooled)) == theirs


def test_parameters_are_those_of_the_papers():
    classes = 1001 * 1152  # the table of classes, which is not the network's
    assert parameters(built(dit(), 4, None, 1152)) + classes + 256 * 1152 == 675_129_632  # with the table of places
    assert parameters(built(sit(), 4, None, 1152)) == parameters(built(dit(), 4, None, 1152))
    assert parameters(built(pixart_sigma(), 4, 4096)) == 610_856_096
    assert parameters(built(flux1(), 16, 4096, 768)) == 11_901_408_320
    unused = 1536 * 1536 + 1536  # SD3's last block has queries of the text that nobody asks
    assert parameters(built(sd3(), 16, 4096, 2048)) + unused == 2_028_328_000
    assert round(parameters(built(uvit(), 4, 768)) / 1e6) == 58
    assert round(parameters(built(uvit(1152, 16, 29, words=1), 4, 1152)) / 1e6) == 501
    for millions, size in {131: (768, 12, 12, 16, 128), 459: (1024, 16, 24, 16, 128),
                           953: (1280, 16, 32, 16, 256)}.items():
        with_classes = parameters(built(jit(*size), 3, None, size[0])) + 1001 * size[0]
        assert with_classes == pytest.approx(millions * 1e6, abs=6e5)


@pytest.mark.parametrize(("size", "giga"), [
    ((384, 6, 12, 2), 6.06), ((768, 12, 12, 2), 23.01), ((1024, 16, 24, 2), 80.71), ((1152, 16, 28, 2), 118.64),
    ((1152, 16, 28, 4), 29.05), ((1152, 16, 28, 8), 7.39),
])
def test_operations_of_dit_are_those_of_its_table(size, giga):
    """Peebles and Xie 2022, table 4: "Gflops" are multiplications with their additions, at 32 x 32 latents."""
    found = count(dit(*size), 4, (32, 32), pooled_width=size[0])
    assert found.multiply_adds / 1e9 == pytest.approx(giga, rel=2e-3)
    assert found.flops == 2 * found.multiply_adds
    assert found.tokens == (32 // size[3]) ** 2


@pytest.mark.parametrize(("spec", "media", "widths", "giga"), [
    (dit(), (4, (64, 64)), {"pooled_width": 1152}, 524.60),
    (uvit(1152, 16, 29, words=1), (4, (32, 32)), {"text_width": 1152, "words": 1}, 133.25),
    (jit(), (3, (256, 256)), {"pooled_width": 768}, 25),
    (jit(1024, 16, 24), (3, (256, 256)), {"pooled_width": 1024}, 88),
])
def test_operations_are_those_of_the_papers(spec, media, widths, giga):
    assert count(spec, *media, **widths).multiply_adds / 1e9 == pytest.approx(giga, rel=0.01 if giga < 100 else 1e-3)


def test_operations_of_a_small_trunk_are_those_of_its_formula():
    """Per token 4 D^2 for attention's maps, 8 D^2 for the feed-forward, and N D for each of its two products."""
    D, words, patches = 64, 7, 24
    spec = Trunk(width=D, single=2, attention=AttentionSpec(heads=2), feed_forward=FeedForwardSpec())
    found = count(spec, 4, (8, 12), text_width=16, words=words)
    N = words + patches
    blocks = 2 * (N * 12 * D * D + 2 * N * N * D + 6 * D * D)
    ends = patches * 2 * 16 * D + words * 16 * D + 256 * D + D * D + 2 * D * D
    assert found.multiply_adds == blocks + ends
    assert found.tokens == N


@pytest.mark.parametrize("spec", [UNet(width=8, multipliers=(1, 2), heads=2), house(width=32, depth=1, patch=2)])
def test_what_is_counted_without_memory_is_what_is_done(spec):
    found = count(spec, 3, (8, 12), text_width=16, words=5)
    net = spec.build(3, 16)
    # attention written out: the counter does not know the fused one of the CPU
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        net(torch.randn(1, 1, 3, 8, 12), torch.rand(1, 1), Condition(torch.randn(1, 5, 16)))
    assert (found.parameters, found.flops) == (parameters(net), counter.get_total_flops())


def test_five_conditionings_at_matched_parameters():
    budget = parameters(built(ATTEMPTS["single"](256, 8, 12), 4, 512))
    for make in ATTEMPTS.values():
        spec = matched(make, budget, channels=4, text_width=512, head=32)
        assert abs(parameters(built(spec, 4, 512)) / budget - 1) <= 0.03
        assert spec.width == 32 * spec.attention.heads
    assert matched(ATTEMPTS["single"], budget, channels=4, text_width=512, head=32) == ATTEMPTS["single"](256, 8, 12)


def test_a_budget_that_no_size_meets_is_refused():
    with pytest.raises(UserError, match="No double with heads of 64 has 1,000 parameters to 3%"):
        matched(ATTEMPTS["double"], 1000, channels=4, text_width=16, depth=2)


@pytest.mark.parametrize("spec", [UNet(width=8, groups=4, multipliers=(1, 2)), house(width=24, depth=1)],
                         ids=lambda s: s.kind)
def test_channels_of_a_picture_that_is_told_are_counted(spec):
    """They widen the first map, which goes over all of x."""
    plain, told = (count(replace(spec, image_channels=n), 3, (16, 16), 8, 4) for n in (0, 4))
    area, width, places = (9, 8, 256) if isinstance(spec, UNet) else (16, 24, 16)
    assert told.parameters - plain.parameters == 4 * area * width
    assert told.multiply_adds - plain.multiply_adds == 4 * area * width * places
