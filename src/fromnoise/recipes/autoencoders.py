"""Autoencoders, whose latents diffusion models may be made in."""

from fromnoise.data.moving import Moving
from fromnoise.data.pictures import Folder
from fromnoise.data.shapes import Shapes
from fromnoise.latents import KL, CausalKL, Reconstruction
from fromnoise.recipe import Coder, Optimizer, Schedule


def autoencoder() -> Coder:
    """An autoencoder for your own pictures: fromnoise train autoencoder --data ./photos."""
    return Coder(
        name="autoencoder",
        data=Folder(root=""),  # --data says which
        latents=KL(channels=4, widths=(32, 64, 128), depth=1, groups=8),
        train=Schedule(steps=4000, batch=16, checkpoint_every=200, preview_every=400),
    )


def shapes_kl() -> Coder:
    """A small KL autoencoder of the built-in universe, four-fold.

    With --train.steps 2200 and --train.threads 1, 0.41 M parameters: 47.3 dB, and everything right in 100.0 % of 512
    held-out pictures after they went through it, in 207 core-seconds.
    """
    return Coder(
        name="shapes-kl",
        data=Shapes(objects=2),
        latents=KL(channels=4, widths=(16, 32, 48), depth=1, groups=8, attention=False),
        loss=Reconstruction(pixel="l2"),
        train=Schedule(steps=2000, batch=16, ema=0.06, optimizer=Optimizer(lr=4e-3), checkpoint_every=250,
                       preview_every=500),
    )


def shapes64_kl() -> Coder:
    """A KL autoencoder of shapes at 64 px, four-fold, one to three objects: the latents of the recipe shapes64.

    The divergence weighs enough for two of the four channels to fall silent and for the others to stand errors.  With
    --train.threads 1, 0.36 M parameters: 39.1 dB, and everything right in 100.0 % of 512 held-out pictures after they
    went through it, in 240 core-seconds; with noise of 40 % of each channel's standard deviation in 99.7, 98.3 and
    96.0 % of those with one, two and three objects.
    """
    return Coder(
        name="shapes64-kl",
        data=Shapes(objects=3, fewest=1, height=64, width=64),
        latents=KL(channels=4, widths=(8, 24, 48), depth=1, groups=8, attention=False, weight=1e-3),
        loss=Reconstruction(pixel="l2"),
        train=Schedule(steps=1000, batch=16, ema=0.06, optimizer=Optimizer(lr=4e-3), checkpoint_every=200,
                       preview_every=400),
    )


def moving_kl() -> Coder:
    """A causal autoencoder of the universe in motion: two frames a latent, films four-fold.

    With --train.threads 1, 0.97 M parameters: 34.7 dB, and everything right in 99.4 % of 512 held-out films after they
    went through it, in 236 core-seconds.  1,100 steps, in 151: 31.2 dB, and 75 % of 128.
    """
    return Coder(
        name="moving-kl",
        data=Moving(frames=13),
        latents=CausalKL(channels=8, widths=(16, 48), halved=(True,), unshuffle=2, depth=1, groups=8, attention=False),
        loss=Reconstruction(pixel="l2"),
        train=Schedule(steps=2200, batch=3, ema=0.06, optimizer=Optimizer(lr=4e-3), checkpoint_every=200,
                       preview_every=550),
    )
