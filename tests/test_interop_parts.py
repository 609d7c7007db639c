"""Pipelines that diffusers saved, run with our text, schedule, solver and autoencoder around diffusers' own network.

What is left of a checkpoint is its network, and that one is tested with its trunk.
"""

import pytest
import torch
from tiny_encoders import clip, gemma, randomised, t5

from fromnoise.interop.autoencoder import load_latents
from fromnoise.interop.encoders import load_text
from fromnoise.interop.files import open_pipeline
from fromnoise.interop.schedules import schedule_of
from fromnoise.process import to_x0
from fromnoise.sample import solve

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

PROMPTS, NEGATIVE = ["a red circle", "two blue squares at night"], ["", "bad"]


def vae(channels, **more):
    shapes = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
              "block_out_channels": [8, 8], "norm_num_groups": 4, "latent_channels": channels}
    return randomised(diffusers.AutoencoderKL(**shapes | more), 8, 0.15)


def picture(folder, run, noise, steps, tokens=None, guidance=1.0):
    """A picture made with our parts; ``run`` is ``(x [B, c, h, w], timestep, condition) -> output`` of the network."""
    pipeline = open_pipeline(folder)
    text, latents = load_text(pipeline), load_latents(pipeline.part("vae"))
    part = pipeline.part("scheduler")
    schedule = schedule_of(part.kind, part.config, pipeline.kind)
    times = schedule.times(steps, tokens)
    given, empty = text.encode(PROMPTS), text.encode(NEGATIVE, negative=True)

    def x0(x, t, condition):
        output = run(x[:, 0], schedule.told(t).float(), condition)[:, None]
        return to_x0(schedule.prediction, schedule.path, output, x, t)

    def guided(x, t):
        c = x0(x, t, given)
        return c if guidance == 1 else (u := x0(x, t, empty)) + guidance * (c - u)

    x = solve(guided, noise[:, None] * schedule.noise_scale(times), path=schedule.path, solver=schedule.solver,
              grid=times)
    return latents.decode(x)[:, 0]


def agrees(ours, theirs):
    scale = float(theirs.abs().max())
    assert float(theirs.std()) > 0.02 * scale  # a picture of something
    assert float((ours - theirs).abs().max()) < 1e-4 * max(1.0, scale)


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpm", "v"])
def test_stable_diffusion(tmp_path, scheduler):
    sd = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    chosen = {
        "ddim": diffusers.DDIMScheduler(**sd, clip_sample=False, set_alpha_to_one=False),
        "euler": diffusers.EulerDiscreteScheduler(**sd, timestep_spacing="leading"),
        "dpm": diffusers.DPMSolverMultistepScheduler(**sd, use_karras_sigmas=True),
        "v": diffusers.DDIMScheduler(**sd, clip_sample=False, prediction_type="v_prediction",
                                     timestep_spacing="trailing", rescale_betas_zero_snr=True),
    }[scheduler]
    model, tokenizer = clip(16, 1)
    unet = randomised(diffusers.UNet2DConditionModel(
        sample_size=8, cross_attention_dim=16, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")), 5, 0.1)
    theirs = diffusers.StableDiffusionPipeline(vae(4), model, tokenizer, unet, chosen, None, None,
                                               requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(tmp_path)
    noise = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    want = theirs(PROMPTS, negative_prompt=NEGATIVE, height=16, width=24, num_inference_steps=5, guidance_scale=3.0,
                  latents=noise, output_type="latent").images
    want = theirs.vae.decode(want / theirs.vae.config.scaling_factor).sample
    got = picture(tmp_path, lambda x, t, c: unet(x, t, c.text).sample, noise, 5, guidance=3.0)
    agrees(got, want)


def test_flux_1(tmp_path):
    parts = [clip(16, 1), t5()]
    net = randomised(diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, pooled_projection_dim=16, axes_dims_rope=(4, 6, 6)), 5, 0.1)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    theirs = diffusers.FluxPipeline(
        scheduler, vae(4, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        *parts[0], *parts[1], net)
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(tmp_path)
    h, w = 8, 12
    noise = torch.randn(2, 4, h, w, generator=torch.Generator().manual_seed(0))
    packed = theirs._pack_latents(noise, 2, 4, h, w)
    want = theirs(PROMPTS, height=h * 2, width=w * 2, num_inference_steps=4, latents=packed,
                  output_type="latent").images
    want = theirs._unpack_latents(want, h * 2, w * 2, theirs.vae_scale_factor)
    want = theirs.vae.decode(want / 0.3611 + 0.1159).sample
    places = theirs._prepare_latent_image_ids(2, h // 2, w // 2, "cpu", torch.float32)

    def run(x, t, c):
        out = net(theirs._pack_latents(x, 2, 4, h, w), c.text, c.pooled, (t / 1000).expand(2), places,
                  torch.zeros(c.text.shape[1], 3), return_dict=False)[0]
        return theirs._unpack_latents(out, h * 2, w * 2, theirs.vae_scale_factor)

    agrees(picture(tmp_path, run, noise, 4, tokens=h * w // 4), want)


def test_sana(tmp_path):
    net = randomised(diffusers.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1, sample_size=8,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=16,
        patch_size=1), 5, 0.1)
    scheduler = diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True,
                                                      flow_shift=3.0)
    deep = diffusers.AutoencoderDC(
        latent_channels=4, attention_head_dim=8, encoder_block_types="ResBlock", decoder_block_types="ResBlock",
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), ()), decoder_qkv_multiscales=((), ()),
        upsample_block_type="interpolate", scaling_factor=0.41407)
    model, tokenizer = gemma()
    theirs = diffusers.SanaPipeline(tokenizer, model, randomised(deep, 6, 0.15), net, scheduler)
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(tmp_path)
    noise = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    want = theirs(PROMPTS, negative_prompt=NEGATIVE, height=256, width=384, num_inference_steps=6, guidance_scale=4.5,
                  latents=noise, output_type="latent", use_resolution_binning=False).images
    want = theirs.vae.decode(want / 0.41407).sample

    def run(x, t, c):
        mask = c.text.new_ones(c.text.shape[:2]) if c.mask is None else c.mask
        return net(x, c.text, encoder_attention_mask=mask, timestep=t.expand(2), return_dict=False)[0]

    agrees(picture(tmp_path, run, noise, 6, guidance=4.5), want)


@pytest.mark.parametrize("size", [None, "20KB"])
def test_half_precision_and_shards_of_encoders(tmp_path, size):
    model, tokenizer = clip(16, 1)
    pipeline = diffusers.StableDiffusionPipeline(vae(4), model.half(), tokenizer, None, diffusers.DDIMScheduler(), None,
                                                 None, requires_safety_checker=False)
    pipeline.save_pretrained(tmp_path, variant="fp16", max_shard_size=size or "10GB")
    count = len(list((tmp_path / "text_encoder").glob("*.safetensors")))
    assert count == 1 if size is None else count > 1
    opened = open_pipeline(tmp_path)
    assert load_text(opened).encode(["a"]).text.dtype == torch.float16
    assert load_text(opened, "fp16", torch.float32).encode(["a"]).text.dtype == torch.float32
