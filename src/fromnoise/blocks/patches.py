"""Media to tokens and back."""

from __future__ import annotations

from torch import Tensor


def patchify(x: Tensor, p: int) -> Tensor:
    """``[B, T, C, H, W]`` to ``[B, T h w, C p p]`` with h = H / p and w = W / p."""
    B, T, C, H, W = x.shape
    x = x.reshape(B, T, C, H // p, p, W // p, p).permute(0, 1, 3, 5, 2, 4, 6)
    return x.reshape(B, T * (H // p) * (W // p), C * p * p)


def unpatchify(tokens: Tensor, p: int, shape: tuple[int, int, int, int]) -> Tensor:
    """The inverse of ``patchify`` for media of ``shape`` (T, C, H, W)."""
    T, C, H, W = shape
    x = tokens.reshape(-1, T, H // p, W // p, C, p, p).permute(0, 1, 4, 2, 5, 3, 6)
    return x.reshape(-1, T, C, H, W)
