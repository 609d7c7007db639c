"""What tuning a grid does: the same few evaluations, moved to where they count.

    python examples/tuning_a_grid.py tuning_a_grid.png

Left, every row is a budget: hollow, the times of the best fixed solver and grid; filled, those of the tuned one, which
brings weights of its own as well.  The shade is how sharply the exact paths bend there.  Right, how far both end from
the exact ODE on noise that tuning has not seen, relative to the samples; the fixed pair is chosen for every budget by
this very error.
"""

import sys

import torch
from torch import Tensor

from fromnoise.evaluate.solvers import Problem, problem, trials
from fromnoise.figures import COLOURS, INK, LINE, QUIET, figure, save
from fromnoise.process import Flow
from fromnoise.random import sample_noise
from fromnoise.sample import SOLVERS, Tuned, solve, time_grid, tune

BUDGETS = (3, 4, 5, 6, 8, 10)
FIXED = ("dpmpp_2m", "unipc_2", "deis_3", "ipndm_3", "abm_angle", "abm_flow", "midpoint")


def bending(on: Problem, steps: int = 120) -> Tensor:
    """Mean length of d velocity / dt along the exact paths, at even times from 1 to 0."""
    seen = []
    solve(on.mixture.denoiser(on.path), on.noise, path=on.path, solver="abm_angle", steps=steps,
          callback=lambda p: seen.append((p.t_next, p.x)))
    times = torch.tensor([t for t, _ in seen], dtype=torch.float64)
    velocity = torch.stack([on.mixture.velocity(x, t, on.path) for t, (_, x) in zip(times, seen, strict=True)])
    return velocity.diff(dim=0).norm(dim=2).mean(1) / -times.diff()


def tuned_for(on: Problem, nfe: int) -> Tuned:
    """Fitted to other noise than that of the problem, from t = 1 on as the fixed ones."""
    own = sample_noise((512, on.mixture.dim), 1, dtype=torch.float64)
    return tune(on.mixture.denoiser(on.path), on.path, nfe=nfe, noise=own, steps=48, batch=512,
                teleport=False)


def main(out: str) -> None:
    on = problem("ring", Flow(), 512)
    denoise = on.mixture.denoiser(on.path)
    chart, (rows, errors) = figure(10.5, 4.4, 1, 2, gridspec_kw={"width_ratios": (3, 2)})
    rows.imshow(bending(on).sqrt()[None].numpy(), extent=(1, 0, -0.6, len(BUDGETS) - 0.4),
                aspect="auto", cmap="Blues", alpha=0.45, vmin=0)
    before, after = [], []
    for row, nfe in enumerate(BUDGETS):
        best, tuned = trials(on, nfe, FIXED)[0], tuned_for(on, nfe)
        fixed = time_grid(SOLVERS[best.solver].steps(nfe) or nfe, on.path, best.grid)[:-1]
        rows.plot(fixed, [row + 0.17] * len(fixed), "o", color=QUIET, markerfacecolor="white", markersize=6)
        rows.plot(tuned.grid[:-1], [row - 0.17] * nfe, "o", color=COLOURS[0], markersize=6)
        before.append(best.error.rms)
        after.append(on.error(solve(denoise, on.noise, path=on.path, solver=tuned)).rms)
    rows.set(xlim=(1.02, -0.02), ylim=(-0.6, len(BUDGETS) - 0.4), xlabel="time, from noise to data",
             ylabel="evaluations", title="When the denoiser is asked")
    rows.set_yticks(range(len(BUDGETS)), [str(n) for n in BUDGETS])
    rows.grid(False)
    errors.plot(BUDGETS, before, "o-", color=QUIET, markerfacecolor="white", label="best fixed solver and grid")
    errors.plot(BUDGETS, after, "o-", color=COLOURS[0], label="tuned")
    for nfe, high, low in zip(BUDGETS, before, after, strict=True):
        errors.plot([nfe, nfe], [high, low], color=LINE, linewidth=1, zorder=0)
        errors.annotate(f"{high / low:.0f}x", (nfe, (high * low) ** 0.5), xytext=(4, 0), textcoords="offset points",
                        color=INK, fontsize=9)
    errors.set(yscale="log", xlabel="evaluations", title="Error on noise not seen")
    errors.set_yticks([0.001, 0.003, 0.01, 0.03, 0.1], ["0.001", "0.003", "0.01", "0.03", "0.1"])
    errors.minorticks_off()
    errors.set_xticks(BUDGETS, [str(n) for n in BUDGETS])
    errors.legend(frameon=False, labelcolor=QUIET, fontsize=9)
    save(chart, out)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tuning_a_grid.png")
