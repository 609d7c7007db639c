"""LoRAs in models and on the command line: several, with scales, in the picture's settings, merged into an export."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_encoders import clip
from tiny_pipelines import stable_diffusion_3

import fromnoise as fn
from fromnoise.cli import main
from fromnoise.cli.loras import file_and_scale
from fromnoise.interop.configs import counterpart
from fromnoise.interop.lora import NETWORK, difference, own_place, place_of, write_lora
from fromnoise.nets import house
from fromnoise.output import read_picture
from fromnoise.recipe import Training
from fromnoise.recipes import digits, shapes
from fromnoise.recipes.presets import with_preset
from fromnoise.text import Frozen
from fromnoise.train import train
from fromnoise.types import UserError

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

Q, K = (f"transformer.transformer_blocks.0.attn.to_{n}" for n in "qk")


def write(path, name, width=32, seed=0):
    """A LoRA of one layer, and what it adds at scale 1."""
    draw = torch.Generator().manual_seed(seed)
    down, up = torch.randn(3, width, generator=draw), torch.randn(width, 3, generator=draw)
    save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, path)
    return up @ down


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora") / "sd3"
    stable_diffusion_3()[0].save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the preset sd3, of which diffusers has a counterpart."""
    recipe = with_preset(shapes(), "sd3")
    net = replace(recipe.net, patch=2, time=replace(recipe.net.time, scale=1000.0))
    return trained(replace(recipe, net=net), tmp_path_factory.mktemp("lora") / "run")


def trained(recipe, folder):
    train(replace(recipe, train=Training(steps=2, batch=4, threads=1, preview_every=0)), folder)
    return folder


def sample(folder, out, *more):
    return main(["sample", str(folder), "a red circle", "--n", "1", "--steps", "3", "--out", str(out), *more])


# ---- in Python -------------------------------------------------------------------------------------------------------


def test_a_model_says_which_loras_it_holds(pipeline, tmp_path):
    write(tmp_path / "a.safetensors", Q)
    write(tmp_path / "b.safetensors", K, seed=1)
    model = fn.load(pipeline, "cpu")
    assert model.loras == model.sample("", steps=1).settings.loras == []
    a = model.add_lora(tmp_path / "a.safetensors", 0.7)
    b = model.add_lora(tmp_path / "b.safetensors")
    assert [(one.path, one.scale) for one in model.loras] == [(a.where, 0.7), (b.where, 1.0)]
    b.rescale(-0.5)
    a.remove()
    assert [(one.path, one.scale) for one in model.sample("", steps=1).settings.loras] == [(b.where, -0.5)]
    with pytest.raises(UserError, match="scale must be a number"):
        model.add_lora(tmp_path / "a.safetensors", float("nan"))


def test_a_run_takes_loras_by_the_names_of_diffusers(run, tmp_path):
    model = fn.load(run, "cpu")
    added = write(tmp_path / "a.safetensors", K, 96)
    weight = model.system.denoiser.net.state_dict()
    name = "stages.double_stream.blocks.0.layers.picture.heads.qkv.weight"
    before = weight[name].clone()
    one = model.add_lora(tmp_path / "a.safetensors", 0.5)
    torch.testing.assert_close(weight[name][1] - before[1], 0.5 * added, rtol=1e-4, atol=1e-5)
    assert torch.equal(weight[name][0], before[0])
    one.remove()
    torch.testing.assert_close(weight[name], before, rtol=0, atol=1e-5)


def test_the_change_between_two_runs_is_a_lora_for_either(run, tmp_path):
    model = fn.load(run, "cpu")
    net = model.system.denoiser.net
    before = {k: v.clone() for k, v in net.state_dict().items()}
    name = "stages.double_stream.blocks.0.layers.text.feed_forward.inner.weight"
    after = before | {name: before[name] + 1e-2 * torch.randn(before[name].shape[0], 1) @ torch.randn(1, 96)}
    place = place_of(net, *counterpart(model.recipe, model.system))
    write_lora(tmp_path, place, difference(place, before, after, 1).layers)
    model.add_lora(tmp_path)
    for key, value in net.state_dict().items():
        torch.testing.assert_close(value, after[key], rtol=0, atol=1e-5, msg=key)


def test_a_network_that_diffusers_does_not_have_goes_by_its_own_names(tmp_path):
    model = fn.load(trained(replace(digits(), net=house(width=16, depth=1, patch=4)), tmp_path / "run"), "cpu")
    assert model.places()[NETWORK].kind == ""
    net = model.system.denoiser.net
    before = {k: v.clone() for k, v in net.state_dict().items()}
    name = next(k for k, v in before.items() if k.endswith(".weight") and v.ndim == 2 and min(v.shape) > 3)
    rows, columns = before[name].shape
    after = before | {name: before[name] + 0.1 * torch.randn(rows, 1) @ torch.randn(1, columns)}
    write_lora(tmp_path, own_place(net), difference(own_place(net), before, after, 1).layers)
    model.add_lora(tmp_path, 0.5)
    torch.testing.assert_close(net.state_dict()[name], (before[name] + after[name]) / 2, rtol=0, atol=1e-5)


def test_what_read_prompts_in_training_takes_no_lora(tmp_path):
    """Its answers may be kept, and would be those without the LoRA."""
    model, tokenizer = clip(32, 1)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "clip")
    net = house(width=16, heads=2, depth=1, patch=4)
    recipe = replace(shapes(), net=net, text=Frozen(folder=str(tmp_path / "clip"), cache="memory"))
    model = fn.load(trained(recipe, tmp_path / "run"), "cpu")
    write(tmp_path / "a.safetensors", "text_encoder.text_model.encoder.layers.0.self_attn.q_proj")
    with pytest.raises(UserError, match="this model has no text_encoder that it could be added to"):
        model.add_lora(tmp_path / "a.safetensors")
    assert model.loras == []


# ---- on the command line ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "meaning"), [
    ("a.safetensors", ("a.safetensors", 1.0)), ("a.safetensors:0.8", ("a.safetensors", 0.8)),
    ("C:\\a.safetensors:-1e-1", ("C:\\a.safetensors", -0.1)), ("C:\\a.safetensors", ("C:\\a.safetensors", 1.0))])
def test_a_scale_stands_behind_a_colon(word, meaning):
    assert file_and_scale(word) == meaning


def test_a_name_may_have_a_colon_in_it(tmp_path):
    (tmp_path / "a:2").touch()
    assert file_and_scale(str(tmp_path / "a:2")) == (str(tmp_path / "a:2"), 1.0)


def test_a_picture_with_loras_is_made_again(pipeline, tmp_path, capsys):
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    write(a, Q)
    write(b, K, seed=1)
    out, again = tmp_path / "out.png", tmp_path / "again.png"
    assert sample(pipeline, out, "--lora", f"{a}:0.8", "--lora", str(b)) == 0
    assert [(one.path, one.scale) for one in read_picture(out)["settings"].loras] == [(str(a), 0.8), (str(b), 1.0)]
    model = fn.load(pipeline, "cpu")
    model.add_lora(a, 0.8)
    model.add_lora(b)
    model.sample("a red circle", steps=3).save(tmp_path / "python.png")
    assert list(pixels(out)) == list(pixels(tmp_path / "python.png"))
    capsys.readouterr()
    assert main(["sample", "--like", str(out), "--out", str(again)]) == 0
    assert again.read_bytes() == out.read_bytes()
    assert capsys.readouterr().err == ""
    assert main(["sample", "--like", str(out), "--lora", str(b), "--out", str(again)]) == 0
    assert pixels(again) != pixels(out)
    write(b, K, seed=2)
    assert main(["sample", "--like", str(out), "--out", str(again)]) == 2
    assert "which has changed since" in capsys.readouterr().err
    b.unlink()
    assert main(["sample", "--like", str(out), "--out", str(again)]) == 2
    assert "which is no longer there" in capsys.readouterr().err


def pixels(path):
    with Image.open(path) as image:
        return image.tobytes()


def test_what_is_written_holds_the_loras(pipeline, run, tmp_path):
    write(tmp_path / "a.safetensors", Q)
    assert sample(pipeline, tmp_path / "with.png", "--lora", f"{tmp_path / 'a.safetensors'}:0.8") == 0
    assert main(["export", str(pipeline), "--lora", f"{tmp_path / 'a.safetensors'}:0.8",
                 "--out", str(tmp_path / "merged")]) == 0
    assert sample(tmp_path / "merged", tmp_path / "merged.png") == 0
    assert pixels(tmp_path / "merged.png") == pixels(tmp_path / "with.png")
    added = write(tmp_path / "b.safetensors", Q, 96)
    peers = []
    for name, more in (("plain", []), ("changed", ["--lora", str(tmp_path / "b.safetensors")])):
        assert main(["export", str(run), "--out", str(tmp_path / name), *more]) == 0
        peer = diffusers.SD3Transformer2DModel.from_pretrained(tmp_path / name, subfolder="transformer")
        peers.append(peer.get_parameter(f"{Q.removeprefix('transformer.')}.weight").detach())
    torch.testing.assert_close(peers[1] - peers[0], added, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("word", "sentence"), [
    ("{0}/none.safetensors:0.5", "There is no LoRA at {0}/none.safetensors"),
    ("{0}/a.safetensors:much", '(got "much" for'), ("{0}/a.safetensors:inf", "scale must be a number (got inf)"),
    ("{0}/elsewhere.safetensors", "there is no place for its layer transformer.transformer_blocks.7.attn.to_q"),
    ("{0}/wide.safetensors", "is [48, 48], and the weight here is [32, 32]")])
def test_a_lora_that_does_not_fit_is_a_sentence(word, sentence, pipeline, tmp_path, capsys):
    write(tmp_path / "a.safetensors", Q)
    write(tmp_path / "wide.safetensors", Q, 48)
    write(tmp_path / "elsewhere.safetensors", Q.replace("blocks.0", "blocks.7"))
    assert sample(pipeline, tmp_path / "out.png", "--lora", word.format(tmp_path)) == 2
    error = capsys.readouterr().err
    assert sentence.format(tmp_path) in error
    assert len(error.splitlines()) == 1


def test_the_settings_beside_a_lora_count(tmp_path):
    """Alpha stands in a file of its own in peft's layout: another alpha is another LoRA."""
    from fromnoise.interop.lora import fingerprint

    write(tmp_path / "adapter_model.safetensors", Q)
    found = set()
    for alpha in (1, 2):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": alpha}))
        found.add(fingerprint(tmp_path))
    assert len(found) == 2
