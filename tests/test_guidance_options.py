"""Guidance on the command line and in recipes: an option does what its field does, or says that it does nothing."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image, PngImagePlugin
from test_cli import refused
from test_train import tiny

from fromnoise import load
from fromnoise.cli import main
from fromnoise.cli.train import resolve
from fromnoise.config import from_dict
from fromnoise.denoise import APG, CFGZero, Guidance, autoguidance
from fromnoise.nets import UNet
from fromnoise.output import read_picture
from fromnoise.process import Trigonometric
from fromnoise.recipe import Sampling, load_recipe, read_recipe, recipe_dict, without_effect
from fromnoise.recipes import digits
from fromnoise.text import composed, parts
from fromnoise.train import train
from fromnoise.types import UserError
from fromnoise.weights import load_weights, save_weights

USUAL = digits().sample.guidance
COMMON = ["--n", "1", "--steps", "3"]


def trained(folder, recipe, noise):
    """A run whose weights have left zero, so that conditions make a difference."""
    train(recipe, folder)
    tensors, tokenizer, step, words = load_weights(folder)
    save_weights(folder, {k: v + noise * torch.randn(v.shape, generator=torch.Generator().manual_seed(v.numel()))
                          for k, v in tensors.items()}, tokenizer, step, words)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "digits", tiny(steps=4), 0.05)


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    recipe = replace(tiny(steps=2), net=UNet(width=8, multipliers=(1, 1)))
    return trained(tmp_path_factory.mktemp("runs") / "guide", recipe, 0.08)


@pytest.fixture
def sampled(run, tmp_path):
    """What the command writes: the pixels, and the settings inside the picture."""
    def sample(*options, prompts=("seven", "two"), folder=run):
        out = tmp_path / "a.png"
        assert main(["sample", str(folder), *prompts, *COMMON, "--out", str(out), *options]) == 0
        return out.read_bytes(), read_picture(out)["settings"]

    return sample


@pytest.mark.parametrize(("options", "guidance"), [
    ("--guidance 3", Guidance(scale=3.0)),
    ("--guidance=3", Guidance(scale=3.0)),
    ("--sample.guidance 3", Guidance(scale=3.0)),
    ("--sample.guidance.scale 3", Guidance(scale=3.0)),
    ("--guidance 9 --guidance.interval 0.2 0.8", Guidance(scale=9.0, interval=(0.2, 0.8))),
    ("--guidance.clean 4", replace(USUAL, clean=4.0)),
    ("--guidance.clean 4 --guidance.shape cosine", replace(USUAL, clean=4.0, shape="cosine")),
    ("--guidance 9 --guidance.rescale 0.7", Guidance(scale=9.0, rescale=0.7)),
    ("--guidance 9 --guidance.threshold static", Guidance(scale=9.0, threshold="static")),
    ("--guidance 9 --guidance.threshold dynamic --guidance.percentile 0.8",
     Guidance(scale=9.0, threshold="dynamic", percentile=0.8)),
    ("--guidance 9 --guidance.method apg", Guidance(scale=9.0, method=APG())),
    ("--sample.guidance.method.kind apg --guidance.method.eta 0.5 --guidance.method.norm 1 "
     "--guidance.method.momentum -0.5 --guidance 9", Guidance(scale=9.0, method=APG(eta=0.5, norm=1, momentum=-0.5))),
    ("--guidance.method cfg_zero --guidance.method.zero-above 0.5",
     replace(USUAL, method=CFGZero(zero_above=0.5))),
])
def test_an_option_is_the_field_of_its_name(options, guidance, sampled, run, tmp_path):
    pixels, settings = sampled(*options.split())
    assert settings.guidance == guidance
    want = load(run).sample(["seven", "two"], steps=3, guidance=guidance).save(tmp_path / "b.png")
    assert pixels == want.read_bytes()
    plain = load(run).sample(["seven", "two"], steps=3).media
    assert float((load(run).sample(["seven", "two"], steps=3, guidance=guidance).media - plain).abs().max()) > 1e-3


def test_batches_of_guidance_change_nothing_but_memory(sampled, run):
    _, settings = sampled("--guidance", "3", "--guidance.max-batch", "1")
    assert settings.guidance.max_batch == 1
    a, b = (load(run).sample(["seven", "two"], steps=3, guidance=g).media for g in (settings.guidance, 3.0))
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("before", [[], ["--compose"], ["--negative"]])
def test_options_change_the_guidance_of_the_recipe_wherever_the_run_is_named(before, run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "own")
    recipe = load_recipe(folder / "recipe.json")
    own = Guidance(scale=3.0, method=APG(norm=2.0), interval=(0.0, 0.9))
    replace(recipe, sample=replace(recipe.sample, guidance=own)).save(folder / "recipe.json")
    out, words = tmp_path / "a.png", [*before, *([str(run)] if before == ["--negative"] else [])]
    argv = ["sample", *words, str(folder), "seven AND 2", *COMMON, "--out", str(out)]
    assert main([*argv, "--guidance.rescale", "0.5"]) == 0
    assert read_picture(out)["settings"].guidance == replace(own, rescale=0.5)
    if before != ["--negative"]:  # there the other run is first taken for the one that is meant
        assert main([*argv, "--guidance.method.eta", "0.5"]) == 0
        assert read_picture(out)["settings"].guidance == replace(own, method=APG(norm=2.0, eta=0.5))
    assert load(folder).sample(["seven"], steps=1, guidance=4.0).settings.guidance == replace(own, scale=4.0)


def test_a_replay_keeps_its_guidance_but_for_what_is_said(sampled, tmp_path, run):
    sampled("--guidance", "3", "--guidance.method", "apg", "--compose", prompts=("seven AND two",))
    other = tmp_path / "b.png"
    assert main(["sample", "--like", str(tmp_path / "a.png"), "--out", str(other)]) == 0
    assert other.read_bytes() == (tmp_path / "a.png").read_bytes()
    assert main(["sample", "--like", str(tmp_path / "a.png"), "--out", str(other), "--guidance.method.eta", "0.3",
                 "--no-compose"]) == 0
    settings = read_picture(other)["settings"]
    assert (settings.guidance, settings.compose) == (Guidance(scale=3.0, method=APG(eta=0.3)), False)


# ---- another run as guide -------------------------------------------------------------------------------


def test_a_guide_is_autoguidance(sampled, run, guide):
    _, settings = sampled("--guidance", "2", "--guidance.guide", str(guide))
    model, weak = load(run), load(guide)
    found = model.sample(settings.prompts, steps=1, solver="euler", guidance=settings.guidance).media
    x, t = model.starting_noise(settings.prompts), torch.ones(())
    with torch.no_grad():
        other = weak.encode(settings.prompts)
        slow = autoguidance(model.system.denoiser, lambda x, t, _: weak.system.denoiser(x, t, other), 2.0)
        want = slow(x, t, model.encode(settings.prompts))
    torch.testing.assert_close(found, want.clamp(-1, 1), atol=1e-5, rtol=1e-4)


def test_a_guide_that_does_not_fit_is_refused(run, guide, tmp_path, capsys):
    other = shutil.copytree(guide, tmp_path / "other")
    replace(load_recipe(other / "recipe.json"), path=Trigonometric()).save(other / "recipe.json")
    assert "cannot guide this run: the path" in refused(
        capsys, "sample", str(run), "seven", *COMMON, "--guidance.guide", str(other))
    assert "is not a run folder" in refused(capsys, "sample", str(run), "7", *COMMON, "--guidance.guide", "nowhere")
    assert "leave the guide out" in refused(capsys, "sample", str(run), "7 AND 2", *COMMON, "--compose",
                                            "--guidance.guide", str(guide))
    with pytest.raises(ValueError, match="denoiser is to be given"):
        Guidance(guide=str(guide)).of(load(run).system.denoiser, load(run).encode([""]), load(run).recipe.path)
    with pytest.raises(UserError, match="momentum or by another run"):
        tuned_with(run, APG(momentum=-0.5))


def tuned_with(run, method):
    model = load(run)
    model.recipe = replace(model.recipe, sample=Sampling(guidance=Guidance(method=method)))
    return model.tune(2, samples=8, steps=0)


# ---- prompts that are joined ----------------------------------------------------------------------------


def test_parts_of_a_prompt():
    assert parts("a sandy land") == (["a sandy land"], [])
    assert parts("a AND b NOT c AND NOT d AND e") == (["a", "b", "e"], ["c", "d"])
    assert parts("NOT c") == ([""], ["c"])
    assert composed(["a AND b", "c NOT d", "e"], "x") == (
        ["a", "c", "e"], [(["b", "x", "x"], 1.0), (["x", "d", "x"], -1.0)])


def test_composed_prompts_are_the_sum_of_their_differences(sampled, run):
    prompts = ["seven AND two", "three NOT four", "five"]
    _, settings = sampled("--compose", "--guidance", "2", "--negative", "one", prompts=prompts)
    assert (settings.prompts, settings.compose) == (prompts, True)
    model = load(run)

    def one(prompts, guidance=1.0, **told):
        noise = model.starting_noise(["x"] * 3, seed=4)
        return model.sample(prompts, steps=1, solver="euler", noise=noise, guidance=guidance, **told).media

    u = one(["one"] * 3)
    a, b, c = one(["seven", "three", "five"]), one(["two", "four", "one"]), torch.tensor([1.0, -1.0, 0.0])
    want = u + 2 * (a - u + c.view(3, 1, 1, 1, 1) * (b - u))
    within = (torch.stack([u, a, b, want]).abs() < 1).all(0)
    assert float(within.float().mean()) > 0.3
    found = one(prompts, 2.0, negative="one", compose=True)
    torch.testing.assert_close(found[within], want[within], atol=1e-5, rtol=1e-4)
    assert not torch.equal(found, one(prompts, 2.0, negative="one"))


# ---- what is said in vain -------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "field", "why"), [
    ("--guidance 1 --guidance.rescale 0.5", "guidance.rescale", "guidance is 1 at all times"),
    ("--guidance 1 --guidance.interval 0.1 0.9", "guidance.interval", "guidance is 1"),
    ("--guidance 1 --guidance.method apg --guidance.method.eta 2", "guidance.method.eta", "guidance is 1"),
    ("--guidance 1 --negative two", "negative", "guidance is 1"),
    ("--guidance 1 --guidance.max-batch 1", "guidance.max-batch", "guidance is 1"),
    ("--guidance.shape cosine", "guidance.shape", "clean is not given"),
    ("--guidance.percentile 0.9", "guidance.percentile", "the threshold is none"),
    ("--guidance.guide {guide} --negative two", "negative", "the guide stands in its place"),
    ("--guidance.guide {guide} --guidance.max-batch 1", "guidance.max-batch", "a guide is a call of its own"),
    ("--compose", "compose", "no prompt has AND or NOT"),
])
def test_an_option_in_vain_is_said_and_changes_nothing(options, field, why, sampled, capsys, run, guide):
    _, settings = sampled(*options.format(guide=guide).split())
    said = [line for line in capsys.readouterr().err.splitlines() if "no effect" in line]
    assert [line for line in said if line.startswith(f"--{field} has no effect here: ") and why in line], said
    usual = {"rescale": 0.0, "interval": (0.0, 1.0), "max_batch": None, "shape": "linear", "percentile": 0.995}
    name = field.removeprefix("guidance.").replace("-", "_")
    bare = replace(settings.guidance, **{name: usual[name]}) if name in usual else (
        replace(settings.guidance, method=APG()) if name == "method.eta" else settings.guidance)
    found, want = (load(run).sample(settings.prompts, steps=3, guidance=g, **told).media for g, told in (
        (settings.guidance, {"negative": settings.negative, "compose": settings.compose}), (bare, {})))
    torch.testing.assert_close(found, want, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [
    "--guidance 2 --guidance.rescale 0.5 --negative two", "--guidance.method cfg_zero --guidance 1",
    "--guidance.threshold static --guidance 1", "--guidance 1 --compose --negative two",
    "--guidance.clean 2 --guidance.shape cosine --guidance 1",
])
def test_an_option_with_effect_is_not_said_to_have_none(options, sampled, capsys):
    sampled(*options.split(), prompts=("seven AND two",))
    assert "no effect" not in capsys.readouterr().err


@pytest.mark.parametrize(("options", "words"), [
    ("--guidance.method.eta 2", "--guidance.method.eta goes with --guidance.method apg, and this is cfg"),
    ("--guidance.method apq", 'Did you mean "apg"?'), ("--guidance -1", "--guidance.scale should be greater"),
    ("--guidance.interval 0.8 0.2", "--guidance.interval should be two times in [0, 1], the smaller first"),
    ("--guidance.threshold hard", '--guidance.threshold cannot be "hard"'),
    ("--guidance.clean x", "--guidance.clean should be a valid number"),
    ("--guidance.rescael 1", "Did you mean --guidance.rescale?"), ("--sample.guidence 1", "Did you mean --guidance?"),
])
def test_mistakes_in_guidance_are_one_sentence(options, words, run, capsys):
    assert words in refused(capsys, "sample", str(run), "seven", *COMMON, *options.split())


# ---- recipes --------------------------------------------------------------------------------------------


def test_training_takes_the_same_fields():
    recipe, _, _ = resolve(["digits", "--sample.guidance", "3", "--sample.guidance.method", "apg",
                            "--sample.guidance.interval", "0.2", "0.8"])
    assert recipe.sample.guidance == Guidance(scale=3.0, method=APG(), interval=(0.2, 0.8))
    assert without_effect(recipe)["sample.guidance.percentile"] == "the threshold is none"
    assert "sample.guidance.interval" not in without_effect(recipe)


def test_recipes_of_the_first_format_have_a_number():
    old = json.loads(json.dumps({**recipe_dict(digits()), "format": 1}))
    old["sample"]["guidance"] = 3.5
    del old["sample"]["grid"]
    recipe = read_recipe(old, "old")
    assert recipe == replace(digits(), sample=replace(digits().sample, guidance=Guidance(scale=3.5)))
    again = recipe_dict(recipe)
    assert (again["format"], again["sample"]["guidance"]["scale"]) == (3, 3.5)
    assert read_recipe(again, "new") == recipe
    with pytest.raises(UserError, match=r"sample.guidance.scale: Input should be a valid number.*got 'much'"):
        read_recipe({**old, "sample": {"guidance": "much"}}, "old")
    assert from_dict(Sampling, {"guidance": {"clean": 3}}).guidance == Guidance(clean=3.0)


def test_pictures_of_older_versions_have_a_number(run, tmp_path):
    out = load(run).sample(["seven"], steps=1).save(tmp_path / "a.png")
    with Image.open(out) as image:
        said = json.loads(image.text["fromnoise"])
    assert said["settings"]["guidance"]["scale"] == USUAL.scale
    said["settings"]["guidance"] = 3
    del said["settings"]["compose"]
    header = PngImagePlugin.PngInfo()
    header.add_itxt("fromnoise", json.dumps(said))
    Image.new("L", (8, 8)).save(out, pnginfo=header)
    assert read_picture(out)["settings"].guidance == Guidance(scale=3.0)


def test_guidance_in_words():
    assert Guidance(scale=3.0).words() == "3"
    assert Guidance(scale=3.0, interval=(0.2, 0.8), method=APG()).words() == (
        "3, interval 0.2 0.8, method.kind apg, method.eta 0, method.norm None, method.momentum 0")
