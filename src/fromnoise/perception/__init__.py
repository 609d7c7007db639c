"""Networks that look at pictures: features, perceptual distances, and a discriminator."""

from fromnoise.perception.clips import RandomClipFeatures
from fromnoise.perception.distance import Distance, distance, resolved
from fromnoise.perception.features import Classifier, RandomFeatures, fit_classifier
from fromnoise.perception.patchgan import PatchGAN

__all__ = ["Classifier", "Distance", "PatchGAN", "RandomClipFeatures", "RandomFeatures", "distance", "fit_classifier",
           "resolved"]
