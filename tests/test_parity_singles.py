"""Flux 2, Qwen-Image, Qwen-Image 2.1, Lumina 2 and Z-Image from the weights of their peers."""

import pytest
import torch
from parity import B, H, L, W, assert_parity, draw, ids, packed, randomised

from fromnoise.interop.transformers import FAMILIES
from fromnoise.nets.trunk.presets import PRESETS
from fromnoise.types import Condition

diffusers = pytest.importorskip("diffusers")

h, w = H // 2, W // 2
TEXT = Condition(text=draw(B, L, 24, seed=2))
PADDED = Condition(text=draw(B, L, 24, seed=2), mask=torch.arange(L) < torch.tensor([[3], [L]]))


def flux2(guidance_embeds):
    peer = randomised(diffusers.Flux2Transformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=20, num_attention_heads=2,
        joint_attention_dim=24, axes_dims_rope=(4, 4, 8, 4), guidance_embeds=guidance_embeds))
    words = torch.zeros(L, 4)
    words[:, 3] = torch.arange(L)

    def run(x, t, c):
        guidance = None if c.numbers is None else c.numbers[:, 0]
        return peer(packed(x), encoder_hidden_states=c.text, timestep=t, guidance=guidance,
                    img_ids=ids(h, w, 4), txt_ids=words).sample

    numbers = torch.tensor([[3.5], [1.25]]).double() if guidance_embeds else None
    return "Flux2Transformer2DModel", peer, run, Condition(text=TEXT.text, numbers=numbers)


def qwen(condition):
    peer = randomised(diffusers.QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, axes_dims_rope=(4, 4, 8)))

    def run(x, t, c):
        return peer(packed(x), encoder_hidden_states=c.text, encoder_hidden_states_mask=c.mask, timestep=t,
                    img_shapes=[[(1, h, w)]] * B).sample

    return "QwenImageTransformer2DModel", peer, run, condition


def qwen21(condition):
    peer = randomised(diffusers.QwenImage21Transformer2DModel(
        in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2, context_in_dim=24,
        axes_dims_rope=(4, 4, 8)))
    slots = torch.arange(L + H * W // 4).expand(B, -1) >= L

    def run(x, t, c):
        y = peer(x.flatten(2).mT, encoder_hidden_states=c.text, encoder_hidden_states_mask=c.mask, timestep=t,
                 img_shapes=[[(1, H, W)]] * B, img_mask=slots).sample
        return y[:, -H * W :].mT.unflatten(2, (H, W))

    return "QwenImage21Transformer2DModel", peer, run, condition


def lumina2(condition, **changes):
    config = {"num_kv_heads": 2, **changes}
    peer = randomised(diffusers.Lumina2Transformer2DModel(
        sample_size=16, in_channels=4, hidden_size=48, num_layers=2, num_refiner_layers=2, num_attention_heads=4,
        multiple_of=20, axes_dim_rope=(2, 4, 6), axes_lens=(40, 16, 16), cap_feat_dim=24, **config))

    def run(x, t, c):  # its pipeline hands it 1 - t, and takes data minus noise
        mask = torch.ones(B, L, dtype=torch.bool) if c.mask is None else c.mask
        return -peer(x, timestep=1 - t, encoder_hidden_states=c.text, encoder_attention_mask=mask).sample

    return "Lumina2Transformer2DModel", peer, run, condition


def z_image(condition, **changes):
    peer = randomised(diffusers.ZImageTransformer2DModel(
        in_channels=4, dim=48, n_layers=2, n_refiner_layers=2, n_heads=3, n_kv_heads=3, cap_feat_dim=24,
        axes_dims=[4, 4, 8], axes_lens=[128, 32, 32], **changes))

    def run(x, t, c):
        text = c.text if c.mask is None else [part[mask] for part, mask in zip(c.text, c.mask, strict=True)]
        return -torch.stack(peer(list(x[:, :, None]), 1 - t, list(text)).sample)[:, :, 0]

    return "ZImageTransformer2DModel", peer, run, condition


LONG = Condition(text=draw(B, 40, 24, seed=2), mask=torch.arange(40) < torch.tensor([[5], [39]]))
CASES = {
    "flux2 dev": lambda: flux2(True),
    "flux2 klein": lambda: flux2(False),
    "qwen-image": lambda: qwen(TEXT),
    "qwen-image, padded": lambda: qwen(PADDED),
    "qwen-image 2.1": lambda: qwen21(TEXT),
    "qwen-image 2.1, padded": lambda: qwen21(PADDED),
    "lumina2": lambda: lumina2(TEXT),
    "lumina2, padded": lambda: lumina2(PADDED),
    "lumina2, wider": lambda: lumina2(PADDED, ffn_dim_multiplier=1.5, num_kv_heads=4),
    "z-image": lambda: z_image(TEXT),
    "z-image, padded": lambda: z_image(LONG),
    "z-image, no qk norm": lambda: z_image(PADDED, qk_norm=False),
}


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_those_of_the_peer(name):
    assert_parity(CASES[name], size=(H, 2 * W) if name == "z-image, padded" else (H, W))


@pytest.mark.parametrize(("preset", "peer", "channels", "text"), [
    ("flux2", "Flux2Transformer2DModel", 32, 15360), ("qwen_image", "QwenImageTransformer2DModel", 16, 3584),
    ("qwen_image21", "QwenImage21Transformer2DModel", 64, 4096), ("lumina2", "Lumina2Transformer2DModel", 16, 1024),
    ("z_image", "ZImageTransformer2DModel", 16, 2560)])
def test_presets_are_the_published_sizes(preset, peer, channels, text):
    with torch.device("meta"):
        theirs = getattr(diffusers, peer)()
        net = PRESETS[preset]().build(channels, text)
    assert FAMILIES[peer].spec(dict(theirs.config)) == PRESETS[preset]()
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in theirs.parameters())
