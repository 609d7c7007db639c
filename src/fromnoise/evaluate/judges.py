"""Judges: each kind of data brings its own way of telling right from wrong.

A judge says which prompts to sample, and turns the pictures into rows, each beside its value on real data.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fromnoise.evaluate.distances import coverage, frechet, memorisation
from fromnoise.evaluate.features import RandomFeatures, fit_classifier
from fromnoise.evaluate.report import Row
from fromnoise.types import UserError


class Judge(Protocol):
    note: str

    def prompts(self, count: int) -> list[str]:
        """What to sample."""
        ...

    def rows(self, media: Tensor, prompts: list[str]) -> list[Row]:
        """Measurements of ``media [n, 1, C, H, W]`` made for ``prompts``."""
        ...


def judge_of(data: Any) -> Judge:
    """The judge for a data spec: an oracle, a classifier where there are classes, or plain statistics."""
    if data.kind == "shapes":
        return OracleJudge(data)
    return ClassJudge(data) if hasattr(data, "classes") else PictureJudge(data)


class OracleJudge:
    """The universe's own oracle, on captions that were held out."""

    note = "Held-out captions, read back by the oracle; real: the oracle on true renders of the same captions."

    def __init__(self, data: Any):
        self.source = data.open("test")

    def prompts(self, count: int) -> list[str]:
        return self.source.batch(range(count), range(count)).text

    def rows(self, media: Tensor, prompts: list[str]) -> list[Row]:
        from fromnoise.data.universe import score

        real = self.source.batch(range(len(prompts)), range(len(prompts)))
        found, truth = score(media, prompts), score(real.media, real.text)
        names = {"all_correct": "everything right", "count": "count", "color": "colours", "shape": "shapes",
                 "size": "sizes", "relation": "relation", "unclear": "unclear pictures"}
        return [Row(name, found[key], truth[key], ".1%", "lower" if key == "unclear" else "higher")
                for key, name in names.items()]


class ClassJudge:
    """A classifier fitted on real pictures that the model was never trained on."""

    note = ("Judged by a classifier fitted on real pictures of a split never trained on. Frechet distances are in its "
            "features: compare them with the real-versus-real value, not with published FID.")

    def __init__(self, data: Any):
        self.data = data
        self.train, self.test = data.open("train"), data.open("test")

    @cached_property
    def classifier(self):
        source = self.data.open("judge")
        images, text = everything(source, 3000)
        return fit_classifier(images, self.labels(text), [len(c) for c in self.data.classes.values()])

    def labels(self, captions: list[str]) -> Tensor:
        return torch.tensor([self.data.label(caption) for caption in captions])

    def prompts(self, count: int) -> list[str]:
        """Captions of the test split, in its proportions."""
        return everything(self.test, count, 7)[1]

    def rows(self, media: Tensor, prompts: list[str]) -> list[Row]:
        n = len(prompts)
        images = media[:, 0]
        real, real_text = everything(self.test, n)
        train, train_text = everything(self.train, max(n, 2000))
        subsets = halves(len(train), n)  # as many as were generated, several times over
        same = subsets[0]
        features, classes = self.classifier.look(images)
        real_features, _ = self.classifier.look(real)
        train_features, train_classes = self.classifier.look(train)
        wanted, train_wanted, real_wanted = self.labels(prompts), self.labels(train_text), self.labels(real_text)
        right, train_right = classes == wanted, train_classes == train_wanted
        rows = [Row("caption accuracy", share(right.all(1)), share(train_right.all(1)), ".1%",
                    note="classifier against caption")]
        if right.shape[1] > 1:
            rows += [Row(f"{name} accuracy", share(right[:, i]), share(train_right[:, i]), ".1%")
                     for i, name in enumerate(self.data.classes)]
        distance = frechet(features, real_features)
        floor = float(np.mean([frechet(train_features[subset], real_features) for subset in subsets]))
        cover = self.cover(features, wanted, real_features, real_wanted)
        real_cover = self.cover(train_features[same], train_wanted[same], real_features, real_wanted)
        return [
            *rows,
            Row("Frechet distance", distance, floor, ".2f", "lower", f"to {len(real)} held-out pictures"),
            Row("Frechet, times the real floor", distance / max(floor, 1e-9), 1.0, ".2f", "lower"),
            Row("coverage, mean of classes", float(np.mean(cover)), float(np.mean(real_cover)), ".1%"),
            Row("coverage, worst class", float(np.min(cover)), float(np.min(real_cover)), ".1%"),
            Row("nearest training picture", memorisation(images, train, real), 1.0, ".2f", "near",
                "distance relative to held-out pictures: 0 is copying"),
        ]

    def cover(self, features: Tensor, labels: Tensor, real: Tensor, real_labels: Tensor) -> list[float]:
        """Coverage of each class of the first kind that has enough real pictures."""
        first, real_first = labels[:, 0], real_labels[:, 0]
        found = [coverage(features[first == c], real[real_first == c]) for c in real_first.unique().tolist()
                 if int((real_first == c).sum()) > 2]
        return [0.0 if np.isnan(f) else f for f in found] or [float("nan")]


class PictureJudge:
    """Plain statistics for pictures without classes: a Frechet distance in random features, and copying."""

    note = ("Frechet distances are in the features of a fixed random network: compare them with the real-versus-real "
            "value, not with published FID.")
    FEWEST = 20  # held-out and training pictures below which distances say nothing

    def __init__(self, data: Any):
        self.data = data
        self.train, self.test = data.open("train"), data.open("test")

    def prompts(self, count: int) -> list[str]:
        """Captions of real pictures, over and over where there are too few."""
        text = everything(self.train, count, size=(self.data.height, self.data.width))[1]
        return [text[i % len(text)] for i in range(count)]

    def rows(self, media: Tensor, prompts: list[str]) -> list[Row]:
        size = (media.shape[-2], media.shape[-1])
        train, test = everything(self.train, 1000, size=size)[0], everything(self.test, 1000, size=size)[0]
        images = media[:, 0]
        rows = []
        if len(test) >= self.FEWEST and len(train) >= self.FEWEST:
            look = RandomFeatures(images.shape[1]).look
            n = min(len(test), len(train), len(images))
            real = look(test[:n])
            rows += [Row("Frechet distance", frechet(look(images[:n]), real), frechet(look(train[:n]), real), ".4f",
                         "lower", f"{n} against {n} pictures")]
            rows += [Row("nearest training picture", memorisation(images, train, test), 1.0, ".2f", "near",
                         "distance relative to held-out pictures: 0 is copying")]
        spread, real_spread = diversity(images), diversity(train)
        note = "mean distance between two pictures, per pixel"
        return [*rows, Row("diversity", spread, real_spread, ".3f", "near", note)]


def everything(source: Any, count: int, key: int = 0, size: tuple[int, int] | None = None) -> tuple[Tensor, list[str]]:
    """At most ``count`` pictures ``[n, C, H, W]`` of a source, spread over it, and their captions.

    Pictures of several sizes are brought to ``size``.
    """
    if not len(source):
        raise UserError("There are no real pictures to compare with.")
    images, text = [], []
    for group in source.groups:
        take = max(1, min(len(group), round(count * len(group) / len(source))))
        chosen = [group[int(i)] for i in np.linspace(0, len(group) - 1, take)]
        batch = source.batch(chosen, [key] * len(chosen))
        part = batch.media[:, 0]
        if size is not None and tuple(part.shape[-2:]) != size:
            part = F.interpolate(part, size, mode="bilinear", antialias=True)
        images.append(part)
        text += batch.text
    return torch.cat(images)[:count], text[:count]


def halves(total: int, count: int, times: int = 8) -> list[np.ndarray]:
    """``times`` random choices of ``count`` out of ``total``, or of all where there are not enough; always the same."""
    random = np.random.Generator(np.random.Philox(0))
    return [random.permutation(total)[:count] for _ in range(times)]


def share(right: Tensor) -> float:
    return float(right.double().mean())


def diversity(images: Tensor) -> float:
    """Mean root-mean-square distance between pairs of pictures."""
    if len(images) < 2:
        return 0.0
    flat = images[:512].flatten(1).float()
    distances = torch.cdist(flat, flat)
    return float(distances.sum() / (len(flat) * (len(flat) - 1)) / flat.shape[1] ** 0.5)
