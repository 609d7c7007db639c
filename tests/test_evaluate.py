"""Distances against closed forms, and judges against sets with known faults."""

import numpy as np
import pytest
import torch

from fromnoise.data.digits import Digits
from fromnoise.data.glyphs import Glyphs
from fromnoise.data.pictures import Folder
from fromnoise.data.shapes import Shapes
from fromnoise.evaluate import Report, evaluate
from fromnoise.evaluate.distances import coverage, frechet, memorisation
from fromnoise.evaluate.judges import ClassJudge
from fromnoise.types import UserError


def test_frechet_of_known_gaussians():
    """Commuting covariances: |m|^2 + sum (sqrt(a) - sqrt(b))^2."""
    random = torch.Generator().manual_seed(0)
    a, b, mean = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([4.0, 4.0, 1.0]), torch.tensor([1.0, 0.0, 2.0])
    n = 200_000
    x = torch.randn(n, 3, generator=random, dtype=torch.float64) * a.sqrt()
    y = torch.randn(n, 3, generator=random, dtype=torch.float64) * b.sqrt() + mean
    want = float(mean.square().sum() + (a.sqrt() - b.sqrt()).square().sum())
    assert frechet(x, y) == pytest.approx(want, rel=0.02)


@pytest.mark.parametrize(("n", "d"), [(300, 8), (12, 8), (6, 20)])
def test_frechet_equals_its_slow_twin(n, d):
    """The textbook formula with a matrix square root, also where there are fewer samples than features."""
    from scipy.linalg import sqrtm

    x = torch.randn(n, d, dtype=torch.float64)
    y = torch.randn(n + 3, d, dtype=torch.float64) @ torch.randn(d, d).double()
    a, b = torch.cov(x.T).numpy(), torch.cov(y.T).numpy()
    root = sqrtm(a + 1e-10 * np.eye(d)) @ (b + 1e-10 * np.eye(d)) @ sqrtm(a + 1e-10 * np.eye(d))
    want = float((x.mean(0) - y.mean(0)).square().sum()) + np.trace(a + b) - 2 * np.trace(sqrtm(root)).real
    assert frechet(x, y) == pytest.approx(want, rel=1e-3, abs=1e-3)
    assert frechet(x, x) == pytest.approx(0, abs=1e-6)


def test_coverage_and_memorisation_of_known_sets():
    real = torch.randn(200, 4)
    assert coverage(real, real) == 1.0
    assert coverage(real[real[:, 0] > 0], real) < 0.9
    assert coverage(real + 100, real) == 0.0
    train, held_out, fresh = torch.randn(3, 400, 4)
    assert memorisation(train[:50], train, held_out) == pytest.approx(0, abs=1e-3)
    assert memorisation(fresh, train, held_out) == pytest.approx(1, abs=0.15)


@pytest.fixture(scope="module")
def judge():
    return ClassJudge(Digits())


def rows(judge, pick):
    """The judge's rows on training scans picked by ``pick(label, candidates, random)``."""
    train, random = judge.train, np.random.RandomState(0)
    by_label = {label: np.flatnonzero(train.labels == label) for label in range(10)}
    prompts = judge.prompts(400)
    media = torch.stack([pick(judge.data.label(p)[0], by_label, random, train.media) for p in prompts])
    return {row.name: row.value for row in judge.rows(media, prompts)}


def own(label, by_label, random, media):
    return media[random.choice(by_label[label])]


def test_real_digits_score_as_real(judge):
    found = rows(judge, own)
    assert found["caption accuracy"] >= 0.975
    assert found["Frechet, times the real floor"] < 2.5
    assert found["nearest training picture"] == pytest.approx(0, abs=1e-6)  # these are copies, and it says so
    assert found["coverage, worst class"] > 0.6


def test_each_fault_is_flagged_by_its_measure(judge):
    good = rows(judge, own)
    wrong = rows(judge, lambda label, by, random, media: own((label + 1) % 10, by, random, media))
    assert wrong["caption accuracy"] < 0.1
    missing = rows(judge, lambda label, by, random, media: own(0 if label == 3 else label, by, random, media))
    assert missing["coverage, worst class"] < 0.3
    single = rows(judge, lambda label, by, random, media: media[by[label][0]])
    assert single["coverage, mean of classes"] < 0.5 * good["coverage, mean of classes"]
    noise = rows(judge, lambda label, by, random, media: torch.randn(1, 1, 8, 8))
    assert noise["Frechet, times the real floor"] > 20
    faint = rows(judge, lambda label, by, random, media: own(label, by, random, media) * 0.6)
    assert faint["Frechet, times the real floor"] > 1.5 * good["Frechet, times the real floor"]


def test_the_judge_is_the_same_every_time():
    a, b = (ClassJudge(Digits()).classifier for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_oracle_judge_on_true_and_false_pictures():
    data = Shapes()
    source = data.open("test")

    def truth(prompts, seed):
        return source.batch(range(len(prompts)), range(len(prompts))).media

    assert evaluate(truth, data, count=64)["everything right"] == 1.0
    assert evaluate(lambda p, s: truth(p, s).roll(1, 0), data, count=64)["everything right"] < 0.1


@pytest.mark.long
def test_glyph_judge_knows_real_glyphs():
    data = Glyphs()
    source = data.open("test")
    named = {data.label(source.batch([i], [0]).text[0]): i for i in range(len(source))}

    def truth(prompts, seed):
        return source.batch([named[data.label(p)] for p in prompts], [0] * len(prompts)).media

    report = evaluate(truth, data, count=150)
    assert report["caption accuracy"] >= 0.95
    assert report["character accuracy"] >= 0.97


def test_folder_judge(tmp_path):
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photo = Image.fromarray(load_sample_images().images[1])
    for i in range(60):
        photo.crop((i * 8, i * 4, i * 8 + 90, i * 4 + 90)).save(tmp_path / f"{i:02}.png")
    data = Folder(root=str(tmp_path), resolution=32, held_out=0.4)
    source = data.open("test")
    real = source.batch([i % len(source) for i in range(24)], [0] * 24).media
    report = evaluate(lambda p, s: real, data, count=24)
    noise = evaluate(lambda p, s: torch.rand(len(p), 1, 3, 32, 32) * 2 - 1, data, count=24)
    assert report["Frechet distance"] < 0.2 * noise["Frechet distance"]
    few = Folder(root=str(tmp_path), resolution=32, held_out=0.1)
    report = evaluate(lambda p, s: torch.zeros(len(p), 1, 3, 32, 32), few, count=8)
    assert [r.name for r in report.rows] == ["diversity"]


def test_report_round_trip_and_bad_counts():
    report = evaluate(lambda p, s: torch.zeros(len(p), 1, 3, 32, 32), Shapes(), count=4)
    assert Report.from_dict(report.to_dict()) == report
    assert report.table().row_count == len(report.rows)
    with pytest.raises(UserError):
        evaluate(lambda p, s: torch.zeros(1), Shapes(), count=1)
