"""What we write is opened by diffusers: whole pipelines, and the networks and schedules of our own runs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from test_latent_diffusion import autoencoder_run
from tiny_pipelines import CASES, NAMES, dit

import fromnoise as fn
from fromnoise.cli import main
from fromnoise.interop.configs import WRITERS, config_of
from fromnoise.interop.export import export, told_of_text
from fromnoise.interop.transformers import FAMILIES
from fromnoise.latents import FSQ, KL
from fromnoise.nets.trunk import presets
from fromnoise.opening import open_autoencoder, with_autoencoder
from fromnoise.process import DDPM, VP, Flow, ScaledLinear
from fromnoise.recipe import Coder, Schedule, Training
from fromnoise.recipes import shapes
from fromnoise.recipes.presets import with_preset
from fromnoise.sample import solve
from fromnoise.text import Frozen
from fromnoise.train import train
from fromnoise.types import Condition, UserError

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")


@pytest.mark.parametrize("name", CASES)
def test_a_pipeline_comes_back_as_it_was_opened(name, tmp_path):
    CASES[name][0]()[0].save_pretrained(tmp_path / "theirs")
    assert main(["export", str(tmp_path / "theirs"), "--out", str(tmp_path / "ours")]) == 0
    before, after = (diffusers.DiffusionPipeline.from_pretrained(tmp_path / d) for d in ("theirs", "ours"))
    assert type(before) is type(after)
    assert before.components.keys() == after.components.keys()
    for part, module in before.components.items():
        if isinstance(module, torch.nn.Module):
            mine = after.components[part].state_dict()
            assert mine.keys() == module.state_dict().keys(), part
            for key, value in module.state_dict().items():
                idle = (name.startswith("sd3") and "add_q_proj" in key) or "norm_added_q" in key
                if not (idle and mine[key].abs().max() == 0):
                    torch.testing.assert_close(mine[key], value, rtol=0, atol=1e-6, msg=f"{part} {key}")
    assert before.scheduler.config == after.scheduler.config


def test_what_was_changed_is_written(tmp_path):
    CASES["sd3"][0]()[0].save_pretrained(tmp_path / "theirs")
    model = fn.load(tmp_path / "theirs", "cpu")
    with torch.no_grad():
        for p in model.system.denoiser.net.parameters():
            p.add_(0.01)
    export(model, tmp_path / "ours")
    again = fn.load(tmp_path / "ours", "cpu")
    noise = torch.randn(1, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    a, b = (m.sample("a red circle", steps=3, noise=noise, size=(16, 16)).media for m in (model, again))
    torch.testing.assert_close(a, b)


def test_classes_are_written(tmp_path):
    dit().save_pretrained(tmp_path / "theirs")
    index = tmp_path / "theirs" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"id2label": NAMES}))
    assert main(["export", str(tmp_path / "theirs"), "--out", str(tmp_path / "ours")]) == 0
    before, after = (diffusers.DiTPipeline.from_pretrained(tmp_path / d) for d in ("theirs", "ours"))
    assert after.labels == before.labels
    for key, value in before.transformer.state_dict().items():
        torch.testing.assert_close(after.transformer.state_dict()[key], value)


PUBLISHED = {"sd3": "SD3Transformer2DModel", "flux1": "FluxTransformer2DModel", "flux2": "Flux2Transformer2DModel",
             "pixart": "PixArtTransformer2DModel", "qwen_image": "QwenImageTransformer2DModel",
             "z_image": "ZImageTransformer2DModel"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_trunk_has_its_published_config(name):
    spec = presets.PRESETS[name]()
    kind, config = config_of(spec, 16, 64, 48, 64)
    assert kind == PUBLISHED[name]
    assert FAMILIES[kind].spec(config) == spec


def test_what_has_no_counterpart_is_said():
    with pytest.raises(UserError, match="cannot be exported"):
        config_of(presets.PRESETS["uvit"](), 4, 64, None, 32)
    assert set(WRITERS) <= set(FAMILIES)


@pytest.mark.parametrize(("preset", "path"), [("pixart", VP()), ("pixart", DDPM()), ("sd1", ScaledLinear()),
                                              ("sd3", Flow())])
def test_pictures_of_a_run_are_those_of_its_export(preset, path, tmp_path):
    """The network and the schedule together: what is told of the noise level is right at every level."""
    recipe = with_preset(shapes(), preset)
    time = replace(recipe.net.time, scale=1000.0, **({"max_period": 1e4} if preset == "sd1" else {}))
    net = replace(recipe.net, time=time) if preset == "sd1" else replace(recipe.net, time=time, patch=2)
    train(replace(recipe, net=net, path=path, train=Training(steps=1, batch=2, threads=1, preview_every=0)),
          tmp_path / "run")
    model = fn.load(tmp_path / "run", "cpu")
    with torch.no_grad():
        for p in model.system.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    export(model, tmp_path / "out")
    kind = json.loads((tmp_path / "out" / "scheduler" / "scheduler_config.json").read_text())["_class_name"]
    scheduler = getattr(diffusers, kind).from_pretrained(tmp_path / "out", subfolder="scheduler")
    cls, part = {"pixart": ("PixArtTransformer2DModel", "transformer"), "sd1": ("UNet2DConditionModel", "unet"),
                 "sd3": ("SD3Transformer2DModel", "transformer")}[preset]
    peer = getattr(diffusers, cls).from_pretrained(tmp_path / "out", subfolder=part)
    told = model.encode(["a red circle", "a blue square"])
    extra = {"pooled_projections": told.pooled} if preset == "sd3" else {}
    if preset == "pixart":
        extra = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
    noise = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    start = noise / path.sigma(torch.ones(1))  # ours begins with sigma times noise
    scheduler.set_timesteps(10)
    x = noise
    with torch.no_grad():
        for step in scheduler.timesteps:
            said = peer(x, encoder_hidden_states=told.text, timestep=step.expand(2), **extra).sample
            x = scheduler.step(said, step, x).prev_sample
        grid = torch.cat([scheduler.timesteps.double() / 1000 + (kind == "DDIMScheduler") / 1000, torch.zeros(1)])
        mine = solve(lambda y, t: model.system.denoiser(y, t, told), start[:, None], path=path, grid=grid,
                     solver="euler" if kind.startswith("Flow") else "ddim")
    assert float(x.std()) > 0.1
    assert float((mine[:, 0] - x).abs().max()) < 1e-4


def latent_run(spec, folder):
    """A run of SD3's trunk in the latents of an autoencoder with random weights, factor 4."""
    autoencoder_run(folder / "ae", spec, statistics={"mean": [0.5, -0.5], "std": [2.0, 4.0]})
    recipe = with_autoencoder(with_preset(shapes(), "sd3"), folder / "ae")
    net = replace(recipe.net, time=replace(recipe.net.time, scale=1000.0), patch=2)
    train(replace(recipe, net=net, encoding=replace(recipe.encoding, examples=4),
                  train=Training(steps=1, batch=2, threads=1, preview_every=0)),
          folder / "run", autoencoder=lambda: open_autoencoder(folder / "ae")[1])
    return fn.load(folder / "run", "cpu")


def same_autoencoder(latents, peer):
    """Both give the same normalised latents, and the same pictures of them."""
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = (torch.tensor(peer.config[f"latents_{name}"])[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        its = (peer.encode(pictures).latent_dist.mean - mean) / std
        torch.testing.assert_close(latents.encode(pictures[:, None])[:, 0], its, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(latents.decode(its[:, None])[:, 0], peer.decode(its * std + mean).sample,
                                   rtol=1e-4, atol=1e-4)


SMALL = {"channels": 2, "widths": (8, 8, 8), "depth": 1, "groups": 4, "attention": False}


def test_the_autoencoder_of_a_latent_run_is_exported_with_it(tmp_path):
    model = latent_run(KL(**SMALL), tmp_path)
    said = " ".join(export(model, tmp_path / "out"))
    assert "vae is for AutoencoderKL.from_pretrained" in said
    assert "trained along" in said
    same_autoencoder(model.system.latents, diffusers.AutoencoderKL.from_pretrained(tmp_path / "out", subfolder="vae"))
    assert "latents_mean" in (tmp_path / "out" / "README.md").read_text()


def test_an_autoencoder_without_a_peer_stays_with_the_run(tmp_path):
    model = latent_run(FSQ(levels=(8, 5), **{k: v for k, v in SMALL.items() if k != "channels"}), tmp_path)
    assert "no counterpart in diffusers. It stays with the run." in " ".join(export(model, tmp_path / "out"))
    assert not (tmp_path / "out" / "vae").exists()
    assert (tmp_path / "out" / "transformer").is_dir()


def test_a_run_that_trained_an_autoencoder_is_exported(tmp_path, capsys):
    recipe = Coder(name="ae", data=shapes().data, latents=KL(**SMALL),
                   train=Schedule(steps=1, batch=2, threads=1, preview_every=0))
    train(recipe, tmp_path / "run")
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    spec, tensors = open_autoencoder(tmp_path / "run")
    latents = spec.build(3)
    latents.load_state_dict(tensors)
    same_autoencoder(latents, diffusers.AutoencoderKL.from_pretrained(tmp_path / "out", subfolder="vae"))
    (tmp_path / "a.safetensors").touch()
    lora = ["--lora", str(tmp_path / "a.safetensors")]
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "new"), *lora]) == 2
    assert "kind autoencoder" in capsys.readouterr().err


def test_where_a_text_stays_is_said():
    assert "trained along" in told_of_text(shapes().text)
    said = told_of_text(Frozen(folder="encoders/clip", combine="mix"))
    assert "was not trained and is not copied: it is in encoders/clip" in said
    assert "mixed stay with the run" in said


@pytest.mark.long
@pytest.mark.parametrize("preset", ["sd3", "flux1"])
def test_a_run_of_a_preset_is_opened_by_diffusers(preset, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "out"
    assert main(["train", "shapes", "--preset", preset, "--out", str(run), "--train.steps", "3", "--train.batch", "4",
                 "--evaluate.samples", "4", "--train.threads", "1", "--net.patch", "2",
                 "--net.time.scale", "1000"]) == 0
    assert main(["export", str(run), "--out", str(out)]) == 0
    assert "stays with the run" in capsys.readouterr().out
    cls = getattr(diffusers, PUBLISHED[preset])
    peer = cls.from_pretrained(out, subfolder="transformer")
    assert diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(out, subfolder="scheduler").config.shift == 1.0
    net = fn.load(run, "cpu").system.denoiser.net
    for p, q in ((net, peer),):
        assert sum(v.numel() for v in p.parameters()) <= sum(v.numel() for v in q.parameters())
    x, text = torch.randn(2, 1, 3, 8, 12), torch.randn(2, 5, 96)
    t, pooled = torch.tensor([0.3, 0.8]), torch.randn(2, 96)
    with torch.no_grad():
        mine = net(x, t[:, None], Condition(text=text, pooled=pooled))[:, 0]
        if preset == "sd3":
            its = peer(x[:, 0], encoder_hidden_states=text, pooled_projections=pooled, timestep=t * 1000).sample
        else:
            from parity import ids, packed

            its = peer(packed(x[:, 0]), encoder_hidden_states=text, pooled_projections=pooled, timestep=t,
                       img_ids=ids(4, 6, 3), txt_ids=torch.zeros(5, 3)).sample
            mine = packed(mine)
    torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)
    assert main(["export", str(run), "--out", str(out)]) == 2
    assert "is not empty" in capsys.readouterr().err
