"""LoRA files of others on our networks: each against its peer with the same change of its own weights."""

import copy
import json
import re

import pytest
import torch
from parity import Exact, draw, packed
from safetensors.torch import save_file
from test_parity_class_and_cross import dit, pixart, sana
from test_parity_transformers import flux1, sd3
from test_parity_unet import peer as unet_peer
from test_parity_unet import their_answer
from torch import nn

from fromnoise.interop.lora import NETWORK, apply_lora, place_of, read_lora
from fromnoise.interop.rules import take
from fromnoise.interop.transformers import FAMILIES
from fromnoise.types import UserError

diffusers = pytest.importorskip("diffusers")


# ---- a peer and ours -------------------------------------------------------------------------------------------------


def trunk_case(case):
    """(place, peer, how it answers, how ours answers) of a transformer, with one input for both."""
    with Exact():
        kind, peer, run, condition = case()
    config, family = dict(peer.config), FAMILIES[kind]
    spec = family.spec(config)
    net = spec.build(4, 24, 20).double()
    elsewhere = {name for rule in family.told(config) for name in rule.theirs} | set(family.tables)
    state = {k: v.clone() for k, v in peer.state_dict().items() if k not in elsewhere}
    net.load_state_dict(take(state, family.rules(spec, config)))
    x, t = draw(2, 4, 6, 10), torch.tensor([0.3, 0.85], dtype=torch.float64)

    @torch.no_grad()
    def theirs():
        with Exact():
            return run(x, t, condition)

    @torch.no_grad()
    def ours():
        with Exact():
            answer = net.whole(x[:, None], t[:, None], condition)[:, 0]
        return packed(answer) if kind == "FluxTransformer2DModel" else answer

    return place_of(net, kind, config), peer, theirs, ours


def unet_case(name):
    theirs, config, net, x, steps, condition, classes = unet_peer(name, torch.float64)
    t = (steps.double() / 1000)[:, None]
    kind = type(theirs).__name__
    return (place_of(net, kind, config), theirs,
            torch.no_grad()(lambda: their_answer(theirs, x, steps, condition, classes)),
            torch.no_grad()(lambda: net(x, t, condition)[:, 0]))


CASES = {
    "sd1": lambda: unet_case("sd1"),
    "sdxl": lambda: unet_case("sdxl"),
    "sd3": lambda: trunk_case(lambda: sd3(qk_norm="rms_norm", dual_attention_layers=(0, 1))),
    "flux1": lambda: trunk_case(flux1),
    "pixart": lambda: trunk_case(lambda: pixart(True, interpolation_scale=2)),
    "sana": lambda: trunk_case(sana),
}


# ---- LoRAs and their layouts -----------------------------------------------------------------------------------------


def adaptable(peer):
    """Every linear map and convolution of the peer, by name."""
    return {name: m for name, m in peer.named_modules()
            if isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.groups == 1)}


def factors_for(layers, rank=3, seed=5):
    """Random (down, up) for each layer."""
    g, found = torch.Generator().manual_seed(seed), {}
    for name, layer in layers.items():
        out, into, *kernel = layer.weight.shape
        down = torch.randn(rank, into, *kernel, generator=g).double() / into
        found[name] = 3 * down, torch.randn(out, rank, *(1 for _ in kernel), generator=g).double()
    return found


def change_peer(peer, factors, strength):
    """Add LoRAs to the peer's weights, from their definition."""
    with torch.no_grad():
        for name, (down, up) in factors.items():
            added = torch.einsum("or,r...->o...", up.flatten(1), down)
            peer.get_parameter(f"{name}.weight").add_(added, alpha=strength)


def peft_layout(folder, factors, alpha, component):
    tensors = {f"base_model.model.{name}.lora_{side}.weight": x
               for name, pair in factors.items() for side, x in zip("AB", pair, strict=True)}
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": alpha, "r": 3}))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def diffusers_layout(folder, factors, alpha, component):
    tensors = {f"{component}.{name}.lora_{side}.weight": x
               for name, pair in factors.items() for side, x in zip("AB", pair, strict=True)}
    note = json.dumps({f"{component}.lora_alpha": alpha, f"{component}.r": 3})
    save_file(tensors, folder / "pytorch_lora_weights.safetensors", {"lora_adapter_metadata": note})
    return folder


def kohya_layout(folder, factors, alpha, component):
    tensors = {}
    for name, (down, up) in factors.items():
        stem = "lora_unet_" + name.replace(".", "_")
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up,
                    f"{stem}.alpha": torch.tensor(float(alpha))}
    save_file(tensors, folder / "style.safetensors")
    return folder / "style.safetensors"


LAYOUTS = {"peft": peft_layout, "diffusers": diffusers_layout, "kohya": kohya_layout}


def same(a, b):
    return float((a - b).abs().max()) < 1e-10 * float(b.abs().max())


@pytest.mark.parametrize("name", CASES)
def test_two_loras_at_once_are_those_of_the_peer_and_go_again(name, tmp_path):
    place, peer, theirs, ours = CASES[name]()
    component = "unet" if name.startswith("sd") and name != "sd3" else "transformer"
    layers, before = adaptable(peer), {k: v.clone() for k, v in place.module.state_dict().items()}
    some = {k: v for i, (k, v) in enumerate(layers.items()) if i % 3}
    plain = ours()
    assert same(plain, theirs())
    merged = []
    for (layout, write), scale, chosen in zip(LAYOUTS.items(), (0.7, -0.4, 0.2), (layers, some, layers), strict=True):
        (tmp_path / layout).mkdir()
        factors = factors_for(chosen, seed=len(merged))
        merged.append(apply_lora({NETWORK: place}, read_lora(write(tmp_path / layout, factors, 2, component)), scale))
        change_peer(peer, factors, scale * 2 / 3)
        answer = theirs()
        assert not torch.allclose(answer, plain, rtol=1e-3)
        assert same(ours(), answer), layout
    merged[0].rescale(0.1)
    change_peer(peer, factors_for(layers, seed=0), (0.1 - 0.7) * 2 / 3)
    assert same(ours(), theirs())
    for one in merged:
        one.remove()
    after = place.module.state_dict()
    assert all(torch.allclose(after[k], v, rtol=0, atol=1e-14) for k, v in before.items())
    assert same(ours(), plain)
