"""Judges: each kind of data brings its own way of telling right from wrong.

A judge says which prompts to sample, and turns the pictures into rows, each beside its value on real data.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fromnoise.evaluate.distances import coverage, frechet, memorisation, near_copies, nearest
from fromnoise.evaluate.real import cover, everything, matched, stills, subsets
from fromnoise.evaluate.report import Row
from fromnoise.perception.features import RandomFeatures, fit_classifier

FEWEST = 20  # pictures on either side below which a distance between the two sets says nothing
COMPARED = 10_000  # training pictures that are searched for copies
DRAWS = 64  # choices of real pictures a floor is the mean of: one alone is off by a seventh on digits
LOOK = 32  # side in pixels at which pictures of a folder are compared one by one


Features = Callable[[Tensor], Tensor]  # images [n, C, H, W] to [n, F]
Labelled = tuple[Tensor, Tensor]  # features [n, D] and labels [n, heads]


class Judge(Protocol):
    note: str

    def prompts(self, count: int) -> list[str]:
        """What to sample."""
        ...

    def rows(self, media: Tensor, prompts: list[str]) -> list[Row]:
        """Measurements of ``media [n, 1, C, H, W]`` made for ``prompts``."""
        ...

    def known(self, count: int) -> tuple[Tensor, list[str]]:
        """At most ``count`` held-out pictures ``[n, C, H, W]`` and their captions."""
        ...

    def verdicts(self, media: Tensor, prompts: list[str]) -> list[Row]:
        """Those of the rows that say what is right in each picture, where that can be told."""
        ...

    def remarks(self, count: int) -> list[str]:
        """What could not be measured with ``count`` pictures, and why, in sentences."""
        ...

    def held_out(self, count: int) -> Tensor:
        """At most ``count`` real pictures ``[m, C, H, W]`` that the model was not trained on; none where none are."""
        ...

    def features(self) -> Features:
        """What ``held_out`` and generated pictures are compared by.  It was not fitted on either of them."""
        ...


def judge_of(data: Any) -> Judge:
    """The judge for a data spec: an oracle, a classifier where there are classes, or plain statistics."""
    if data.kind == "moving":
        from fromnoise.evaluate.motion import MotionJudge

        return MotionJudge(data)
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

    def remarks(self, count: int) -> list[str]:
        return []

    def rows(self, media: Tensor, prompts: list[str]) -> list[Row]:
        return self.verdicts(media, prompts)

    def known(self, count: int) -> tuple[Tensor, list[str]]:
        batch = self.source.batch(range(count), range(count))
        return batch.media[:, 0], batch.text

    def verdicts(self, media: Tensor, prompts: list[str]) -> list[Row]:
        from fromnoise.data.universe import score

        real = self.source.batch(range(len(prompts)), range(len(prompts)))
        found, truth = score(media, prompts), score(real.media, real.text)
        names = {"all_correct": "everything right", "count": "count", "color": "colours", "shape": "shapes",
                 "size": "sizes", "relation": "relation", "unclear": "unclear pictures"}
        rows = [Row(name, found[key], truth[key], ".1%", "lower" if key == "unclear" else "higher")
                for key, name in names.items()]
        return rows + (self.by_number(media, real.media, prompts) if len(self.source.spec.numbers) > 1 else [])

    def by_number(self, media: Tensor, real: Tensor, prompts: list[str]) -> list[Row]:
        """Everything right, of captions of each number of objects."""
        from fromnoise.data.universe import parse, score

        groups: dict[int, list[int]] = {}
        for i, prompt in enumerate(prompts):
            groups.setdefault(len(parse(prompt).things), []).append(i)
        rows = []
        for number, some in sorted(groups.items()):
            found, truth = (score(m[some], [prompts[i] for i in some])["all_correct"] for m in (media, real))
            rows.append(Row(f"everything right, {number} object{'s' * (number > 1)}", found, truth, ".1%",
                            note=f"of {len(some)} captions"))
        return rows

    def held_out(self, count: int) -> Tensor:
        """True renders of further held-out captions."""
        return self.source.batch(range(count, 2 * count), range(count)).media[:, 0]

    def features(self) -> Features:
        return RandomFeatures(self.source.spec.channels).look


class ClassJudge:
    """A classifier fitted on real pictures that the model was never trained on."""

    note = ("Judged by a classifier fitted on real pictures that the model was never trained on; the real column is "
            "measured on real pictures that the classifier was not fitted on. Frechet distances are in the "
            "classifier's features: compare them with the real-versus-real value, not with published FID.")

    def __init__(self, data: Any):
        self.data = data
        self.train, self.test, self.reference = data.open("train"), data.open("test"), data.open("reference")

    @cached_property
    def classifier(self):
        return self.fitted("judge", 400 if len(self.data.classes) == 1 else 600)

    def fitted(self, split: str, steps: int):
        """A classifier of one split."""
        images, text = everything(self.data.open(split), COMPARED)
        classes = [len(c) for c in self.data.classes.values()]
        return fit_classifier(images, self.labels(text), classes, steps)

    def held_out(self, count: int) -> Tensor:
        return everything(self.test, count)[0]

    def features(self) -> Features:
        """Of another classifier, fitted on training pictures: held-out ones must be as new to it as generated ones.

        The one that judges captions may have been fitted on the held-out pictures.
        """
        net = self.fitted("train", 200)
        return lambda images: net.look(images)[0]

    def labels(self, captions: list[str]) -> Tensor:
        return torch.tensor([self.data.label(caption) for caption in captions])

    def right(self, classes: Tensor, captions: list[str]) -> Tensor:
        """``[n, heads]``: which of the classes seen agree with the caption, by the reading that fits best."""
        rows = []
        for seen, caption in zip(classes, captions, strict=True):
            options = torch.stack([seen == torch.tensor(r) for r in self.data.readings(caption)])
            rows.append(options[options.sum(1).argmax()])
        return torch.stack(rows)

    def prompts(self, count: int) -> list[str]:
        """Captions of the test split, in its proportions."""
        return everything(self.test, count, 7)[1]

    def remarks(self, count: int) -> list[str]:
        return [] if count >= FEWEST else [f"{count} pictures are too few for a Frechet distance or for coverage; "
                                           f"{FEWEST} are the least."]

    def rows(self, media: Tensor, prompts: list[str]) -> list[Row]:
        images = media[:, 0]
        real, real_text = everything(self.test, len(prompts))
        reference, text = everything(self.reference, COMPARED)
        train, _ = everything(self.train, COMPARED)
        features, reference_features = self.classifier.look(images)[0], self.classifier.look(reference)[0]
        rows = self.verdicts(media, prompts)
        if len(prompts) >= FEWEST:
            real_features, _ = self.classifier.look(real)
            rows += self.distances((features, self.labels(prompts)), (real_features, self.labels(real_text)),
                                   (reference_features, self.labels(text)))
        return [*rows, *novelty(nearest(images, train), nearest(real, train), f"{len(train)} training pictures")]

    def known(self, count: int) -> tuple[Tensor, list[str]]:
        return everything(self.test, count, 7)

    def verdicts(self, media: Tensor, prompts: list[str]) -> list[Row]:
        reference, text = everything(self.reference, COMPARED)
        right = self.right(self.classifier.look(media[:, 0])[1], prompts)
        reference_right = self.right(self.classifier.look(reference)[1], text)
        rows = [Row("caption accuracy", share(right.all(1)), share(reference_right.all(1)), ".1%",
                    note="classifier against caption")]
        if right.shape[1] > 1:
            rows += [Row(f"{name} accuracy", share(right[:, i]), share(reference_right[:, i]), ".1%")
                     for i, name in enumerate(self.data.classes)]
        return rows

    def distances(self, made: Labelled, real: Labelled, reference: Labelled) -> list[Row]:
        """Frechet distance and coverage of generated pictures, and of as many real ones of the same classes."""
        (features, labels), (real_features, real_labels), (pool, pool_labels) = made, real, reference
        picks = matched(labels, pool_labels, DRAWS)
        distance = frechet(features, real_features)
        floor = float(np.mean([frechet(pool[pick], real_features) for pick in picks]))
        halves = float(np.mean([frechet(pool[pick], real_features) for pick in
                                subsets(len(pool), len(features), DRAWS)]))
        found = self.cover(features, labels, real_features, real_labels)
        covers = [self.cover(pool[pick], pool_labels[pick], real_features, real_labels) for pick in picks[:8]]
        rows = [
            Row("Frechet distance", distance, floor, ".2f", "lower",
                f"{len(features)} against {len(real_features)} held-out pictures; real is of as many of each class, "
                f"and {halves:.2f} where classes are left to chance"),
            Row("Frechet, times the real floor", distance / max(floor, 1e-9), 1.0, ".2f", "lower"),
        ]
        return rows if not found else [
            *rows,
            Row("coverage, mean of classes", float(np.mean(found)), float(np.mean(covers)), ".1%"),
            Row("coverage, worst class", min(found), float(np.mean([min(c) for c in covers])), ".1%"),
        ]

    def cover(self, features: Tensor, labels: Tensor, real: Tensor, real_labels: Tensor) -> list[float]:
        """Coverage of each class of the first kind that has three real pictures or more; 0 where none was generated."""
        first, real_first = labels[:, 0], real_labels[:, 0]
        classes, counts = real_first.unique(return_counts=True)
        found = [coverage(features[first == c], real[real_first == c]) for c in classes[counts > 2].tolist()]
        return [0.0 if np.isnan(f) else f for f in found]


class PictureJudge:
    """Plain statistics for pictures without classes: a Frechet distance in random features, and copying."""

    note = ("Frechet distances are in the features of a fixed random network: compare them with the real-versus-real "
            "value, not with published FID.")

    def __init__(self, data: Any):
        self.data = data
        if data.frames > 1:
            self.note += " Of each film one frame is judged, of the first its first, of the next its second."
        self.train, self.test = data.open("train"), data.open("test")
        self.apart = getattr(self.test, "held_out", True)

    def prompts(self, count: int) -> list[str]:
        """Captions of real pictures, over and over where there are too few."""
        text = everything(self.train, count, size=(self.data.height, self.data.width))[1]
        return [text[i % len(text)] for i in range(count)]

    def remarks(self, count: int) -> list[str]:
        if not self.apart:
            return ["No pictures are held out, so a Frechet distance or copying cannot be measured: give more "
                    "pictures, or a larger held_out."]
        fewest = min(count, len(self.train), len(self.test))
        return [] if fewest >= FEWEST else [
            f"Too few pictures for a Frechet distance or for copying ({count} generated, {len(self.train)} to "
            f"train on, {len(self.test)} held out; {FEWEST} of each are the least)."]

    def rows(self, media: Tensor, prompts: list[str]) -> list[Row]:
        size, images = (media.shape[-2], media.shape[-1]), stills(media)
        train = everything(self.train, COMPARED if not self.remarks(len(images)) else 1000, size=size)[0]
        rows = []
        if not self.remarks(len(images)):
            test = everything(self.test, 1000, size=size)[0]
            rows = [*self.distances(images, train, test), *self.copying(images, train, test)]
        note = "mean distance between two pictures, per pixel"
        return [*rows, Row("diversity", diversity(images), diversity(train), ".3f", "near", note)]

    def known(self, count: int) -> tuple[Tensor, list[str]]:
        return everything(self.test, count, size=(self.data.height, self.data.width))

    def verdicts(self, media: Tensor, prompts: list[str]) -> list[Row]:
        return []

    def held_out(self, count: int) -> Tensor:
        size = (self.data.height, self.data.width)
        return everything(self.test, count, size=size)[0] if self.apart else torch.empty(0)

    def features(self) -> Features:
        return RandomFeatures(self.data.channels).look

    def distances(self, images: Tensor, train: Tensor, test: Tensor) -> list[Row]:
        n = min(len(test), len(train), len(images))
        look = RandomFeatures(images.shape[1]).look
        made, real, known = look(images), look(test), look(train)

        def mean(features: Tensor) -> float:
            """Over choices of n from either side: the first n would be one bucket, not the folder."""
            pairs = zip(subsets(len(features), n), subsets(len(real), n), strict=True)
            return float(np.mean([frechet(features[a], real[b]) for a, b in pairs]))

        distance, floor = mean(made), mean(known)
        return [Row("Frechet distance", distance, floor, ".4f", "lower", f"{n} against {n} pictures"),
                Row("Frechet, times the real floor", distance / max(floor, 1e-9), 1.0, ".2f", "lower")]

    def copying(self, images: Tensor, train: Tensor, test: Tensor) -> list[Row]:
        """Pictures are compared small, and mirrored too where training mirrored them."""
        side = min(LOOK, *images.shape[-2:])
        small, known, held_out = (cover(x, (side, side)) for x in (images, train, test))
        if getattr(self.data, "flip", False):
            known = torch.cat([known, known.flip(-1)])
        return novelty(nearest(small, known), nearest(held_out, known), f"{len(train)} training pictures")


def novelty(generated: Tensor, real: Tensor, among: str) -> list[Row]:
    """Rows on copying, from distances ``[n]`` and ``[m]`` to the nearest training picture."""
    copies, real_copies = near_copies(generated, real)
    return [
        Row("nearest training picture", memorisation(generated, real), 1.0, ".2f", "near",
            f"distance relative to held-out pictures, among {among}: 0 is copying"),
        Row("near copies", copies, real_copies, ".1%", "lower",
            "nearer to a training picture than 99 in 100 held-out ones are"),
    ]


def share(right: Tensor) -> float:
    return float(right.double().mean())


def diversity(images: Tensor) -> float:
    """Mean root-mean-square distance between pairs of pictures, of at most 512 spread over them."""
    if len(images) < 2:
        return 0.0
    flat = images[subsets(len(images), 512, 1)[0]].flatten(1).float()
    distances = torch.cdist(flat, flat)
    return float(distances.sum() / (len(flat) * (len(flat) - 1)) / flat.shape[1] ** 0.5)
