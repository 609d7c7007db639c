"""Error against evaluations: how far solvers end from the exact ODE.

    python examples/solvers.py solvers.png

On mixtures of Gaussians the exact answer is known, so the error of a sample is the distance to where its own
noise should have led.  The choice of the grid matters as much as the solver; "auto" has chosen both.
"""

import sys

from fromnoise.evaluate.solvers import auto_trial, problem
from fromnoise.figures import COLOURS, QUIET, figure, save
from fromnoise.process import Flow
from fromnoise.sample import solve

SHOWN = {"euler": "Euler (DDIM)", "heun": "Heun", "dpmpp_2m": "DPM-Solver++ 2M", "unipc_3": "UniPC 3"}
BUDGETS = (4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 17, 20, 25, 31)
PANELS = {"grid25": "25 sharp modes in two dimensions", "anisotropic": "10 modes in 64 dimensions"}


def main(out: str) -> None:
    chart, axes = figure(9, 4.2, 1, 2, sharey=True)
    for panel, (name, title) in zip(axes, PANELS.items(), strict=True):
        on = problem(name, Flow(), 128)
        denoise = on.mixture.denoiser(on.path)
        for colour, (solver, label) in zip(COLOURS[1:], SHOWN.items(), strict=False):
            spent = [n for n in BUDGETS if solver != "heun" or n % 2]
            errors = [on.error(solve(denoise, on.noise, path=on.path, solver=solver, nfe=n)).rms for n in spent]
            panel.plot(spent, errors, color=colour, linewidth=1.6, label=label)
        best = [auto_trial(on, n).error.rms for n in BUDGETS]
        panel.plot(BUDGETS, best, color=COLOURS[0], linewidth=2.6, label="auto")
        panel.set(title=title, xlabel="evaluations of the denoiser", xscale="log", yscale="log", ylim=(1e-3, 2))
        panel.set_xticks([4, 6, 10, 15, 20, 30], ["4", "6", "10", "15", "20", "30"])
        panel.minorticks_off()
    axes[0].set_ylabel("error, relative to the samples")
    axes[0].legend(frameon=False, labelcolor=QUIET, fontsize=9)
    save(chart, out)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "solvers.png")
