"""Our deep compression autoencoder against diffusers' AutoencoderDC, with every parameter random."""

import pytest
import torch
from parity import Exact, draw, randomised
from test_autoencoder import close

from fromnoise.config import from_dict
from fromnoise.folders import open_component
from fromnoise.interop.autoencoder import load_latents, to_diffusers
from fromnoise.interop.convolutional import NoCounterpart
from fromnoise.interop.deep import dc_rules, dc_spec
from fromnoise.interop.rules import give, take
from fromnoise.latents import DC, DCLatents, ForeignLatents
from fromnoise.types import UserError

diffusers = pytest.importorskip("diffusers")
F64 = torch.float64
RES, VIT = "ResBlock", "EfficientViTBlock"


def config(widths, depths, decoder_depths, plain, scales=(), **more):
    inside = len(widths) - plain
    found = {"attention_head_dim": 4, "latent_channels": 4}
    for half, depth in (("encoder", depths), ("decoder", decoder_depths)):
        found |= {f"{half}_block_types": [RES] * plain + [VIT] * inside, f"{half}_block_out_channels": widths,
                  f"{half}_layers_per_block": depth, f"{half}_qkv_multiscales": [()] * plain + [scales] * inside}
    return found | more


MIXED = {"decoder_norm_types": ["batch_norm"] * 3 + ["rms_norm"] * 4, "decoder_act_fns": ["relu"] * 3 + ["silu"] * 4}
MODELS = {  # the published ones, narrower
    "f32c32 of Sana": config([8, 8, 16, 16, 16, 16], [1, 1, 1, 1, 1, 1], [1, 2, 1, 1, 1, 1], 3, (5,),
                             downsample_block_type="Conv", upsample_block_type="interpolate", scaling_factor=0.41407),
    "f32c32 of ImageNet": config([8, 8, 16, 16, 16, 16], [0, 1, 2, 1, 1, 1], [0, 2, 1, 1, 1, 1], 3,
                                 decoder_norm_types=MIXED["decoder_norm_types"][:6],
                                 decoder_act_fns=MIXED["decoder_act_fns"][:6], scaling_factor=0.3189),
    "f64c128": config([8, 8, 8, 8, 8, 16, 16], [0, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1], 3, scaling_factor=0.2889,
                      **MIXED),
    "no shortcuts": config([8, 16], [1, 2], [2, 1], 1, (3, 5), encoder_out_shortcut=False, decoder_in_shortcut=False,
                           latent_channels=5, decoder_conv_act_fn="silu", downsample_block_type="Conv"),
    "all residual": config([8, 16, 16], [1, 1, 1], [1, 1, 1], 3, decoder_block_out_channels=[8, 8, 8]),
}


def pair(name):
    theirs = randomised(diffusers.AutoencoderDC(**MODELS[name])).eval()
    for key, buffer in theirs.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_(draw(*buffer.shape).abs() + (0.5 if key.endswith("var") else 0))
    spec = dc_spec(theirs.config)
    ours = spec.build(3).double().eval()
    ours.load_state_dict(take(theirs.state_dict(), dc_rules(spec)))
    return ours, theirs


@pytest.mark.parametrize("name", MODELS)
def test_dc_equals_diffusers(name):
    """Outputs and gradients; small latents, where diffusers takes the quadratic way, and larger ones."""
    ours, theirs = pair(name)
    assert ours.factor == 2 ** (len(MODELS[name]["encoder_block_out_channels"]) - 1)
    for h, w in ((1, 2), (2, 3)):
        media = draw(2, 1, 3, h * ours.factor, w * ours.factor)
        latents = ours.encode(media)
        with Exact():
            raw = theirs.encode(media[:, 0]).latent
            back = theirs.decode(raw).sample
        close(latents[:, 0], raw * theirs.config.scaling_factor, F64)
        mine = ours.decode(latents)
        close(mine[:, 0], back, F64)
        pull = draw(*back.shape, seed=3)
        ours.zero_grad()
        theirs.zero_grad()
        (mine[:, 0] * pull).sum().backward()
        (back * pull).sum().backward()
        gradients = take({key: p.grad for key, p in theirs.named_parameters()} | dict(theirs.named_buffers()),
                         dc_rules(ours.spec))
        for key, parameter in ours.named_parameters():
            close(parameter.grad, gradients[key], F64)


@pytest.mark.parametrize("name", MODELS)
def test_dc_is_opened_and_exported(name, tmp_path):
    _, theirs = pair(name)
    theirs.float().save_pretrained(tmp_path)
    ours = load_latents(open_component(tmp_path))
    assert isinstance(ours, DCLatents)
    kind, found, tensors = to_diffusers(ours)
    again = getattr(diffusers, kind)(**found).eval()
    again.load_state_dict(tensors)
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key
    assert dc_spec(again.config) == ours.spec


def test_published_sizes():
    """Sana's autoencoder has 312,250,275 parameters here as there; f64c128 of ImageNet as many as in diffusers."""
    widths = [128, 256, 512, 512, 1024, 1024]
    sana = config(widths, [2, 2, 2, 3, 3, 3], [3] * 6, 3, (5,), attention_head_dim=32, latent_channels=32,
                  downsample_block_type="Conv", upsample_block_type="interpolate")
    deep = config([*widths, 2048], [0, 4, 8, 2, 2, 2, 2], [0, 5, 10, 2, 2, 2, 2], 3, attention_head_dim=32,
                  latent_channels=128, **MIXED)
    counts = []
    with torch.device("meta"):
        for found in (sana, deep):
            ours, theirs = dc_spec(found).build(3), diffusers.AutoencoderDC(**found)
            counts.append([sum(p.numel() for p in model.parameters()) for model in (ours, theirs)])
            shapes = give(ours.state_dict(), dc_rules(dc_spec(found)))
            assert {k: v.shape for k, v in shapes.items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert counts[0] == [312_250_275] * 2
    assert counts[1][0] == counts[1][1]


@pytest.mark.parametrize("change", [
    {"encoder_block_types": [VIT, RES]}, {"decoder_block_types": [RES, RES]},
    {"encoder_qkv_multiscales": [(), (3,)]}, {"decoder_norm_types": ["rms_norm", "batch_norm"]},
])
def test_a_dc_without_counterpart_is_run_by_diffusers(change, tmp_path):
    found = MODELS["no shortcuts"] | change
    theirs = randomised(diffusers.AutoencoderDC(**found)).float().eval()
    with pytest.raises(NoCounterpart):
        dc_spec(theirs.config)
    theirs.save_pretrained(tmp_path)
    ours, media = load_latents(open_component(tmp_path)), torch.randn(1, 1, 3, 8, 12)
    assert isinstance(ours, ForeignLatents)
    close(ours.decode(ours.encode(media))[0], theirs.decode(theirs.encode(media[0]).latent).sample, torch.float32)


@pytest.mark.parametrize(("fields", "words"), [
    ({"widths": [8, 16], "depths": [1]}, "as many depths"), ({"depths": [1, 0]}, "blocks on every level"),
    ({"channels": 3}, "multiple of its channels"), ({"widths": [8, 40]}, "divides four times"),
    ({"head": 32}, "at least head"), ({"scales": [4]}, "odd"), ({"widths": [6, 6], "attended": 0, "channels": 2}, "4"),
])
def test_a_spec_that_cannot_be_is_refused(fields, words):
    small = {"widths": [8, 8], "depths": [1, 1], "channels": 4, "attended": 1, "head": 4}
    from_dict(DC, small)
    with pytest.raises(UserError, match=words):
        from_dict(DC, small | fields)
