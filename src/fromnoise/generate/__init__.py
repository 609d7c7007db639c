"""The one front door to a trained model: encode the prompt, sample, decode."""

from fromnoise.generate.model import Around, Model, load

__all__ = ["Around", "Model", "load"]
