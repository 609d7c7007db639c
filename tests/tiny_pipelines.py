"""Tiny random pipelines of diffusers, made on the spot: ``(pipeline, options of its call)``."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny_encoders import clip, gemma, mistral, qwen3, qwen_tokenizer, qwen_vl, randomised, t5, t5gemma

diffusers = pytest.importorskip("diffusers")


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


def stable_diffusion_3(**changes):
    (a, tok), (b, tok2), (c, tok3) = clip(10, 1, projected=True), clip(14, 2, projected=True), t5(32)
    transformer = net(diffusers.SD3Transformer2DModel, sample_size=12, patch_size=2, in_channels=4, num_layers=2,
                      attention_head_dim=8, num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=32,
                      pooled_projection_dim=28, out_channels=4, pos_embed_max_size=16, qk_norm="rms_norm", **changes)
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


def pixart(sigma=False):
    transformer = net(diffusers.PixArtTransformer2DModel, num_attention_heads=2, attention_head_dim=12, in_channels=4,
                      out_channels=8, num_layers=2, cross_attention_dim=24, sample_size=128, patch_size=2,
                      caption_channels=24, norm_num_groups=1, use_additional_conditions=not sigma)
    model, tokenizer = t5()
    scheduler = diffusers.DPMSolverMultistepScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    cls = diffusers.PixArtSigmaPipeline if sigma else diffusers.PixArtAlphaPipeline
    return cls(tokenizer, model, vae(4), transformer, scheduler), {
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


def lumina_2():
    transformer = net(diffusers.Lumina2Transformer2DModel, sample_size=16, in_channels=4, hidden_size=48, num_layers=2,
                      num_refiner_layers=1, num_attention_heads=4, num_kv_heads=2, multiple_of=20,
                      axes_dim_rope=(4, 4, 4), axes_lens=(300, 32, 32), cap_feat_dim=16)
    model, tokenizer = gemma()
    return diffusers.Lumina2Pipeline(transformer, diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0),
                                     no_quant(scaling_factor=0.36, shift_factor=0.11), model, tokenizer), {
        "height": 64, "width": 96}


def prx():
    from diffusers.pipelines.prx import pipeline_prx

    vars(pipeline_prx).setdefault("ftfy", SimpleNamespace(fix_text=str))  # it cleans prompts with it, and does not ask
    transformer = net(diffusers.PRXTransformer2DModel, in_channels=4, hidden_size=32, num_heads=2, depth=2,
                      context_in_dim=16, axes_dim=(8, 8), patch_size=2)
    model, tokenizer = t5gemma()
    return diffusers.PRXPipeline(transformer, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), model, tokenizer,
                                 no_quant(scaling_factor=0.36, shift_factor=0.11), default_sample_size=512), {
        "use_resolution_binning": False, "alone": True}


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
        "packed": 2, "guidance_scale": None, "true_cfg_scale": 3.0}


def flux_2(guided=True):
    transformer = net(diffusers.Flux2Transformer2DModel, in_channels=16, num_layers=1, num_single_layers=1,
                      attention_head_dim=16, num_attention_heads=2, joint_attention_dim=48, axes_dims_rope=(4, 4, 4, 4),
                      guidance_embeds=guided)
    auto = randomised(diffusers.AutoencoderKLFlux2(
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2, block_out_channels=[8, 8],
        norm_num_groups=4, latent_channels=4), 8, 0.15)
    auto.bn.running_mean.normal_(generator=torch.Generator().manual_seed(3))
    auto.bn.running_var.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(4))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    if guided:
        return diffusers.Flux2Pipeline(scheduler, auto, *mistral(), transformer), {}
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
         "sana": (sana, 4.5), "flux 2 klein": (lambda: flux_2(False), 3.0), "flux 2 dev": (flux_2, 4.0),
         "z-image": (z_image, 3.0), "qwen-image": (qwen_image, 3.0), "lumina 2": (lumina_2, 4.0), "prx": (prx, 4.0),
         "pixart sigma": (lambda: pixart(True), 3.0),
         "sd3.5": (lambda: stable_diffusion_3(dual_attention_layers=(0,)), 3.0)}
