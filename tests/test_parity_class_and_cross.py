"""DiT, PixArt, Sana and PRX from the weights of their peers: outputs and gradients."""

import pytest
import torch
from parity import B, H, L, W, assert_parity, draw, randomised

from fromnoise.interop.rules import give, take
from fromnoise.interop.transformers import FAMILIES
from fromnoise.types import Condition, UserError

diffusers = pytest.importorskip("diffusers")
MASK = torch.arange(L) < torch.tensor([[L], [3]])


def dit_peer(tied=True, **changes):
    peer = randomised(diffusers.DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=3, sample_size=12,
        num_embeds_ada_norm=7, **changes)).eval()
    for block in peer.transformer_blocks[1:] if tied else ():
        block.norm1.emb = peer.transformer_blocks[0].norm1.emb
    return peer


def dit(**changes):
    peer, labels = dit_peer(**changes), torch.tensor([3, 7])

    def run(x, t, c):
        return peer(x, timestep=t * 1000, class_labels=labels).sample

    table = peer.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.weight
    return "DiTTransformer2DModel", peer, run, Condition(pooled=table.detach()[labels])


def pixart(sized, **changes):
    peer = randomised(diffusers.PixArtTransformer2DModel(
        num_attention_heads=4, attention_head_dim=12, in_channels=4, out_channels=8, num_layers=2, sample_size=12,
        cross_attention_dim=48, caption_channels=24, use_additional_conditions=sized, **changes)).eval()

    def run(x, t, c):
        added = {"resolution": c.numbers[:, :2], "aspect_ratio": c.numbers[:, 2:]} if sized else None
        return peer(x, c.text, t * 1000, added, encoder_attention_mask=c.mask).sample

    numbers = torch.tensor([[96.0, 160, 0.6], [512, 256, 2]]).double() if sized else None
    return "PixArtTransformer2DModel", peer, run, Condition(text=draw(B, L, 24, seed=2), mask=MASK, numbers=numbers)


def sana(guided=False, **changes):
    peer = randomised(diffusers.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=6, attention_head_dim=8, num_layers=2, sample_size=6,
        num_cross_attention_heads=4, cross_attention_head_dim=12, cross_attention_dim=48, caption_channels=24,
        guidance_embeds=guided, **changes)).eval()

    def run(x, t, c):
        told = {"guidance": c.numbers[:, 0] * peer.config.guidance_embeds_scale} if guided else {}
        return peer(x, c.text, t * 1000, encoder_attention_mask=c.mask, **told).sample

    numbers = torch.tensor([[4.5], [1.25]]).double() if guided else None
    return "SanaTransformer2DModel", peer, run, Condition(text=draw(B, L, 24, seed=2), mask=MASK, numbers=numbers)


def prx(**changes):
    peer = randomised(diffusers.PRXTransformer2DModel(
        in_channels=4, patch_size=2, context_in_dim=24, hidden_size=32, num_heads=2, depth=3, axes_dim=[6, 10],
        theta=500, **changes)).eval()
    if peer.resolution_embedder is not None:  # it counts in float32, whatever the network's numbers are
        peer.resolution_embedder.register_forward_pre_hook(lambda module, sides: tuple(n.double() for n in sides))

    def run(x, t, c):
        return peer(x, t, c.text, attention_mask=c.mask).sample

    return "PRXTransformer2DModel", peer, run, Condition(text=draw(B, L, 24, seed=2), mask=MASK)


CASES = {
    "dit": lambda: dit(),
    "dit without biases": lambda: dit(attention_bias=False, norm_eps=1e-6),
    "pixart alpha": lambda: pixart(True, interpolation_scale=2),
    "pixart sigma": lambda: pixart(False, norm_eps=1e-5),
    "sana": lambda: sana(),
    "sana 4k": lambda: sana(interpolation_scale=2, patch_size=2, attention_bias=True),
    "sana sprint": lambda: sana(guided=True, qk_norm="rms_norm_across_heads"),
    "prx": lambda: prx(),
    "prx pixels": lambda: prx(bottleneck_size=9, resolution_embeds=True),
}


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_those_of_the_peer(name):
    if name.startswith("dit"):  # this peer takes squares alone, here of another size than it was made for
        assert_parity(CASES[name], text_width=None, pooled_width=32, size=(10, 10))
    else:
        assert_parity(CASES[name], pooled_width=None, size=(H, W))


def test_a_dit_whose_blocks_have_embedders_of_their_own_is_refused():
    peer, family = dit_peer(tied=False), FAMILIES["DiTTransformer2DModel"]
    with pytest.raises(UserError, match="copies of one tensor here, but they differ"):
        take(peer.state_dict(), [*family.rules(family.spec(dict(peer.config)), dict(peer.config))],
             ignore=["transformer_blocks"])


def test_the_class_table_of_a_dit_goes_in_and_out():
    peer, family = dit_peer(), FAMILIES["DiTTransformer2DModel"]
    rules = list(family.told(dict(peer.config)))
    theirs = {name: value for name, value in peer.state_dict().items() if "class_embedder" in name}
    table = take(theirs, rules)
    assert table["table"].shape == (8, 32)
    back = give(table, rules)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(("case", "change", "reason"), [
    ("pixart sigma", {"cross_attention_dim": 40}, "cross_attention_dim 40; only 48"),
    ("pixart sigma", {"caption_channels": None}, "caption_channels"),
    ("sana", {"qk_norm": "layer_norm"}, "qk_norm 'layer_norm'"),
    ("dit", {"activation_fn": "geglu"}, "activation_fn 'geglu'"),
])
def test_what_is_not_known_is_refused(case, change, reason):
    name, peer, *_ = CASES[case]()
    with pytest.raises(UserError, match=reason):
        FAMILIES[name].spec(dict(peer.config) | change)
