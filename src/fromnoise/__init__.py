"""fromnoise: train, sample, edit, distil, measure and play generative models that start from noise."""

__version__ = "0.1.0"
