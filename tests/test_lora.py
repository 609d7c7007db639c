"""LoRA files of others on our networks: each against its peer with the same change of its own weights."""

import copy
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
from tiny_encoders import clip, t5
from torch import nn

from fromnoise.folders import read_tensors
from fromnoise.interop.lora import (
    NETWORK,
    Factors,
    Place,
    apply_lora,
    difference,
    encoder_places,
    place_of,
    places_of,
    read_lora,
    write_lora,
)
from fromnoise.interop.lora.merge import changes
from fromnoise.interop.lora.places import located
from fromnoise.interop.rules import changed, take
from fromnoise.interop.transformers import FAMILIES
from fromnoise.text import FAMILIES as FROZEN
from fromnoise.types import UserError

diffusers = pytest.importorskip("diffusers")


# ---- a peer and ours -------------------------------------------------------------------------------------------------


def trunk_case(case, text_width=24, pooled_width=20):
    """(place, peer, how it answers, how ours answers) of a transformer, with one input for both."""
    with Exact():
        kind, peer, run, condition = case()
    config, family = dict(peer.config), FAMILIES[kind]
    spec = family.spec(config)
    net = spec.build(4, text_width, pooled_width).double()
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


def test_a_rule_that_moves_the_origin_does_not_move_the_weights():
    net, lora = nn.Linear(4, 3).double(), {"layer.weight": Factors(draw(2, 4), draw(3, 2))}
    before = net.weight.detach().clone()
    place = Place(net, tuple(changed("weight", "layer.weight", lambda x: 1 - 2 * x, lambda x: (1 - x) / 2)))
    ((weight, added),) = changes(place, lora)
    assert weight.data_ptr() == net.weight.data_ptr()
    torch.testing.assert_close(added, -2 * draw(3, 2) @ draw(2, 4), rtol=0, atol=1e-14)
    assert torch.equal(net.weight, before)


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


def test_the_last_modulation_of_flux_is_reordered_and_keeps_its_alpha(tmp_path):
    place, *_ = CASES["flux1"]()
    up, name = draw(64, 2), "lora_unet_final_layer_adaLN_modulation_1"
    tensors = {"lora_down.weight": draw(2, 32), "lora_up.weight": up, "alpha": torch.tensor(6.0)}
    save_file({f"{name}.{k}": v for k, v in tensors.items()}, tmp_path / "style.safetensors")
    found = located({NETWORK: place}, read_lora(tmp_path / "style.safetensors"))[NETWORK]["norm_out.linear.weight"]
    assert torch.equal(found.up, torch.cat(up.chunk(2)[::-1]))  # shift and scale there, scale and shift in diffusers
    assert found.factor == 3


def test_a_convolution_of_one_point_may_be_adapted_as_a_linear_map(tmp_path):
    place, peer, theirs, ours = CASES["sd1"]()
    layers = {name: m for name, m in adaptable(peer).items() if name.endswith(("proj_in", "proj_out", "conv_shortcut"))}
    factors = factors_for(layers)
    assert all(isinstance(m, nn.Conv2d) and down.ndim == 4 for m, (down, _) in zip(layers.values(), factors.values(),
                                                                                  strict=True))
    linear = {name: (down.flatten(1), up.flatten(1)) for name, (down, up) in factors.items()}
    apply_lora({NETWORK: place}, read_lora(kohya_layout(tmp_path, linear, 3, "")), 0.7)
    change_peer(peer, factors, 0.7)
    assert same(ours(), theirs())


# ---- text encoders ---------------------------------------------------------------------------------------------------


def encoders():
    """Stable Diffusion XL's two CLIPs, tiny, as ours and as transformers' own."""
    parts = [clip(16, 1), clip(24, 2, projected=True)]
    theirs = [copy.deepcopy(model).double() for model, _ in parts]
    return FROZEN["sdxl"].build(parts).double(), theirs


def test_one_file_adapts_the_network_and_the_encoders(tmp_path):
    text, _ = encoders()
    place, *_ = CASES["sdxl"]()
    names = ["lora_unet_conv_in", "lora_te1_text_model_encoder_layers_0_mlp_fc1", "lora_te2_text_projection"]
    shapes = [((2, 4, 3, 3), (32, 2, 1, 1)), ((2, 16), (16, 2)), ((2, 24), (26, 2))]
    tensors = {f"{name}.lora_{side}.weight": draw(*shape) for name, pair in zip(names, shapes, strict=True)
               for side, shape in zip(("down", "up"), pair, strict=True)}
    save_file(tensors, tmp_path / "style.safetensors")
    places = places_of(place.module, place.kind, place.config, text)
    (clip_l, _), (clip_g, _) = text.parts
    weights = [place.module.get_parameter("conv_in.weight"), clip_l.get_parameter("encoder.layers.0.mlp.fc1.weight"),
               clip_g.get_parameter("text_projection.weight")]
    before = [w.detach().clone() for w in weights]
    with apply_lora(places, read_lora(tmp_path / "style.safetensors"), 0.7):
        for weight, was, (down, up) in zip(weights, before, shapes, strict=True):
            added = torch.einsum("or,r...->o...", draw(*up).flatten(1), draw(*down))
            torch.testing.assert_close(weight.detach(), was + 0.7 * added, rtol=0, atol=1e-12)
    with pytest.raises(UserError, match="this model has no text_encoder"):
        apply_lora({NETWORK: place}, read_lora(tmp_path / "style.safetensors"))


@pytest.mark.parametrize("layout", ["kohya", "diffusers", "diffusers, old", "transformers 5"])
def test_text_encoders_are_adapted_by_name(layout, tmp_path):
    text, theirs = encoders()
    before = text.encode(["a red circle"])
    tensors = {}
    for i, model in enumerate(theirs):
        layers = {k: m for k, m in adaptable(model).items() if "proj" in k or "fc" in k}
        factors = factors_for(layers, seed=i)
        change_peer(model, factors, 0.7)
        for name, (down, up) in factors.items():
            bare = name.removeprefix("text_model.")
            full = f"text_model.{bare}" if bare.startswith("encoder") else bare
            second = "_2" if i else ""
            kohya = f"lora_te{i + 1}_{full.replace('.', '_')}"
            old = re.sub(r"self_attn\.(q|k|v|out)_proj", r"self_attn.to_\1_lora", f"text_encoder{second}.{full}")
            old = old if "_lora" in old else f"{old}.lora_linear_layer"
            stem = {"kohya": f"{kohya}.lora_{{}}", "diffusers": f"text_encoder{second}.{full}.lora_{{}}",
                    "diffusers, old": f"{old}.{{}}", "transformers 5": f"text_encoder{second}.{bare}.lora_{{}}"}[layout]
            sides = "AB" if layout in ("diffusers", "transformers 5") else ("down", "up")
            tensors |= {f"{stem.format(side)}.weight": x for side, x in zip(sides, (down, up), strict=True)}
    save_file(tensors, tmp_path / "style.safetensors")
    merged = apply_lora(encoder_places(text), read_lora(tmp_path / "style.safetensors"), 0.7)
    got = text.encode(["a red circle"])
    want = FROZEN["sdxl"].build([(m, tok) for m, (_, tok) in zip(theirs, text.parts, strict=True)]).encode(
        ["a red circle"])
    assert not torch.allclose(got.text, before.text, rtol=1e-3)
    assert same(got.text, want.text)
    assert same(got.pooled, want.pooled)
    merged.remove()
    assert same(text.encode(["a red circle"]).text, before.text)


def test_kohyas_third_encoder_is_the_last_one(tmp_path):
    text = FROZEN["flux1"].build([clip(16, 1), t5()])
    q = "lora_te3_encoder_block_0_layer_0_SelfAttention_q"
    save_file({f"{q}.lora_down.weight": torch.randn(2, 24), f"{q}.lora_up.weight": torch.randn(16, 2)},
              tmp_path / "style.safetensors")
    found = located(encoder_places(text), read_lora(tmp_path / "style.safetensors"))
    assert list(found) == ["text_encoder_2"]


# ---- files -----------------------------------------------------------------------------------------------------------

Q = "transformer_blocks.0.attn.to_q"


def written(tmp_path, notes=None, **changes):
    """A LoRA for one layer of the tiny Flux, with some tensors changed; None leaves one out."""
    tensors = {f"transformer.{Q}.lora_A.weight": draw(3, 32), f"transformer.{Q}.lora_B.weight": draw(32, 3)} | changes
    path = tmp_path / "style.safetensors"
    save_file({k: v for k, v in tensors.items() if v is not None}, path, notes)
    return path


@pytest.mark.parametrize(("note", "factor"), [
    ({}, 1.0), ({"lora_alpha": 6}, 2.0), ({"lora_alpha": 6, "use_rslora": True}, 6 / 3**0.5),
    ({"lora_alpha": 6, "alpha_pattern": {"attn.to_q": 12, "o_q": 1}}, 4.0),
    ({"lora_alpha": 6, "alpha_pattern": {"attn.to_k": 12, "^attn.to_q": 3}}, 2.0),
    ({"lora_alpha": 6, "alpha_pattern": {f"^{Q}": 3}}, 1.0)])
def test_alpha_stands_in_the_note_of_the_component(note, factor, tmp_path):
    packed_note = {f"transformer.{k}": v for k, v in note.items()} | {"text_encoder.lora_alpha": 100}
    path = written(tmp_path, {"lora_adapter_metadata": json.dumps(packed_note)})
    assert read_lora(path).layers[f"transformer.{Q}"].factor == pytest.approx(factor, rel=1e-12)


def test_alpha_may_be_an_integer(tmp_path):
    path = written(tmp_path, **{f"transformer.{Q}.alpha": torch.tensor(6)})
    assert read_lora(path).layers[f"transformer.{Q}"].factor == 2


@pytest.mark.parametrize(("note", "sentence"), [
    ({"use_dora": True}, "is of the kind DoRA"), ({"peft_type": "LOHA"}, "is of the kind LOHA"),
    ({"lora_alpha": "much"}, "does not hold the settings"), ({"alpha_pattern": {"(a+)+$": 1}}, "by a pattern"),
    ([1], "does not hold the settings")])
def test_settings_that_are_not_those_of_a_lora_are_a_sentence(note, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        read_lora(written(tmp_path, {"lora_adapter_metadata": json.dumps(note)}))


@pytest.mark.parametrize(("changes", "sentence"), [
    ({f"transformer.{Q}.lora_magnitude_vector.weight": torch.ones(32)}, "is a DoRA"),
    ({"lora_unet_x.dora_scale": torch.ones(32)}, "is a DoRA"),
    ({"lora_unet_x.lokr_w1": torch.ones(2, 2)}, r"its tensor lora_unet_x\.lokr_w1 is neither"),
    ({f"transformer.{Q}.lora_B.bias": torch.ones(32)}, r"lora_B\.bias is neither"),
    ({f"transformer.{Q}.lora_B.weight": None}, rf"no up factor for transformer\.{Q}"),
    ({f"transformer.{Q}.lora_B.weight": draw(32, 4)}, "do not meet"),
    ({f"transformer.{Q}.lora_B.weight": draw(32, 0), f"transformer.{Q}.lora_A.weight": draw(0, 32)}, "do not meet"),
    ({f"transformer.{Q}.lora_B.weight": draw(32, 3) / 0}, "finite"),
    ({f"transformer.{Q}.lora_B.weight": torch.ones(32, 3, dtype=torch.int64)}, "finite"),
    ({f"transformer.{Q}.alpha": draw(2)}, "is not one number")])
def test_a_file_that_is_no_plain_lora_is_a_sentence(changes, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        read_lora(written(tmp_path, **changes))


def test_pickles_and_empty_folders_are_refused(tmp_path):
    (tmp_path / "pytorch_lora_weights.bin").write_bytes(b"")
    for path in (tmp_path, tmp_path / "pytorch_lora_weights.bin"):
        with pytest.raises(UserError, match=r"pytorch_lora_weights\.bin is a pickle"):
            read_lora(path)
    with pytest.raises(UserError, match="There is no LoRA at"):
        read_lora(tmp_path / "none.safetensors")
    written(tmp_path).rename(tmp_path / "a.safetensors")
    assert read_lora(tmp_path).layers
    written(tmp_path)
    with pytest.raises(UserError, match="holds several files"):
        read_lora(tmp_path)


A, Z_ = draw(3, 32), draw(32, 3)


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"transformer.layers.7.to_q.lora_A.weight": A, "transformer.layers.7.to_q.lora_B.weight": Z_},
     r"no place for its layer transformer\.layers\.7\.to_q"),
    ({"lora_unet_single_blocks_0_linear1.lora_down.weight": A, "lora_unet_single_blocks_0_linear1.lora_up.weight": Z_},
     "no place for its layer lora_unet_single_blocks_0_linear1"),
    ({"text_encoder.x.lora_A.weight": A, "text_encoder.x.lora_B.weight": Z_}, "this model has no text_encoder"),
    ({f"lora_unet_{Q.replace('.', '_')}.lora_down.weight": A, f"lora_unet_{Q.replace('.', '_')}.lora_up.weight": Z_},
     r"to_q twice"),
    ({f"transformer.{Q}.lora_B.weight": draw(31, 3)}, r"is \[31, 32\], and the weight here is \[32, 32\]"),
    ({f"transformer.{Q}.lora_A.weight": draw(3, 32, 3, 3), f"transformer.{Q}.lora_B.weight": draw(32, 3, 1, 1)},
     r"is \[32, 32, 3, 3\]")])
def test_a_lora_that_does_not_fit_is_a_sentence_and_changes_nothing(changes, sentence, tmp_path):
    place, *_ = CASES["flux1"]()
    before = {k: v.clone() for k, v in place.module.state_dict().items()}
    lora = read_lora(written(tmp_path, **changes))
    with pytest.raises(UserError, match=sentence):
        apply_lora({NETWORK: place}, lora)
    assert all(torch.equal(v, before[k]) for k, v in place.module.state_dict().items())


def test_copies_of_one_layer_are_adapted_alike_or_not_at_all(tmp_path):
    place, *_ = trunk_case(dit, None, 32)
    one = "norm1.emb.timestep_embedder.linear_2"
    factors = {f"transformer_blocks.{i}.{one}": (draw(3, 32), draw(32, 3)) for i in range(3)}
    before = place.module.get_parameter("time_in.time.2.weight").clone()
    added = factors[f"transformer_blocks.0.{one}"]
    with apply_lora({NETWORK: place}, read_lora(kohya_layout(tmp_path, factors, 3, "")), 0.5):
        got = place.module.get_parameter("time_in.time.2.weight")
        torch.testing.assert_close(got, before + 0.5 * added[1] @ added[0], rtol=0, atol=1e-12)
    del factors[f"transformer_blocks.1.{one}"]
    lora = read_lora(kohya_layout(tmp_path, factors, 3, ""))
    with pytest.raises(UserError, match="but they differ"):
        apply_lora({NETWORK: place}, lora)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_changed_in_single_precision(dtype, tmp_path):
    place, *_ = CASES["flux1"]()
    place.module.to(dtype)
    weight = place.module.get_parameter("stages.double_stream.blocks.0.layers.picture.heads.qkv.weight")
    before = weight.detach().clone()
    path = written(tmp_path)
    merged = apply_lora({NETWORK: place}, read_lora(path), 0.7)
    delta = (draw(32, 3).float() @ draw(3, 32).float()).mul(0.7)
    assert torch.equal(weight[0], (before[0].float() + delta).to(dtype))
    assert torch.equal(weight[1:], before[1:])
    merged.remove()
    rounding = torch.finfo(dtype).eps * float((before[0] + delta).abs().max())
    assert float((weight - before).detach().abs().max()) <= 2 * rounding


def test_weights_mapped_from_a_file_do_not_change_the_file(tmp_path):
    place, *_ = CASES["flux1"]()
    save_file(place.module.state_dict(), tmp_path / "net.safetensors")
    was = (tmp_path / "net.safetensors").read_bytes()
    place.module.load_state_dict(read_tensors(tmp_path / "net.safetensors"), assign=True)
    (tmp_path / "lora").mkdir()
    apply_lora({NETWORK: place}, read_lora(written(tmp_path / "lora")))
    again = read_tensors(tmp_path / "net.safetensors")
    assert any(not torch.equal(v, again[k]) for k, v in place.module.state_dict().items())
    assert (tmp_path / "net.safetensors").read_bytes() == was


# ---- peft itself -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("how", ["save_lora_adapter", "save_lora_weights", "save_pretrained"])
@pytest.mark.parametrize(("name", "pipeline"), [
    ("sd1", "StableDiffusionPipeline"), ("sd3", "StableDiffusion3Pipeline"), ("flux1", "FluxPipeline"),
    ("sana", "SanaPipeline"), ("pixart", None)])
def test_what_peft_adds_and_saves_is_added_here(name, pipeline, how, rslora, tmp_path):
    """The peer with peft's own layers, saved in each of three ways (PixArt's class has only peft's)."""
    peft = pytest.importorskip("peft")
    place, peer, theirs, ours = CASES[name]()
    layers = list(adaptable(peer))
    config = peft.LoraConfig(r=3, lora_alpha=5, use_rslora=rslora, target_modules=layers,
                             rank_pattern={layers[2]: 2}, alpha_pattern={layers[5]: 11})
    wrapped = peft.get_peft_model(peer, config)  # in place: the peer's layers are now peft's
    g = torch.Generator().manual_seed(1)
    for key, p in wrapped.named_parameters():
        if "lora_" in key:
            p.data = 0.1 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    if how == "save_pretrained" or pipeline is None:
        wrapped.save_pretrained(tmp_path)
    elif how == "save_lora_adapter":
        peer.peft_config, peer._hf_peft_config_loaded = wrapped.peft_config, True
        peer.save_lora_adapter(tmp_path)
    else:
        tensors = peft.get_peft_model_state_dict(wrapped)
        tensors = {k.removeprefix("base_model.model."): v for k, v in tensors.items()}
        part = "unet" if name == "sd1" else "transformer"
        getattr(diffusers, pipeline).save_lora_weights(
            tmp_path, **{f"{part}_lora_layers": tensors, f"{part}_lora_adapter_metadata": config.to_dict()})
    plain = ours()
    with apply_lora({NETWORK: place}, read_lora(tmp_path)):
        assert not torch.allclose(ours(), plain, rtol=1e-3)
        assert same(ours(), theirs())
    assert same(ours(), plain)


# ---- our own ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd1", "flux1", "sana"])
def test_the_change_of_a_run_is_written_and_is_that_of_the_peer(name, tmp_path):
    place, peer, theirs, ours = CASES[name]()
    before = {k: v.clone() for k, v in place.module.state_dict().items()}
    factors = factors_for(adaptable(peer), rank=3)
    apply_lora({NETWORK: place}, read_lora(kohya_layout(tmp_path, factors, 3, "")), 0.7)  # stands for training
    change_peer(peer, factors, 0.7)
    after = {k: v.clone() for k, v in place.module.state_dict().items()}
    found = difference(place, before, after, rank=6)  # more than some have rows
    assert found.kept > 1 - 1e-12
    path = write_lora(tmp_path / "ours", place, found.layers)
    place.module.load_state_dict(before)
    assert not torch.allclose(ours(), theirs(), rtol=1e-3)
    apply_lora({NETWORK: place}, read_lora(path))
    assert float((ours() - theirs()).abs().max()) < 1e-9 * float(theirs().abs().max())  # SVDs lose a digit


def test_what_a_rank_cannot_hold_is_the_tail_of_the_singular_values():
    place, peer, *_ = CASES["flux1"]()
    before = {k: v.clone() for k, v in place.module.state_dict().items()}
    layer = {Q: adaptable(peer)[Q]}
    ((down, up),) = factors_for(layer, rank=5).values()
    after = copy.deepcopy(before)
    stack = after["stages.double_stream.blocks.0.layers.picture.heads.qkv.weight"]
    stack[0] += up @ down
    found = difference(place, before, after, rank=2)
    values = torch.linalg.svdvals(up @ down)
    assert list(found.layers) == [f"{Q}.weight"]
    assert found.kept == pytest.approx(float((values[:2] ** 2).sum() / (values**2).sum()), rel=1e-12)
    error = (found.layers[f"{Q}.weight"].delta(stack[0]) - up @ down).norm()
    assert float(error) == pytest.approx(float((values[2:] ** 2).sum().sqrt()), rel=1e-9)
    after["stages.double_stream.blocks.0.layers.picture.heads.qkv.bias"] += 1  # which no LoRA holds
    assert difference(place, before, after, rank=2).kept < found.kept


def test_a_run_that_did_not_change_has_no_lora():
    place, *_ = CASES["flux1"]()
    state = place.module.state_dict()
    with pytest.raises(UserError, match="no change"):
        difference(place, state, state, rank=2)


@pytest.mark.parametrize(("name", "prefix", "rank"), [("sd1", "unet", 6), ("flux1", "transformer", 20)])
def test_peft_reads_what_we_write(name, prefix, rank, tmp_path):
    pytest.importorskip("peft")
    place, peer, theirs, ours = CASES[name]()
    before = {k: v.clone() for k, v in place.module.state_dict().items()}
    apply_lora({NETWORK: place}, read_lora(kohya_layout(tmp_path, factors_for(adaptable(peer)), 3, "")), 0.7)
    found = difference(place, before, place.module.state_dict(), rank)
    path = write_lora(tmp_path / "ours", place, found.layers)
    peer.load_lora_adapter(path.parent, weight_name=path.name, prefix=prefix)
    assert float((ours() - theirs()).abs().max()) < 1e-9 * float(theirs().abs().max())


@pytest.mark.parametrize(("name", "pipeline"), [("sd1", "StableDiffusionPipeline"), ("flux1", "FluxPipeline")])
def test_kohyas_files_are_read_as_diffusers_reads_them(name, pipeline, tmp_path):
    """Alpha over the rank is 1/2, since diffusers divides them in float32."""
    pytest.importorskip("peft")
    place, peer, theirs, ours = CASES[name]()
    pipeline = getattr(diffusers, pipeline)
    if name == "sd1":
        chosen = {k: m for k, m in adaptable(peer).items() if "attn" in k or "ff.net" in k or "conv1" in k}
        path = kohya_layout(tmp_path, factors_for(chosen), 1.5, "")
        state, alphas = pipeline.lora_state_dict(str(path))
        pipeline.load_lora_into_unet(state, alphas, peer, adapter_name="style")
    else:
        tensors = {}
        for i, (layer, modules) in enumerate(BFL.items()):
            pairs = list(factors_for({module: peer.get_submodule(module) for module in modules}, seed=i).values())
            stem = "lora_unet_" + layer.removeprefix("lora_unet_").removeprefix("diffusion_model.").replace(".", "_")
            tensors |= {f"{stem}.lora_down.weight": pairs[0][0], f"{stem}.alpha": torch.tensor(1.5),
                        f"{stem}.lora_up.weight": torch.cat([up for _, up in pairs])}
        path = tmp_path / "style.safetensors"
        del tensors["lora_unet_final_layer_linear.alpha"]  # which diffusers forgets
        save_file(tensors, path)
        state, alphas = pipeline.lora_state_dict(str(path), return_alphas=True)
        state = {k if k.startswith("transformer.") else f"transformer.{k}": v for k, v in state.items()}
        pipeline.load_lora_into_transformer(state, alphas, peer, adapter_name="style")
    peer.double()
    plain = ours()
    with apply_lora({NETWORK: place}, read_lora(path)):
        assert not torch.allclose(ours(), plain, rtol=1e-3)
        assert same(ours(), theirs())
