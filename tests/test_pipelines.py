"""Pipelines that diffusers builds and saves here, opened by ``fn.load``: the same pictures from noise and prompts."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_encoders import clip, gemma, qwen3, qwen_tokenizer, qwen_vl, randomised, t5

import fromnoise as fn
from fromnoise.cli import main
from fromnoise.types import UserError

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

PROMPTS, NEGATIVE = ["a red circle", "two blue squares at night"], "bad"
ROWS, COLUMNS = 8, 12  # of latents


def vae(channels, **more):
    shapes = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
              "block_out_channels": [8, 8], "norm_num_groups": 4, "latent_channels": channels}
    return randomised(diffusers.AutoencoderKL(**shapes | more), 8, 0.15)


def net(cls, size=0.1, **config):
    return randomised(cls(**config), 5, size)


def no_quant(**more):
    return vae(4, use_quant_conv=False, use_post_quant_conv=False, **more)


SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
UNET = {"sample_size": 8, "block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}


def stable_diffusion():
    unet = net(diffusers.UNet2DConditionModel, cross_attention_dim=16, attention_head_dim=2, **UNET)
    scheduler = diffusers.DDIMScheduler(**SD, clip_sample=False, set_alpha_to_one=False)
    return diffusers.StableDiffusionPipeline(vae(4), *clip(16, 1), unet, scheduler, None, None,
                                             requires_safety_checker=False), {}


def stable_diffusion_xl():
    unet = net(diffusers.UNet2DConditionModel, cross_attention_dim=26, attention_head_dim=(2, 2),
               addition_embed_type="text_time", addition_time_embed_dim=4, use_linear_projection=True,
               projection_class_embeddings_input_dim=18 + 24, **UNET)
    (a, tok), (b, tok2) = clip(10, 1), clip(16, 2, projected=True)
    scheduler = diffusers.EulerDiscreteScheduler(**SD, timestep_spacing="leading")
    return diffusers.StableDiffusionXLPipeline(vae(4), a, b, tok, tok2, unet, scheduler), {}


def stable_diffusion_3():
    (a, tok), (b, tok2), (c, tok3) = clip(10, 1, projected=True), clip(14, 2, projected=True), t5(32)
    transformer = net(diffusers.SD3Transformer2DModel, sample_size=12, patch_size=2, in_channels=4, num_layers=2,
                      attention_head_dim=8, num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=32,
                      pooled_projection_dim=28, out_channels=4, pos_embed_max_size=16, qk_norm="rms_norm")
    return diffusers.StableDiffusion3Pipeline(
        transformer, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), no_quant(shift_factor=0.06), a, tok, b, tok2,
        c, tok3), {}


def flux_1(guided=False):
    (a, tok), (b, tok2) = clip(16, 1), t5()
    transformer = net(diffusers.FluxTransformer2DModel, in_channels=16, num_layers=1, num_single_layers=1,
                      attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24, pooled_projection_dim=16,
                      axes_dims_rope=(4, 6, 6), guidance_embeds=guided)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return diffusers.FluxPipeline(scheduler, no_quant(scaling_factor=0.36, shift_factor=0.11), a, tok, b, tok2,
                                  transformer), {"packed": 2}


def pixart():
    transformer = net(diffusers.PixArtTransformer2DModel, num_attention_heads=2, attention_head_dim=12, in_channels=4,
                      out_channels=8, num_layers=2, cross_attention_dim=24, sample_size=128, patch_size=2,
                      caption_channels=24, norm_num_groups=1, use_additional_conditions=True)
    model, tokenizer = t5()
    scheduler = diffusers.DPMSolverMultistepScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    return diffusers.PixArtAlphaPipeline(tokenizer, model, vae(4), transformer, scheduler), {
        "use_resolution_binning": False, "clean_caption": False}


def sana():
    transformer = net(diffusers.SanaTransformer2DModel, in_channels=4, out_channels=4, num_attention_heads=2,
                      attention_head_dim=8, num_layers=1, sample_size=8, num_cross_attention_heads=2,
                      cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=16, patch_size=1)
    deep = diffusers.AutoencoderDC(
        latent_channels=4, attention_head_dim=8, encoder_block_types="ResBlock", decoder_block_types="ResBlock",
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), ()), decoder_qkv_multiscales=((), ()),
        upsample_block_type="interpolate", scaling_factor=0.41407)
    model, tokenizer = gemma()
    scheduler = diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True,
                                                      flow_shift=3.0)
    return diffusers.SanaPipeline(tokenizer, model, randomised(deep, 6, 0.15), transformer, scheduler), {
        "use_resolution_binning": False, "clean_caption": False, "height": 256, "width": 384}


def z_image():
    transformer = net(diffusers.ZImageTransformer2DModel, in_channels=4, dim=48, n_layers=2, n_refiner_layers=1,
                      n_heads=3, n_kv_heads=3, cap_feat_dim=16, axes_dims=[4, 6, 6], axes_lens=[600, 32, 32])
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return diffusers.ZImagePipeline(scheduler, no_quant(scaling_factor=0.36, shift_factor=0.11), qwen3(head=False),
                                    qwen_tokenizer(), transformer), {"guidance_scale": 2.0}


def qwen_image():
    transformer = net(diffusers.QwenImageTransformer2DModel, patch_size=2, in_channels=16, out_channels=4, num_layers=2,
                      attention_head_dim=16, num_attention_heads=2, joint_attention_dim=16, axes_dims_rope=(4, 6, 6))
    auto = randomised(diffusers.AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, attn_scales=[], temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.1, 0.9, 1.3, 0.7]), 6, 0.15)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, shift_terminal=0.02, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192)
    return diffusers.QwenImagePipeline(scheduler, auto, qwen_vl(), qwen_tokenizer("left"), transformer), {
        "packed": 2, "true_cfg_scale": 1.0}


def flux_2_klein():
    transformer = net(diffusers.Flux2Transformer2DModel, in_channels=16, num_layers=1, num_single_layers=1,
                      attention_head_dim=16, num_attention_heads=2, joint_attention_dim=48, axes_dims_rope=(4, 4, 4, 4),
                      guidance_embeds=False)
    auto = randomised(diffusers.AutoencoderKLFlux2(
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2, block_out_channels=[8, 8],
        norm_num_groups=4, latent_channels=4), 8, 0.15)
    auto.bn.running_mean.normal_(generator=torch.Generator().manual_seed(3))
    auto.bn.running_var.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(4))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return diffusers.Flux2KleinPipeline(scheduler, auto, qwen3(28), qwen_tokenizer(), transformer), {}


NAMES = {i: f"thing {i}, item {i}" for i in range(1000)}


def dit():
    transformer = net(diffusers.DiTTransformer2DModel, num_attention_heads=2, attention_head_dim=8, in_channels=4,
                      out_channels=8, num_layers=2, sample_size=8, patch_size=2, num_embeds_ada_norm=1000,
                      norm_num_groups=1)
    embedder = transformer.transformer_blocks[0].norm1.emb
    for block in transformer.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(embedder.state_dict())
    return diffusers.DiTPipeline(transformer, vae(4), diffusers.DDIMScheduler(clip_sample=False, steps_offset=1),
                                 id2label=NAMES)


CASES = {"sd": (stable_diffusion, 3.0), "sdxl": (stable_diffusion_xl, 3.0), "sd3": (stable_diffusion_3, 3.0),
         "flux": (flux_1, 1.0), "flux, guided": (lambda: flux_1(True), 3.5), "pixart": (pixart, 3.0),
         "sana": (sana, 4.5), "flux 2 klein": (flux_2_klein, 3.0), "z-image": (z_image, 3.0),
         "qwen-image": (qwen_image, 1.0)}


def pack(x, p):
    b, c, h, w = x.shape
    return x.view(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5).reshape(b, (h // p) * (w // p), c * p * p)


def pictures(pipeline, noise, guidance, options):
    """What diffusers makes: ``[B, 3, H, W]`` in [0, 1]."""
    pipeline.set_progress_bar_config(disable=True)
    factor = getattr(pipeline, "vae_scale_factor", 2)
    options = dict(options)
    latents = noise
    if packed := options.pop("packed", None):
        latents = pack(noise, packed)
    call = {"height": ROWS * factor, "width": COLUMNS * factor, "num_inference_steps": 5, "latents": latents,
            "output_type": "pt", "guidance_scale": guidance} | options
    if guidance != 1 and "Flux" not in type(pipeline).__name__:  # Flux is guided away from the empty text
        call["negative_prompt"] = [NEGATIVE] * 2
    with torch.no_grad():
        return pipeline(prompt=list(PROMPTS), **call).images.float()  # a copy: one of them changes its list


@pytest.mark.parametrize("name", CASES)
def test_pictures_are_those_of_diffusers(name, tmp_path):
    make, guidance = CASES[name]
    pipeline, options = make()
    pipeline.save_pretrained(tmp_path)
    pipeline, model = diffusers.DiffusionPipeline.from_pretrained(tmp_path), fn.load(tmp_path, "cpu")
    factor = model.system.latents.factor
    rows, columns = (n // 2 if "klein" in name else n for n in (ROWS, COLUMNS))  # two neighbours in a latent
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
    assert out.is_file()
    again = tmp_path / "again.png"
    assert main(["sample", "--like", str(out), "--out", str(again)]) == 0
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
