"""Presets on the command line and in recipes; combinations that cannot be are refused with their reason."""

import pytest
import torch

from fromnoise.blocks import AttentionSpec, FeedForwardSpec, ModulationSpec
from fromnoise.cli import main
from fromnoise.config import from_dict, to_dict
from fromnoise.nets import Trunk, UNet
from fromnoise.nets.published import MEDIA, PUBLISHED, published, published_count, resolve
from fromnoise.nets.trunk import NoPositions, Relative, Rotary, TextSpec
from fromnoise.recipe import Recipe, read_recipe, recipe_dict
from fromnoise.recipes import digits, image, shapes
from fromnoise.recipes.presets import SMALL, with_preset
from fromnoise.types import Condition, UserError

IMPOSSIBLE = [
    ({}, "there is no block"),
    ({"single": 2, "width": 98}, "not a multiple of net.attention.heads"),
    ({"single": 2, "attention": AttentionSpec(heads=4, kv_heads=3)}, "kv_heads"),
    ({"single": 2, "positions": Rotary(axes=(8, 8, 6))}, "add up to the size of a head, 24"),
    ({"single": 2, "positions": Rotary(axes=(8, 8, 8), words="last")}, "fourth"),
    ({"read": 1, "double": 1}, "keeps the text as it is"),
    ({"cross": 1, "single": 1}, "outside the sequence"),
    ({"double": 2, "alone": 3}, "more than the 2 double blocks"),
    ({"double": 1, "single": 1, "text_ends": True}, "drops the text"),
    ({"double": 1, "parallel": True}, "speaks of single blocks"),
    ({"single": 2, "long_skips": True}, "at least three"),
    ({"single": 2, "attention": AttentionSpec(kind="linear")}, "use net.cross"),
    ({"single": 2, "feed_forward": FeedForwardSpec(conv=True, gated=True)}, "without words among their tokens"),
    ({"cross": 2, "feed_forward": FeedForwardSpec(conv=True)}, "built gated"),
    ({"single": 2, "mask": "causal"}, "net.text.clean"),
    ({"single": 2, "modulation": ModulationSpec(source="none")}, 'net.head to "plain"'),
    ({"single": 2, "head": "table"}, 'net.modulation.source "table"'),
    ({"single": 2, "text": TextSpec(pad_to=32)}, '"first" axis'),
    ({"cross": 2, "attention": AttentionSpec(kind="linear"), "positions": Relative()}, "no logits"),
]


@pytest.mark.parametrize(("fields", "reason"), IMPOSSIBLE, ids=lambda v: v if isinstance(v, str) else "")
def test_impossible_combinations_say_why(fields, reason):
    with pytest.raises(UserError, match=reason.replace(".", r"\.")):
        Trunk(**fields).build(4, 24, 20)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_can_be_saved_read_and_checked(name):
    spec = PUBLISHED[name]()
    spec.check()
    assert from_dict(type(spec), to_dict(spec)) == spec


def test_every_published_network_has_a_small_size_and_media():
    assert SMALL.keys() == PUBLISHED.keys() == MEDIA.keys()


@pytest.mark.parametrize(("said", "meant"), [
    ("zimage", "z_image"), ("z-image", "z_image"), ("Z_Image", "z_image"), ("Flux2-klein", "flux2_klein"),
    ("qwenimage21", "qwen_image21"), ("simple-diffusion", "simple_diffusion"), ("sd3", "sd3"),
])
def test_names_are_understood_however_they_are_spelled(said, meant):
    assert resolve(said) == meant
    assert published(said) is PUBLISHED[meant]
    assert with_preset(shapes(), said) == with_preset(shapes(), meant)


@pytest.mark.parametrize(("name", "billions"), [
    ("flux2", 32.2), ("flux2_klein", 3.88), ("qwen_image", 20.4), ("z_image", 6.15), ("sd1", 0.8595), ("sdxl", 2.567),
])
def test_parameters_at_published_size(name, billions):
    """Those of the model cards and, for the U-Nets, of diffusers' classes."""
    assert published_count(name).parameters / 1e9 == pytest.approx(billions, rel=3e-3)


@pytest.mark.parametrize("make", [digits, image])
def test_small_presets_fit_other_recipes(make):
    for name in SMALL:
        recipe = with_preset(make(), name)
        assert recipe.data.height % recipe.net.multiple == 0
        with torch.device("meta"):
            recipe.net.build(recipe.data.channels, recipe.text.width, recipe.text.pooled_width)


@pytest.mark.parametrize("name", SMALL)
def test_small_presets_fit_a_recipe_and_learn_from_every_word(name):
    recipe = with_preset(shapes(), name)
    recipe = from_dict(Recipe, to_dict(recipe))
    net = recipe.net.build(3, 96, 96)
    assert 0.7e6 < sum(p.numel() for p in net.parameters()) < 1.65e6
    assert not isinstance(net.spec, UNet) or net.spec.pooled != "none" or net.spec.attention == "spatial"
    torch.manual_seed(0)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    x, t, text = torch.randn(2, 1, 3, 32, 32), torch.rand(2, 1), torch.randn(2, 5, 96)
    pooled = text.mean(1)
    said = net(x, t, Condition(text=text, pooled=pooled))
    assert said.shape == x.shape
    other = net(x, t, Condition(text=text + 1, pooled=pooled + 1))
    assert float((said - other).detach().abs().max()) > 1e-3
    assert float((said - net(x, 1 - t, Condition(text=text, pooled=pooled))).detach().abs().max()) > 1e-3


def test_a_recipe_with_a_trunk_is_read_again():
    recipe = with_preset(shapes(), "sd3")
    assert read_recipe(recipe_dict(recipe), "here") == recipe


def test_the_command_line_lists_shows_and_compares(capsys):
    assert main(["presets"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in PUBLISHED)
    assert main(["presets", "flux1"]) == 0
    shown = capsys.readouterr().out
    assert "double" in shown
    assert "19" in shown
    assert "11.9 billion parameters" in shown
    assert "512 words of 4096 features takes 74.4 trillion FLOPs" in shown
    assert main(["presets", "flux1", "--diff", "sd3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["parallel", "True", "False"] for line in lines)
    assert not any(line.startswith("kind") for line in lines)
    assert main(["presets", "edm2", "--diff", "sd1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["magnitude", "True", "False"] for line in lines)
    assert main(["presets", "uvit", "--patch", "4"]) == 0
    assert "uvit cannot be counted" in capsys.readouterr().out
    assert main(["presets", "flux1", "--double", "4"]) == 0
    assert "(was 19)" in capsys.readouterr().out


@pytest.mark.parametrize(("args", "sentence"), [
    (["sdd3"], 'Did you mean "sd3"?'),
    (["sd3", "--diff", "flux9"], "There is no preset"),
    (["sd3", "--diff"], "--diff needs a value"),
    (["sd3", "--wdith", "64"], "--width"),
    (["sd3", "--width", "100"], "not a multiple"),
    (["--diff", "sd3"], "Name a preset first"),
])
def test_mistakes_on_the_command_line(args, sentence, capsys):
    assert main(["presets", *args]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.long
def test_a_preset_is_trained_from_the_command_line(tmp_path, capsys):
    args = ["train", "shapes", "--preset", "flux1", "--out", str(tmp_path / "run"), "--train.steps", "2",
            "--train.batch", "4", "--evaluate.samples", "8", "--net.single", "1", "--train.threads", "1"]
    assert main(args) == 0
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert main(["train", "shapes", "--preset", "flux9"]) == 2
    assert 'There is no preset "flux9"' in capsys.readouterr().err


def test_no_positions_leave_places_alike():
    """Without positions a network of patches does not know one place from another: places permuted, output too."""
    net = Trunk(single=2, positions=NoPositions(), patch=1).build(3, None)
    torch.manual_seed(0)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    x, t = torch.randn(1, 1, 3, 4, 4), torch.rand(1, 1)
    order = torch.randperm(16)
    shuffled = x.flatten(3)[..., order].view(x.shape)
    said = net(x, t, Condition()).flatten(3)[..., order].view(x.shape)
    torch.testing.assert_close(net(shuffled, t, Condition()), said)
