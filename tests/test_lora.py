"""LoRA files of others on our networks: each against its peer with the same change of its own weights."""

import json
import re

import pytest
import torch
from parity import Exact, draw, packed
from safetensors.torch import save_file
from test_parity_class_and_cross import dit, pixart, prx, sana
from test_parity_singles import PADDED, TEXT, flux2, lumina2, qwen, z_image
from test_parity_transformers import flux1, sd3
from test_parity_unet import peer as unet_peer
from test_parity_unet import their_answer
from torch import nn

from fromnoise.interop.lora import NETWORK, apply_lora, place_of, read_lora
from fromnoise.interop.lora.places import located
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
        return packed(answer) if theirs().ndim == 3 else answer

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
    "flux2": lambda: trunk_case(lambda: flux2(True)),
    "qwen-image": lambda: trunk_case(lambda: qwen(TEXT)),
    "lumina2": lambda: trunk_case(lambda: lumina2(PADDED)),
    "z-image": lambda: trunk_case(lambda: z_image(PADDED)),
    "prx": lambda: trunk_case(prx),
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


# ---- names of other codes --------------------------------------------------------------------------------------------

BFL = {  # layers of Flux in its first code, and which of diffusers' they are
    "lora_unet_double_blocks_0_img_attn_qkv": ["transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_k",
                                               "transformer_blocks.0.attn.to_v"],
    "diffusion_model.double_blocks.1.txt_attn.qkv": [
        "transformer_blocks.1.attn.add_q_proj", "transformer_blocks.1.attn.add_k_proj",
        "transformer_blocks.1.attn.add_v_proj"],
    "lora_unet_double_blocks_1_txt_mlp_2": ["transformer_blocks.1.ff_context.net.2"],
    "lora_unet_double_blocks_0_img_mod_lin": ["transformer_blocks.0.norm1.linear"],
    "lora_unet_single_blocks_1_linear2": ["single_transformer_blocks.1.proj_out"],
    "lora_unet_vector_in_in_layer": ["time_text_embed.text_embedder.linear_1"],
    "lora_unet_final_layer_linear": ["proj_out"],
}
SGM = {  # and of SDXL's
    "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q":
        ["down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"],
    "lora_unet_input_blocks_3_1_transformer_blocks_0_attn2_to_out_0":
        ["down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0"],
    "lora_unet_input_blocks_3_0_in_layers_2": ["down_blocks.1.resnets.0.conv1"],
    "lora_unet_input_blocks_3_0_emb_layers_1": ["down_blocks.1.resnets.0.time_emb_proj"],
    "lora_unet_input_blocks_2_0_op": ["down_blocks.0.downsamplers.0.conv"],
    "lora_unet_middle_block_1_transformer_blocks_1_ff_net_0_proj":
        ["mid_block.attentions.0.transformer_blocks.1.ff.net.0.proj"],
    "lora_unet_output_blocks_1_1_proj_out": ["up_blocks.0.attentions.1.proj_out"],
    "lora_unet_output_blocks_1_2_conv": ["up_blocks.0.upsamplers.0.conv"],
    "lora_unet_label_emb_0_0": ["add_embedding.linear_1"],
    "lora_unet_out_2": ["conv_out"],
}
Z = {
    "lora_unet_layers_1_attention_qkv": [f"layers.1.attention.to_{n}" for n in "qkv"],
    "lora_unet_noise_refiner_0_attention_out": ["noise_refiner.0.attention.to_out.0"],
}
BFL2 = {
    "lora_unet_double_blocks_0_img_attn_qkv": BFL["lora_unet_double_blocks_0_img_attn_qkv"],
    "lora_unet_single_blocks_1_linear1": ["single_transformer_blocks.1.attn.to_qkv_mlp_proj"],
}


@pytest.mark.parametrize(("case", "names"), [("flux1", BFL), ("sdxl", SGM), ("z-image", Z), ("flux2", BFL2)])
def test_layers_in_the_names_of_a_systems_first_code(case, names, tmp_path):
    place, peer, theirs, ours = CASES[case]()
    tensors, plain = {}, theirs()
    for i, (name, modules) in enumerate(names.items()):
        layers = {module: peer.get_submodule(module) for module in modules}
        pairs = factors_for(layers, seed=i)
        down = next(iter(pairs.values()))[0]  # one for all that are one layer there
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.alpha": torch.tensor(2.0),
                    f"{name}.lora_up.weight": torch.cat([up for _, up in pairs.values()])}
        before = theirs()
        change_peer(peer, {module: (down, up) for module, (_, up) in pairs.items()}, 0.7 * 2 / 3)
        assert not torch.allclose(theirs(), before, rtol=1e-6)
    save_file(tensors, tmp_path / "style.safetensors")
    with apply_lora({NETWORK: place}, read_lora(tmp_path / "style.safetensors"), 0.7):
        assert same(ours(), theirs())
    assert same(ours(), plain)


def test_the_fused_layers_of_flux_are_split_at_its_published_width(tmp_path):
    with torch.device("meta"):
        config = dict(diffusers.FluxTransformer2DModel(num_layers=0, num_single_layers=1).config)
    place = place_of(nn.Module(), "FluxTransformer2DModel", config)
    rows, up = [3072, 3072, 3072, 12288], torch.randn(21504, 2)
    save_file({"lora_unet_single_blocks_0_linear1.lora_down.weight": torch.randn(2, 3072),
               "lora_unet_single_blocks_0_linear1.lora_up.weight": up}, tmp_path / "style.safetensors")
    found = located({NETWORK: place}, read_lora(tmp_path / "style.safetensors"))[NETWORK]
    block = "single_transformer_blocks.0"
    for name, part in zip(["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"], up.split(rows), strict=True):
        assert torch.equal(found[f"{block}.{name}.weight"].up, part)


@pytest.mark.parametrize("name", CASES)
def test_no_two_layers_are_one_when_joined_by_underscores(name):
    place, *_ = CASES[name]()
    weights = {name for rule in place.rules for name in rule.theirs if name.endswith(".weight")}
    assert set(place.layers.values()) == weights


def test_attention_in_the_names_of_old_files(tmp_path):
    place, peer, theirs, ours = CASES["sd1"]()
    layers = {k: m for k, m in adaptable(peer).items() if re.search(r"attn\d", k)}
    factors, tensors = factors_for(layers), {}
    for name, (down, up) in factors.items():
        *block, attention, layer = name.removesuffix(".0").split(".")
        stem = ".".join(["unet", *block, attention, "processor", f"{layer}_lora"])
        tensors |= {f"{stem}.down.weight": down, f"{stem}.up.weight": up}
    save_file(tensors, tmp_path / "style.safetensors")
    apply_lora({NETWORK: place}, read_lora(tmp_path / "style.safetensors"), 0.7)
    change_peer(peer, factors, 0.7)
    assert same(ours(), theirs())
