"""The house transformer, a preset of the trunk, against its slow twin: the network of its own that it once was."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import fromnoise as fn
from fromnoise.blocks import Perturbation, RelativeBias, mean_text, patchify, place_waves, token_shift, unpatchify
from fromnoise.blocks.attention import attend_math, rms_norm
from fromnoise.blocks.layers import norm
from fromnoise.config import from_dict
from fromnoise.nets import Trunk, house
from fromnoise.nets.trunk.house import from_older
from fromnoise.recipe import Recipe, load_recipe
from fromnoise.train import train
from fromnoise.train.checkpoint import Checkpoint, save_checkpoint
from fromnoise.types import Condition, UserError

OLDER = Path(__file__).parent / "older_run"  # written by fromnoise when kind "transformer" was a network
CASES = {
    "relative": {"width": 48, "heads": 3, "depth": 3, "patch": 2, "reach": 2},
    "rotary": {"width": 32, "heads": 2, "depth": 2, "patch": 2, "positions": "rotary"},
    "odd": {"width": 42, "heads": 3, "depth": 2, "patch": 3, "mlp_ratio": 2.7, "reach": 3},
    "bare": {"width": 32, "depth": 2, "patch": 1, "token_shift": False, "pooled_text": False, "places": False},
}


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def older_weights(width=96, heads=4, depth=4, patch=4, mlp_ratio=4.0, positions="relative", reach=8, places=True,
                  pooled_text=True, token_shift=True, text=16):
    """Random weights under the names of the network that it was."""
    D, inside, hidden = width, 3 * patch**2, int(width * mlp_ratio)
    shapes = {"patch_in": (D, inside), "text_in": (D, text), "time.inner": (D, 128), "time.outer": (D, D),
              "modulation": ((6 * depth + 2) * D, D), "patch_out": (inside, D)}
    shapes |= {"pooled_in": (D, text)} if pooled_text else {}
    shapes = {f"{name}.weight": shape for name, shape in shapes.items()} | {
        f"{name}.bias": shape[:1] for name, shape in shapes.items()}
    for i in range(depth):
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in {
            "attention.qkv": (3, D, D), "attention.out.weight": (D, D), "attention.q_scale": (D // heads,),
            "attention.k_scale": (D // heads,), "feed_forward.0.weight": (hidden, D),
            "feed_forward.2.weight": (D, hidden)}.items()}
    shapes |= {"place_in.weight": (D, 16)} if places else {}
    if positions == "relative":
        shapes |= {"media_bias.table": (heads, *[2 * reach + 1] * 3), "cross_bias": (2, heads)}
    return {name: (0.3 * draw(*shape, seed=i)).requires_grad_() for i, (name, shape) in enumerate(shapes.items())}


def linear(w, name, x):
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def waves(t):
    """Sinusoids of 1 to 30 radians, the slowest first."""
    angles = t[..., None] * torch.logspace(0, math.log10(30), 64, dtype=torch.float64)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def turned(x, where):
    """Feature i of a head and feature i + d/2 turned by the place ``[N, 3]``, whose axes share the pairs."""
    d = x.shape[-1]
    shares = [d // 2 // 3 + (i < d // 2 % 3) for i in range(3)]
    angles = torch.cat([where[:, i, None] * 100.0 ** -(torch.arange(n, dtype=torch.float64) / n)
                        for i, n in enumerate(shares)], dim=1)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()], dim=-1)


def slow(w, x, t, told, perturb, heads=4, depth=4, patch=4, positions="relative", reach=8, places=True,
         token_shift_=True, pooled_text=True):
    """The network that it was, sub-layer by sub-layer."""
    B, T, C, H, W = x.shape
    grid, L = (T, H // patch, W // patch), told.text.shape[1]
    patches = linear(w, "patch_in", patchify(x, patch))
    if places:
        patches = patches + linear(w, "place_in", place_waves(*grid[1:], 8).double()).repeat(T, 1)
    tokens = torch.cat([linear(w, "text_in", told.text), patches], dim=1)
    features = linear(w, "time.outer", F.silu(linear(w, "time.inner", waves(t))))
    if pooled_text:
        features = features + linear(w, "pooled_in", mean_text(told.text, told.mask))[:, None]
    frames = linear(w, "modulation", F.silu(features))
    vectors = torch.cat([frames.mean(1, keepdim=True).expand(-1, L, -1),
                         frames.repeat_interleave(grid[1] * grid[2], dim=1)], dim=1).chunk(6 * depth + 2, dim=-1)
    where = torch.stack(torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij"), -1).reshape(-1, 3)
    N = L + len(where)
    bias = torch.zeros(B, 1, N, N, dtype=torch.float64)
    if told.mask is not None:
        bias[..., :L].masked_fill_(~told.mask[:, None, None], float("-inf"))
    if positions == "relative":
        table = {"table": w["media_bias.table"]}
        media = torch.func.functional_call(RelativeBias(heads, (reach,) * 3), table, (where,))
        from_word, from_patch = (b.view(-1, 1, 1) for b in w["cross_bias"])
        from_patch = torch.cat([from_patch.expand(-1, N - L, L), media], dim=2)
        bias = bias + torch.cat([from_word.expand(-1, L, N), from_patch], dim=1)
    stands = torch.cat([torch.zeros(L, 3), where + 1.0]).double()

    def prepared(i):
        h = (1 + vectors[i + 1]) * norm(tokens) + vectors[i]
        return token_shift(h, grid, L) if token_shift_ else h

    for i in range(depth):
        if perturb.skips(i):
            continue
        qkv = F.linear(prepared(6 * i), w[f"blocks.{i}.attention.qkv"].flatten(0, 1))
        q, k, v = qkv.view(B, N, 3, heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rms_norm(q) * w[f"blocks.{i}.attention.q_scale"], rms_norm(k) * w[f"blocks.{i}.attention.k_scale"]
        if positions == "rotary":
            q, k = turned(q, stands), turned(k, stands)
        said = attend_math(q, k, v, perturb.bias(i, bias, L, tokens)).transpose(1, 2).flatten(2)
        tokens = tokens + vectors[6 * i + 2] * linear(w, f"blocks.{i}.attention.out", said)
        inner = linear(w, f"blocks.{i}.feed_forward.0", prepared(6 * i + 3)).relu().square()
        tokens = tokens + vectors[6 * i + 5] * linear(w, f"blocks.{i}.feed_forward.2", inner)
    out = (1 + vectors[-1]) * norm(tokens) + vectors[-2]
    return unpatchify(linear(w, "patch_out", out[:, L:]), patch, (T, C, H, W))


def exact(monkeypatch):
    """The trunk without its rounding of angles to float32."""
    def sinusoid(x, waves, period=10_000.0, shift=0.0):
        half = torch.arange(waves // 2, dtype=torch.float64) / (waves // 2 - shift)
        angles = x[..., None] * period**-half
        return torch.cat([angles.cos(), angles.sin()], dim=-1)

    monkeypatch.setattr("fromnoise.nets.trunk.inputs.sinusoid", sinusoid)


@pytest.mark.parametrize("perturb", [(), ((1,), "identity"), ((0,), "skip")])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("T", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_network_that_it_was(case, T, padded, perturb, monkeypatch):
    fields = CASES[case]
    w, net = older_weights(**fields), house(**fields).build(3, 16).double()
    net.load_state_dict(from_older({k: v.detach() for k, v in w.items()}, "", net.spec))
    x, t = draw(2, T, 3, 6, 12, seed=50), draw(2, T, seed=51).sigmoid()
    told = Condition(draw(2, 5, 16, seed=52), torch.arange(5) < torch.tensor([[3], [5]]) if padded else None)
    perturb = Perturbation(*perturb)
    rounded = net(x, t, told, perturb)
    exact(monkeypatch)
    net.places.tables.clear()
    mine = net(x, t, told, perturb)
    chosen = {k: v for k, v in fields.items() if k not in ("width", "mlp_ratio", "token_shift")}
    wanted = slow(w, x, t, told, perturb, token_shift_=fields.get("token_shift", True), **chosen)
    torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(rounded, wanted, rtol=1e-3, atol=1e-4)
    for y in (mine, wanted):
        (y * draw(*y.shape, seed=53)).sum().backward()
    gradients = from_older({name: gradient(p) for name, p in w.items()}, "", net.spec)
    for name, p in net.named_parameters():
        torch.testing.assert_close(gradient(p), gradients[name], rtol=1e-10, atol=1e-10)


def gradient(p):
    return torch.zeros_like(p) if p.grad is None else p.grad


def test_every_weight_has_its_law_at_the_start():
    """Matrices that end a block at zero and gates at one; what a patch is told, its place and the words, is loud."""
    net = house(width=64).build(3, 64)
    layer = net.stages["single_stream"].blocks[0].layers["all"]
    assert all(float(p.detach().abs().max()) == 0 for p in (
        layer.heads.out.weight, layer.feed_forward.outer.weight, layer.modulation.map.weight, net.head.out.weight,
        net.head.modulation.weight, net.head.modulation.bias))
    gates = layer.modulation.map.bias.detach().view(6, -1)
    assert torch.equal(gates.sum(1), torch.tensor([0.0, 0, 64, 0, 0, 64]))
    assert float(net.text_in.map.weight.detach().abs().max()) == pytest.approx(6 / 8, rel=0.01)
    assert float(net.place_in.weight.detach().abs().max()) == pytest.approx(6 / 4, rel=0.01)
    assert float(net.time_in.pooled.weight.detach().abs().max()) == pytest.approx(1 / 8, rel=0.01)


# ---- runs of an earlier fromnoise -----------------------------------------------------------------------------------


def test_a_run_of_an_earlier_fromnoise_gives_the_same_pictures():
    assert json.loads((OLDER / "recipe.json").read_text())["net"]["kind"] == "transformer"
    model = fn.load(OLDER, "cpu")
    assert isinstance(model.recipe.net, Trunk)
    media = model.sample(["a handwritten three", "the digit 8"], seed=5, steps=6, guidance=1.5).media
    torch.testing.assert_close(media, load_file(OLDER / "pictures.safetensors")["media"], rtol=1e-4, atol=1e-4)


def test_its_recipe_is_written_as_a_trunk(tmp_path):
    recipe = load_recipe(OLDER / "recipe.json")
    assert recipe.net == house(width=16, depth=2, heads=2, patch=2, reach=2)
    recipe.save(tmp_path / "recipe.json")
    assert load_recipe(tmp_path / "recipe.json") == recipe
    assert json.loads((tmp_path / "recipe.json").read_text())["net"]["kind"] == "trunk"


def test_its_training_cannot_be_gone_on_with(tmp_path):
    recipe = load_recipe(OLDER / "recipe.json")
    weights = {"weights": load_file(OLDER / "model.safetensors")}
    save_checkpoint(tmp_path / "checkpoints", Checkpoint(3, weights, {"tokenizer": ""}), keep=1)
    with pytest.raises(UserError, match="an earlier fromnoise, which this one cannot go on from"):
        train(replace(recipe, train=replace(recipe.train, steps=1)), tmp_path)


@pytest.mark.parametrize(("net", "words"), [
    ({"heads": 0}, "net: transformer: heads: Input should be greater than or equal to 1"),
    ({"colour": 1}, "net: transformer: colour: is not a field"),
    ({"width": 3}, "net: transformer: width: Input should be greater than or equal to 16"),
    ({"positions": "sincos"}, "net: transformer: positions: Input should be 'relative' or 'rotary'"),
])
def test_what_is_wrong_with_its_recipe_is_said(net, words):
    values = json.loads((OLDER / "recipe.json").read_text())
    values["net"] |= net
    with pytest.raises(UserError, match=words):
        from_dict(Recipe, {key: value for key, value in values.items() if key not in ("format", "fromnoise")})
