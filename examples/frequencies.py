"""High frequencies are perturbed faster: a photograph loses its detail to noise first and its layout last.

    python examples/frequencies.py frequencies.png

White noise is as strong at every frequency, a photograph is strongest at the low ones.  Where their spectra cross,
the picture drowns, and as time goes on the crossing moves from fine to coarse.
"""

import sys

import torch
from sklearn.datasets import load_sample_images
from torch import Tensor

from fromnoise.evaluate.spectra import drowning_time, radial_power
from fromnoise.evaluate.spectra_plots import plot_frequencies
from fromnoise.process import Flow


def photographs() -> Tensor:
    """scikit-learn's two sample photographs ``[2, 1, 3, 427, 640]`` in [-1, 1]: a palace, a flower."""
    pictures = torch.stack([torch.from_numpy(image.copy()) for image in load_sample_images()["images"]])
    return (pictures.permute(0, 3, 1, 2)[:, None].float() / 127.5) - 1


def main(out: str) -> None:
    pictures = photographs()
    frequency, power = radial_power(pictures, 48)
    for f, t in list(zip(frequency, drowning_time(power, Flow()), strict=True))[::8]:
        print(f"{f:.3f} cycles a pixel are as strong as the noise at t = {t:.2f}")
    plot_frequencies(pictures, Flow(), out, caption="Leaves and tiles are gone long before the building is: "
                     "on the straight path x = (1 - t) picture + t noise")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "frequencies.png")
