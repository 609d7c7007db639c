"""Blind spots of human perception: the same error as noise and as rounding.

    python examples/blind_spots.py blind_spots.png

Three bits a colour draw contours into a sky; noise of the same power hides in the leaves.
"""

import sys

from frequencies import photographs

from fromnoise.evaluate.spectra_plots import plot_blind_spots


def main(out: str) -> None:
    plot_blind_spots(photographs()[0], out)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "blind_spots.png")
