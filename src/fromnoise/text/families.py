"""How the published systems read prompts: settings of ``Towers``, as in the pipelines of diffusers 0.42.

Texts below are part of what those models were trained with, and stand here word for word.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from fromnoise.text.towers import Tower, Towers

FLUX2_SYSTEM = ("You are an AI that reasons about image descriptions. You give structured responses focusing on object "
                "relationships, object\nattribution and actions without speculation.")
QWEN_IMAGE_TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n")
SANA_INSTRUCTION = "\n".join((
    "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for image "
    "generation. Evaluate the level of detail in the user prompt:",
    "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial "
    "relationships to create vivid and concrete scenes.",
    "- If the prompt is already detailed, refine and enhance the existing details slightly without overcomplicating.",
    "Here are examples of how to transform or refine prompts:",
    "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping "
    "peacefully on a warm sunny windowsill, surrounded by pots of blooming red flowers.",
    "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street "
    "lamps, a diverse crowd of people in colorful clothing, and a double-decker bus passing by towering glass "
    "skyscrapers.",
    "Please generate only the enhanced description for the prompt below and avoid including any additional commentary "
    "or evaluations:",
    "User Prompt: ",
))

LUMINA2_TEMPLATE = ("You are an assistant designed to generate superior images with the superior degree of image-text "
                    "alignment based on textual prompts or user prompts. <Prompt Start> {}")

SECOND: dict[str, Any] = {"model": "text_encoder_2", "tokenizer": "tokenizer_2"}
THIRD: dict[str, Any] = {"model": "text_encoder_3", "tokenizer": "tokenizer_3"}


def _clip(layer: int = -2, pooled: bool = True) -> Tower:
    """CLIP treats what fills its 77 places as words, and so do the networks that read it."""
    return Tower(attend_padding=True, layers=(layer,), pooled=pooled)


def _pixart(length: int) -> Towers:
    return Towers(towers=(Tower(lower=True, max_length=length, padding="masked"),))


Family = Literal["clip", "t5", "clip_t5", "lm", "sd", "sdxl", "sd3", "flux1", "flux2", "flux2_klein", "z_image",
                 "qwen_image", "pixart_alpha", "pixart_sigma", "sana", "lumina2", "prx"]

PIPELINES: dict[str, Family] = {  # classes of diffusers, and whose rule they follow
    "StableDiffusionPipeline": "sd", "StableDiffusionXLPipeline": "sdxl", "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux1", "Flux2Pipeline": "flux2", "Flux2KleinPipeline": "flux2_klein",
    "ZImagePipeline": "z_image", "QwenImagePipeline": "qwen_image", "PixArtAlphaPipeline": "pixart_alpha",
    "PixArtSigmaPipeline": "pixart_sigma", "SanaPipeline": "sana", "Lumina2Pipeline": "lumina2",
    "PRXPipeline": "prx",
}

FAMILIES: dict[Family, Towers] = {
    # Encoders as such: a CLIP before its last layer; T5; a CLIP and then a T5; a language model.
    "clip": Towers(towers=(_clip(),)),
    "t5": Towers(towers=(Tower(max_length=256, fill=False, padding="masked"),)),
    "clip_t5": Towers(towers=(_clip(), Tower(max_length=256, fill=False, padding="masked", **SECOND))),
    "lm": Towers(towers=(Tower(max_length=256, fill=False, padding="removed"),)),
    # CLIP's last layer; Stable Diffusion 2's files end at the layer it was trained with.
    "sd": Towers(towers=(_clip(-1, pooled=False),)),
    # Two CLIPs side by side, before their last layers; only the second is pooled.
    "sdxl": Towers(towers=(_clip(pooled=False), replace(_clip(), beside=True, **SECOND))),
    # The same two, both pooled, and T5 after them.
    "sd3": Towers(towers=(_clip(), replace(_clip(), beside=True, **SECOND),
                          Tower(max_length=256, attend_padding=True, **THIRD))),
    # CLIP only pooled, T5 only as a sequence.
    "flux1": Towers(towers=(replace(_clip(), layers=()), Tower(max_length=512, attend_padding=True, **SECOND))),
    # Three layers of a language model, padding handed on.
    "flux2": Towers(towers=(Tower(chat=True, system=FLUX2_SYSTEM, answer=False, special_tokens=False, max_length=512,
                                  layers=(10, 20, 30)),)),
    "flux2_klein": Towers(towers=(Tower(chat=True, thinking=False, max_length=512, layers=(9, 18, 27)),)),
    "z_image": Towers(towers=(Tower(chat=True, thinking=True, max_length=512, layers=(-2,), padding="removed"),)),
    "qwen_image": Towers(towers=(Tower(template=QWEN_IMAGE_TEMPLATE, drop=34, max_length=512, fill=False,
                                       padding="removed"),)),
    # Of the pipelines' cleaning of prompts, small letters alone.
    "prx": Towers(towers=(Tower(lower=True, padding="masked"),)),
    "pixart_alpha": _pixart(120),
    "pixart_sigma": _pixart(300),
    "sana": Towers(towers=(Tower(lower=True, instruction=SANA_INSTRUCTION, max_length=300, side="right",
                                 padding="masked"),)),
    # The layer before the last of Gemma 2; what is guided away from stands alone.
    "lumina2": Towers(towers=(Tower(template=LUMINA2_TEMPLATE, bare=True, max_length=256, side="right", layers=(-2,),
                                    padding="masked"),)),
}
