"""The vector field of flow matching: at every noise level, where each point is about to go.

    python examples/vector_field.py vector_field.png

The field is E[dx/dt | x_t = x], what a network trained by flow matching would be if it were perfect.  It is followed
from t = 1, pure noise, down to t = 0, data; the shade is the density of the points at that level.
"""

import sys

import torch

from fromnoise.analytic import ring
from fromnoise.figures import COLOURS, bare, figure, save
from fromnoise.process import Flow

TIMES = (1.0, 0.7, 0.4, 0.12)
REACH = 2.8


def main(out: str) -> None:
    mixture, path = ring(5, 0.18), Flow()
    chart, axes = figure(12, 3.5, 1, len(TIMES))
    axis = torch.linspace(-REACH, REACH, 160, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack([x.ravel(), y.ravel()], 1)
    for panel, time in zip(axes, TIMES, strict=True):
        density = mixture.log_prob(points, time, path).exp().reshape(x.shape)
        down = -mixture.velocity(points, time, path)  # against the clock, from noise to data
        u, v = (down[:, i].reshape(x.shape).numpy() for i in (0, 1))
        panel.imshow(density.sqrt(), extent=(-REACH, REACH) * 2, origin="lower", cmap="Blues", vmax=0.8)
        panel.streamplot(axis.numpy(), axis.numpy(), u, v, density=0.8, color=COLOURS[1], linewidth=0.8, arrowsize=0.8)
        panel.set(title=f"t = {time:g}", xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal")
        bare(panel)
    save(chart, out)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "vector_field.png")
