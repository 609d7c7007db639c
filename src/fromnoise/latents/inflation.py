"""An autoencoder of films that begins as one of pictures (the common way since VDM: a kernel of the last slice alone).

What is over time does nothing at first: of every kernel the slice of the frame itself is that of the picture and the
others are 0, of a group of frames the last is coded, and it comes back once for each of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fromnoise.latents.causal_kl import CausalKL, CausalKLLatents
from fromnoise.latents.kl import KLLatents


@torch.no_grad()
def inflated(pictures: KLLatents, halved: tuple[bool, ...]) -> CausalKLLatents:
    """A film autoencoder with the weights and statistics of one of ``pictures``, whose latents films keep.

    halved: where sides are halved, from the picture inwards, whether frames are too.  ValueError for an autoencoder
    that packs its latents.
    """
    spec, enter = pictures.spec, pictures.encoder.enter
    if spec.patch > 1:
        raise ValueError(f"an autoencoder that packs {spec.patch} x {spec.patch} latents cannot be one of films")
    same = {name: getattr(spec, name) for name in ("channels", "widths", "decoder_widths", "depth", "groups",
                                                   "attention", "mean", "std", "weight")}
    films = CausalKL(halved=halved, **same).build(enter.in_channels).to(enter.weight)
    known = pictures.state_dict()
    for weight, bias in (films.quant.parameters(), films.post_quant.parameters()):  # which pictures may go without
        nn.init.dirac_(weight)
        nn.init.zeros_(bias)
    for name, tensor in films.state_dict().items():
        of_pictures = known.get(name.replace(".space.", "."))
        if of_pictures is not None:
            tensor.copy_(of_pictures if of_pictures.ndim == tensor.ndim else last_slice(of_pictures, tensor.shape[2]))
    return films


def last_slice(kernel: Tensor, frames: int) -> Tensor:
    """A kernel ``[o, i, k, k]`` as the last of ``frames`` ``[o, i, frames, k, k]``, the others 0."""
    return torch.cat([torch.zeros_like(kernel)[:, :, None]] * (frames - 1) + [kernel[:, :, None]], dim=2)
