"""What a loss pays attention to: its effective weighting over log-SNR, beside those of the literature.

    python examples/weightings.py weightings.png

A loss is written as a path, a prediction, a space of the error and a law of the times.  All of these together are
one curve, w(lambda); two losses with one curve learn the same thing.
"""

import sys

from fromnoise.process import Flow, LogNormal, Objective, describe_weighting, plot_weightings


def main(out: str) -> None:
    objective = Objective(prediction="x0", loss="velocity", times=LogNormal(mean=-0.4, std=1.2), max_weight=25.0)
    print(describe_weighting(objective, Flow()))
    plot_weightings(objective, Flow(), out, title="x0 network, velocity loss of at most 25")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "weightings.png")
