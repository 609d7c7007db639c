"""The effective weighting: what an objective really emphasises, over log-SNR, whichever way it was written.

Every objective of this library is 1/2 E [ w(lambda) (-dlambda/dt) |eps - eps_hat|^2 ] for one function w (Kingma and
Gao 2023), which gathers the path, the prediction, the space of the loss, the time law, the weights and their ceiling.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path as FilePath

import torch
from torch import Tensor

from fromnoise.process.gaussian import GaussianPath
from fromnoise.process.objective import Objective
from fromnoise.process.paths import Flow
from fromnoise.process.weightings import P2, EDMWeighting, Elbo, MinSNR, Sigmoid, Simple, eps_error

LAMBDAS = torch.linspace(-10, 10, 1001, dtype=torch.float64)  # where weightings are compared and normalised
NO_CEILING = 1e30

LogVariance = Callable[[Tensor], Tensor]


def raw_weighting(objective: Objective, path: GaussianPath, lambdas: Tensor) -> Tensor:
    """w(lambda) with its factor: 0 where the path does not go; float64, the shape of ``lambdas``."""
    t = path.time(lambdas.double())
    there = lambdas >= path.logsnr(torch.ones_like(t))
    w = 2 * objective.law.density(t, path) * objective.weight(t, path) * eps_error(objective.prediction, t, path)
    return torch.where(there, w, 0.0)


@torch.no_grad()
def effective_weighting(objective: Objective, path: GaussianPath, lambdas: Tensor,
                        variance: LogVariance | None = None) -> Tensor:
    """w(lambda) of the objective in the form of the reweighted ELBO, normalised over log-SNR from -10 to 10.

    lambdas: log-SNRs, any shape;  variance: the learned u(lambda) of a trained model, by whose exponential the loss
    is divided.  Returns float64 of the same shape; its integral from -10 to 10 is 1.
    """
    def w(at: Tensor) -> Tensor:
        raw = raw_weighting(objective, path, at)
        return raw if variance is None else raw / variance(at).double().exp()

    return w(lambdas) / torch.trapezoid(w(LAMBDAS), LAMBDAS)


def named_objectives() -> dict[str, tuple[Objective, GaussianPath | None]]:
    """Objectives of the literature, each with the path it belongs to (None: whichever path it meets)."""
    weightings = {"simple": Simple(), "elbo": Elbo(), "min_snr": MinSNR(), "p2": P2(), "edm": EDMWeighting(),
                  "sigmoid": Sigmoid()}
    named: dict[str, tuple[Objective, GaussianPath | None]] = {
        name: (Objective(weighting=w, max_weight=NO_CEILING), None) for name, w in weightings.items()}
    return {**named, "sd3": (Objective(max_weight=NO_CEILING), Flow())}  # velocity loss, logit-normal times


def named_weightings(path: GaussianPath, lambdas: Tensor) -> dict[str, Tensor]:
    """The effective weightings of the literature on ``path``, by name; sd3 is that of the flow path everywhere."""
    return {name: effective_weighting(objective, own or path, lambdas)
            for name, (objective, own) in named_objectives().items()}


def nearest_named(objective: Objective, path: GaussianPath) -> tuple[str, float]:
    """The named weighting with most in common, and the share in common: 1 where they are equal, 0 where disjoint."""
    w = effective_weighting(objective, path, LAMBDAS)
    common = {name: float(torch.trapezoid(torch.minimum(w, other), LAMBDAS))
              for name, other in named_weightings(path, LAMBDAS).items()}
    name = max(common, key=lambda n: common[n])
    return name, common[name]


def describe_weighting(objective: Objective, path: GaussianPath) -> str:
    """One line: where the effective weighting peaks over log-SNR, how wide it is, and which named one is nearest."""
    w = effective_weighting(objective, path, LAMBDAS)
    where, values = LAMBDAS[w > 0], w[w > 0]
    peak, high = int(values.argmax()), where[values >= values.max() / 2]
    low, top = float(high[0]), float(high[-1])
    if float(values.min()) > 0.99 * float(values.max()):
        shape = "the same everywhere"
    elif peak == 0:
        shape = f"highest at the noisy end ({where[0]:.1f}), half of that at {top:.1f}"
    elif peak == len(where) - 1:
        shape = f"highest at the clean end ({where[-1]:.1f}), half of that at {low:.1f}"
    else:
        shape = f"peak at {where[peak]:.1f}, half width {top - low:.1f} ({low:.1f} to {top:.1f})"
    name, share = nearest_named(objective, path)
    learned = "; divided by the variance that is learned" if objective.learned_variance else ""
    return f"{shape}, nearest named: {name} ({share:.0%} in common){learned}"


def plot_weightings(objective: Objective, path: GaussianPath, out: str | FilePath | None = None,
                    title: str = "this objective"):
    """A figure of the effective weighting beside the named ones, over log-SNR; written to ``out`` where given."""
    from fromnoise.figures import COLOURS, INK, QUIET, figure, save

    w = effective_weighting(objective, path, LAMBDAS)
    chart, axes = figure(8.4, 4.8)
    axes.fill_between(LAMBDAS.numpy(), w.numpy(), color=INK, alpha=0.08, linewidth=0)
    axes.plot(LAMBDAS.numpy(), w.numpy(), color=INK, linewidth=3.2, label=title, zorder=5)
    others = named_weightings(path, LAMBDAS)
    for colour, (name, other) in zip(COLOURS, others.items(), strict=False):
        axes.plot(LAMBDAS.numpy(), other.numpy(), color=colour, linewidth=1.8, label=name)
    axes.set_xlim(10, -10)  # from clean to noise, as the clock runs
    axes.set_ylim(0, 1.12 * max(float(v.max()) for v in (w, *others.values())))
    axes.set_xlabel("log-SNR:  data  \N{LONG LEFTWARDS ARROW}   \N{LONG RIGHTWARDS ARROW}  noise")
    axes.set_ylabel("effective weighting  w(\N{GREEK SMALL LETTER LAMDA})")
    axes.set_title("What the loss pays attention to", loc="left", fontsize=13, fontweight="bold", pad=22)
    axes.text(0, 1.02, describe_weighting(objective, path), transform=axes.transAxes, color=QUIET, fontsize=9)
    axes.legend(frameon=False, fontsize=9, labelcolor=QUIET, loc="upper left")
    return save(chart, out)
