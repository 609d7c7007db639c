"""Pipelines that diffusers builds and saves here, opened by ``fn.load``: the same pictures from noise and prompts."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_pipelines import CASES, NAMES, dit, net, stable_diffusion

import fromnoise as fn
from fromnoise.cli import main
from fromnoise.output import read_picture
from fromnoise.types import UserError

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

PROMPTS, NEGATIVE = ["a red circle", "two blue squares at night"], "bad"
ROWS, COLUMNS = 8, 12  # of latents


def pack(x, p):
    b, c, h, w = x.shape
    return x.view(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5).reshape(b, (h // p) * (w // p), c * p * p)


def pictures(pipeline, noise, guidance, options, prompts=PROMPTS):
    """What diffusers makes: ``[B, 3, H, W]`` in [0, 1]."""
    if options.get("alone"):  # guided, it takes one prompt at a time
        options = {name: value for name, value in options.items() if name != "alone"}
        return torch.cat([pictures(pipeline, *one, guidance, options, [prompt])
                          for *one, prompt in zip(noise.split(1), prompts, strict=True)])
    pipeline.set_progress_bar_config(disable=True)
    factor = getattr(pipeline, "vae_scale_factor", 2)
    options = dict(options)
    latents = noise
    if packed := options.pop("packed", None):
        latents = pack(noise, packed)
    call = {"height": ROWS * factor, "width": COLUMNS * factor, "num_inference_steps": 5, "latents": latents,
            "output_type": "pt", "guidance_scale": guidance} | options
    if guidance != 1 and "Flux" not in type(pipeline).__name__:  # Flux is guided away from the empty text
        call["negative_prompt"] = [NEGATIVE] * len(prompts)
    with torch.no_grad():
        return pipeline(prompt=list(prompts), **call).images.float()  # a copy: one of them changes its list


@pytest.mark.parametrize("name", CASES)
def test_pictures_are_those_of_diffusers(name, tmp_path):
    make, guidance = CASES[name]
    pipeline, options = make()
    pipeline.save_pretrained(tmp_path)
    pipeline, model = diffusers.DiffusionPipeline.from_pretrained(tmp_path), fn.load(tmp_path, "cpu")
    factor = model.system.latents.factor
    rows, columns = (n // 2 if "flux 2" in name else n for n in (ROWS, COLUMNS))  # two neighbours in a latent
    channels = model.system.latents.channels
    noise = torch.randn(2, channels, rows, columns, generator=torch.Generator().manual_seed(0))
    size = (rows * factor, columns * factor)
    want = pictures(pipeline, noise, guidance, dict(zip(("height", "width"), size, strict=True)) | options)
    negative = NEGATIVE if guidance != 1 and not name.startswith("flux") else ""
    got = model.sample(PROMPTS, steps=5, guidance=guidance, negative=negative, noise=noise[:, None],
                       size=size)
    mine = got.media[:, 0] / 2 + 0.5
    assert mine.shape == want.shape
    assert float(want.std()) > 0.02
    assert float((mine - want).abs().max()) < 1e-4


def test_classes_of_dit(tmp_path):
    dit().save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())  # published folders hold the names as well
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"id2label": NAMES}))
    pipeline, model = diffusers.DiTPipeline.from_pretrained(tmp_path), fn.load(tmp_path, "cpu")
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    want = torch.from_numpy(pipeline([7, 431], 3.0, torch.Generator().manual_seed(0), 5, "np").images).movedim(-1, 1)
    got = model.sample(["item 7", "431"], steps=5, guidance=3.0, noise=noise[:, None], size=(16, 16))
    assert float((got.media[:, 0] / 2 + 0.5 - want).abs().max()) < 1e-4
    with pytest.raises(UserError, match="is not a class"):
        model.sample(["a red circle"])


def test_pixels_without_text(tmp_path):
    unet = net(diffusers.UNet2DModel, sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 8),
               layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
               down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))
    pipeline = diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path)
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    # Where x0 is clipped, our noise follows it; theirs does when told so.
    want = torch.from_numpy(pipeline(2, torch.Generator().manual_seed(0), num_inference_steps=6, output_type="np",
                                     use_clipped_model_output=True).images)
    model = fn.load(tmp_path, "cpu")
    got = model.sample(["", ""], steps=6, noise=noise[:, None])
    assert float((got.media[:, 0] / 2 + 0.5 - want.movedim(-1, 1)).abs().max()) < 1e-4
    with pytest.raises(UserError, match="leave the prompt empty"):
        model.sample("a cat")


def test_a_published_model_is_a_model(tmp_path, capsys):
    """Other solvers, another guidance and the command line work as on our own."""
    pipeline, _ = stable_diffusion()
    pipeline.save_pretrained(tmp_path / "sd", safe_serialization=True)
    model = fn.load(tmp_path / "sd", "cpu")
    usual = model.sample("a red circle", steps=4)
    assert usual.settings.guidance.scale == 7.5
    for solver in ("auto", "dpmpp_2m", "unipc_2", "heun"):
        other = model.sample("a red circle", steps=4, solver=solver)
        assert other.media.isfinite().all()
        assert not torch.equal(other.media, usual.media)
    out = tmp_path / "picture.png"
    assert main(["sample", str(tmp_path / "sd"), "a red circle", "--out", str(out), "--steps", "4"]) == 0
    assert read_picture(out)["settings"].guidance == usual.settings.guidance
    again = tmp_path / "again.png"
    capsys.readouterr()
    assert main(["sample", "--like", str(out), "--out", str(again)]) == 0
    assert capsys.readouterr().err == ""
    assert again.read_bytes() == out.read_bytes()
    capsys.readouterr()
    assert main(["tune", str(tmp_path / "sd"), "--nfe", "4"]) == 2
    assert "are not here" in capsys.readouterr().err


def test_half_precision_runs(tmp_path):
    stable_diffusion()[0].to(torch.bfloat16).save_pretrained(tmp_path)
    from fromnoise.interop.pipelines import load_pipeline

    half, whole = load_pipeline(tmp_path, "cpu", dtype=torch.bfloat16), load_pipeline(tmp_path, "cpu")
    assert next(half.system.denoiser.net.parameters()).dtype == torch.bfloat16
    assert next(whole.system.denoiser.net.parameters()).dtype == torch.float32
    a, b = (model.sample("a red circle", steps=3, guidance=1).media for model in (half, whole))
    assert float((a - b).abs().mean()) < 0.05


def damaged(folder, part, change):
    path = folder / part / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    change(state)
    save_file(dict(state), path)


@pytest.mark.parametrize(("harm", "words"), [
    (lambda d: damaged(d, "unet", lambda s: s.pop("conv_in.weight")), "conv_in"),
    (lambda d: damaged(d, "unet", lambda s: s.update({"more.weight": torch.zeros(1)})), "more"),
    (lambda d: damaged(d, "unet", lambda s: s.update({"conv_in.weight": torch.zeros(8, 4, 1, 1)})), "conv_in"),
    (lambda d: shutil.rmtree(d / "unet"), "unet"),
    (lambda d: (d / "model_index.json").write_text("{"), "not valid JSON"),
    (lambda d: (d / "model_index.json").write_text('{"_class_name": "StableVideoPipeline"}'), "not known here"),
    (lambda d: (d / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"junk"), "damaged"),
])
def test_what_is_wrong_with_a_folder_is_said(harm, words, tmp_path):
    stable_diffusion()[0].save_pretrained(tmp_path)
    harm(tmp_path)
    with pytest.raises(UserError, match=words) as error:
        fn.load(tmp_path, "cpu")
    assert "\n" not in str(error.value)


def test_a_lora_is_added_and_taken_away(tmp_path):
    CASES["sd3"][0]()[0].save_pretrained(tmp_path / "sd3")
    model = fn.load(tmp_path / "sd3", "cpu")
    name, draw = "transformer.transformer_blocks.0.attn.to_q", torch.Generator().manual_seed(0)
    save_file({f"{name}.lora_A.weight": torch.randn(3, 32, generator=draw),
               f"{name}.lora_B.weight": torch.randn(32, 3, generator=draw)}, tmp_path / "some.safetensors")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "sd3")
    theirs = load_file(tmp_path / "some.safetensors")
    weight = pipeline.transformer.get_submodule(name.removeprefix("transformer.")).weight
    noise = torch.randn(2, 4, ROWS, COLUMNS, generator=torch.Generator().manual_seed(0))

    def picture():
        return model.sample(PROMPTS, steps=5, guidance=3.0, negative=NEGATIVE, noise=noise[:, None],
                            size=(ROWS * 2, COLUMNS * 2)).media[:, 0] / 2 + 0.5

    before = picture()
    added = model.add_lora(tmp_path / "some.safetensors", 0.7)
    with torch.no_grad():
        weight.add_(0.7 * theirs[f"{name}.lora_B.weight"] @ theirs[f"{name}.lora_A.weight"])
    want = pictures(pipeline, noise, 3.0, {"height": ROWS * 2, "width": COLUMNS * 2})
    with_it = picture()
    assert float((with_it - want).abs().max()) < 1e-4
    assert float((with_it - before).abs().max()) > 1e-3
    added.remove()
    assert float((picture() - before).abs().max()) < 1e-5


@pytest.mark.parametrize(("where", "words"), [
    ("{0}/pipline", 'There is no folder {0}/pipline. Did you mean "{0}/pipeline"?'),
    ("{0}/elsewhere/pipeline", "There is no folder {0}/elsewhere/pipeline."),
    ("{0}/one.safetensors", "{0}/one.safetensors is a file: name the folder of a run, or a folder in the layout of "
                            "diffusers (diffusers' from_single_file and save_pretrained make one"),
    ("{0}/pipeline/unet", "only config.json, so it is one part of a pipeline"),
    ("{0}/single", "only one.safetensors: diffusers' from_single_file"),
    ("{0}/pipeline", "{0}/pipeline/unet has no weights"),
    ("owner/name", "There is no folder owner/name; as a hub id it is not cached here")])
def test_what_is_no_model_is_said(where, words, tmp_path, capsys, monkeypatch):
    from huggingface_hub import constants

    stable_diffusion()[0].save_pretrained(tmp_path / "pipeline")
    (tmp_path / "pipeline/unet/diffusion_pytorch_model.safetensors").unlink()
    (tmp_path / "single").mkdir()
    for folder in (tmp_path, tmp_path / "single"):
        save_file({"weight": torch.zeros(1)}, folder / "one.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    capsys.readouterr()
    assert main(["sample", where.format(tmp_path), "a red circle"]) == 2
    error = capsys.readouterr().err
    assert words.format(tmp_path) in error
    assert len(error.splitlines()) == 1
