"""Pipelines that diffusers saved, run with our text, schedule, solver and autoencoder around diffusers' own network.

What is left of a checkpoint is its network, and that one is tested with its trunk.
"""

import pytest
import torch
from tiny_encoders import clip
from tiny_pipelines import flux_1, sana, stable_diffusion, vae

from fromnoise.folders import open_pipeline
from fromnoise.interop.autoencoder import load_latents
from fromnoise.interop.encoders import load_text
from fromnoise.interop.schedules import schedule_of
from fromnoise.process import to_x0
from fromnoise.sample import solve

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

PROMPTS, NEGATIVE = ["a red circle", "two blue squares at night"], ["", "bad"]


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
    theirs, _ = stable_diffusion()
    theirs.scheduler, unet = chosen, theirs.unet
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(tmp_path)
    noise = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    want = theirs(PROMPTS, negative_prompt=NEGATIVE, height=16, width=24, num_inference_steps=5, guidance_scale=3.0,
                  latents=noise, output_type="latent").images
    want = theirs.vae.decode(want / theirs.vae.config.scaling_factor).sample
    got = picture(tmp_path, lambda x, t, c: unet(x, t, c.text).sample, noise, 5, guidance=3.0)
    agrees(got, want)


def test_flux_1(tmp_path):
    theirs, _ = flux_1()
    net, factors = theirs.transformer, theirs.vae.config
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(tmp_path)
    h, w = 8, 12
    noise = torch.randn(2, 4, h, w, generator=torch.Generator().manual_seed(0))
    packed = theirs._pack_latents(noise, 2, 4, h, w)
    want = theirs(PROMPTS, height=h * 2, width=w * 2, num_inference_steps=4, latents=packed,
                  output_type="latent").images
    want = theirs._unpack_latents(want, h * 2, w * 2, theirs.vae_scale_factor)
    want = theirs.vae.decode(want / factors.scaling_factor + factors.shift_factor).sample
    places = theirs._prepare_latent_image_ids(2, h // 2, w // 2, "cpu", torch.float32)

    def run(x, t, c):
        out = net(theirs._pack_latents(x, 2, 4, h, w), c.text, c.pooled, (t / 1000).expand(2), places,
                  torch.zeros(c.text.shape[1], 3), return_dict=False)[0]
        return theirs._unpack_latents(out, h * 2, w * 2, theirs.vae_scale_factor)

    agrees(picture(tmp_path, run, noise, 4, tokens=h * w // 4), want)


def test_sana(tmp_path):
    theirs, _ = sana()
    net = theirs.transformer
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
