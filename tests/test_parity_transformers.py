"""SD3 and Flux 1 from the weights of their peers; the other families have files of their own."""

import pytest
import torch
from parity import B, H, L, W, assert_parity, draw, ids, packed, randomised

from fromnoise.types import Condition

diffusers = pytest.importorskip("diffusers")


def sd3(**changes):
    peer = randomised(diffusers.SD3Transformer2DModel(
        sample_size=12, patch_size=2, in_channels=4, num_layers=3, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=24, caption_projection_dim=32, pooled_projection_dim=20, out_channels=4,
        pos_embed_max_size=16, **changes))

    def run(x, t, c):
        return peer(x, encoder_hidden_states=c.text, pooled_projections=c.pooled, timestep=t * 1000).sample

    return "SD3Transformer2DModel", peer, run, Condition(text=draw(B, L, 24, seed=2), pooled=draw(B, 20, seed=3))


def flux1(guidance_embeds=False):
    peer = randomised(diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, pooled_projection_dim=20, axes_dims_rope=(4, 6, 6), guidance_embeds=guidance_embeds))

    def run(x, t, c):
        guidance = None if c.numbers is None else c.numbers[:, 0]
        y = peer(packed(x), encoder_hidden_states=c.text, pooled_projections=c.pooled, timestep=t, guidance=guidance,
                 img_ids=ids(H // 2, W // 2, 3), txt_ids=torch.zeros(L, 3)).sample
        return y

    condition = Condition(text=draw(B, L, 24, seed=2), pooled=draw(B, 20, seed=3),
                          numbers=torch.tensor([[3.5], [1.25]]).double() if guidance_embeds else None)
    return "FluxTransformer2DModel", peer, run, condition


CASES = {
    "sd3": lambda: sd3(),
    "sd3.5": lambda: sd3(qk_norm="rms_norm", dual_attention_layers=(0, 1)),
    "flux1": lambda: flux1(),
    "flux1 guided": lambda: flux1(guidance_embeds=True),
}


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_those_of_the_peer(name):
    assert_parity(CASES[name])
