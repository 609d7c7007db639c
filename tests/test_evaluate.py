"""Distances against closed forms, and judges against sets with known faults."""

import json
from functools import lru_cache
from importlib import import_module

import numpy as np
import pytest
import torch

from fromnoise.data.digits import Digits
from fromnoise.data.glyphs import Glyphs
from fromnoise.data.pictures import Folder
from fromnoise.data.shapes import Shapes
from fromnoise.evaluate import Report, evaluate
from fromnoise.evaluate.distances import coverage, frechet, memorisation, near_copies, nearest
from fromnoise.evaluate.judges import FEWEST, ClassJudge, judge_of
from fromnoise.evaluate.real import cover, everything, matched
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
    near = nearest(held_out, train)
    assert memorisation(nearest(train[:50], train), near) == pytest.approx(0, abs=1e-3)
    assert memorisation(nearest(fresh, train), near) == pytest.approx(1, abs=0.15)


def test_near_copies_shows_what_a_median_hides():
    train, held_out, fresh = torch.randn(3, 400, 4)
    mixed = torch.cat([train[:120], fresh[:280]])  # three in ten are copies
    distances = nearest(mixed, train), nearest(held_out, train)
    assert memorisation(*distances) > 0.5
    share, real = near_copies(*distances)
    assert share == pytest.approx(0.3, abs=0.03)
    assert real <= 0.01


def test_matched_takes_as_many_of_each_label_as_are_wanted():
    wanted, labels = torch.tensor([[0], [0], [2]]), torch.tensor([[2], [0], [1], [0], [0], [2]])
    for pick in matched(wanted, labels):
        assert labels[pick].flatten().tolist() == [0, 0, 2]
        assert len(set(pick.tolist())) == 3
    assert len(matched(torch.tensor([[1], [1]]), labels)[0]) == 1  # a class gives all it has, never one twice


def test_cover_cuts_and_does_not_squash():
    image = torch.zeros(1, 1, 8, 16)
    image[..., 4:12] = 1
    assert torch.equal(cover(image, (8, 8)), torch.ones(1, 1, 8, 8))
    assert cover(image, (4, 12)).shape == (1, 1, 4, 12)


@pytest.fixture(scope="module")
def judge():
    return ClassJudge(Digits())


one_judge = lru_cache(judge_of)


@pytest.fixture
def judged_alike(monkeypatch):
    """Evaluations of one data set share their judge, whose fit is most of their time."""
    monkeypatch.setattr(import_module("fromnoise.evaluate.evaluate"), "judge_of", one_judge)


def rows(judge, pick):
    """The judge's rows on training scans picked by ``pick(label, candidates, random)``."""
    train, random = judge.train, np.random.RandomState(0)
    by_label = {label: random.permutation(np.flatnonzero(train.labels == label)) for label in range(10)}
    prompts = judge.prompts(400)
    media = torch.stack([pick(judge.data.label(p)[0], by_label, random, train.media) for p in prompts])
    return {row.name: row.value for row in judge.rows(media, prompts)}


def own(label, by_label, random, media):
    """A scan of the class, another one each time."""
    by_label[label] = np.roll(by_label[label], 1)
    return media[by_label[label][0]]


def test_real_digits_score_as_real(judge):
    found = rows(judge, own)
    assert found["caption accuracy"] >= 0.98
    assert 0.7 < found["Frechet, times the real floor"] < 1.4
    assert found["coverage, worst class"] > 0.8
    assert found["nearest training picture"] == pytest.approx(0, abs=1e-6)  # these are copies, and it says so
    assert found["near copies"] == 1


def test_the_judge_knows_scans_it_never_saw(judge):
    """Training scans, which the judge was not fitted on: what its verdicts are worth."""
    images, text = everything(judge.train, 2000)
    assert len(images) == len(judge.train)
    _, classes = judge.classifier.look(images)
    assert float((classes == judge.labels(text)).double().mean()) >= 0.985


def test_the_order_of_prompts_does_not_matter(judge):
    prompts = judge.prompts(200)
    media = everything(judge.test, 200)[0][:, None] * 0.9
    turned = torch.randperm(200)
    again = judge.rows(media[turned], [prompts[i] for i in turned.tolist()])
    for a, b in zip(judge.rows(media, prompts), again, strict=True):
        assert a.value == pytest.approx(b.value, rel=1e-4, abs=1e-6), a.name
        assert a.real == pytest.approx(b.real, rel=1e-4, abs=1e-6), a.name


def test_too_few_samples_are_said_and_not_measured(judged_alike):
    data = Digits()
    media = data.open("train").media
    few = evaluate(lambda p, s: media[: len(p)], data, count=FEWEST - 1)
    assert not any("Frechet" in row.name or "coverage" in row.name for row in few.rows)
    assert "too few" in few.note
    enough = evaluate(lambda p, s: media[: len(p)], data, count=FEWEST)
    assert any("Frechet" in row.name for row in enough.rows)
    assert "too few" not in enough.note


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_pictures_are_refused_in_a_sentence(bad):
    def sample(prompts, seed):
        media = torch.zeros(len(prompts), 1, 1, 8, 8)
        media[3, 0, 0, 2, 2] = bad
        return media

    with pytest.raises(UserError, match="1 of 30 samples"):
        evaluate(sample, Digits(), count=30)


def test_sampling_is_told_its_seed_and_progress_is_told():
    said, seeds = [], []

    def sample(prompts, seed):
        seeds.append(seed)
        return torch.zeros(len(prompts), 1, 3, 32, 32)

    report = evaluate(sample, Shapes(), count=4, seed=9, progress=said.append)
    assert seeds == [9]
    assert report.settings == {"seed": 9}
    assert said == ["sampling 4 pictures", "measuring", "comparing distributions"]


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


def test_the_judge_is_the_same_whatever_was_drawn_before(judge):
    torch.manual_seed(12345)
    torch.randn(7)
    before = torch.random.get_rng_state()
    again = ClassJudge(Digits()).classifier
    assert torch.equal(torch.random.get_rng_state(), before)  # and fitting one disturbs nobody's draws
    assert all(torch.equal(x, y) for x, y in zip(judge.classifier.parameters(), again.parameters(), strict=True))


def test_oracle_judge_on_true_and_false_pictures():
    data = Shapes()
    source = data.open("test")

    def truth(prompts, seed):
        return source.batch(range(len(prompts)), range(len(prompts))).media

    assert evaluate(truth, data, count=64)["everything right"] == 1.0
    assert evaluate(lambda p, s: truth(p, s).roll(1, 0), data, count=64)["everything right"] < 0.1


def test_oracle_judge_tells_numbers_of_objects_apart():
    data = Shapes(objects=3, fewest=1)
    source = data.open("test")
    media = source.batch(range(30), range(30)).media
    media[1::3] = media[1::3].roll(1, 0)  # what was said of another picture of two
    report = evaluate(lambda prompts, seed: media, data, count=30)
    found = [report[f"everything right, {n}"] for n in ("1 object", "2 objects", "3 objects")]
    assert found[0] == found[2] == 1.0
    assert found[1] < 0.2
    assert report["everything right"] == pytest.approx(sum(found) / 3)


@pytest.fixture(scope="module")
def glyphs():
    return ClassJudge(Glyphs())


@pytest.mark.long
def test_glyph_judge_knows_glyphs_it_never_saw(glyphs):
    for split in ("train", "reference"):
        images, text = everything(glyphs.data.open(split), 10_000)
        right = glyphs.right(glyphs.classifier.look(images)[1], text)
        assert float(right.all(1).double().mean()) >= 0.985, split


@pytest.mark.long
def test_classes_with_one_or_two_pictures_have_no_coverage(glyphs):
    prompts = glyphs.prompts(FEWEST)
    images = everything(glyphs.test, FEWEST)[0]
    found = {row.name: row for row in glyphs.rows(images[:, None], prompts)}
    assert not any("coverage" in name for name in found)
    assert "Frechet distance" in found
    assert all(np.isfinite([row.value, row.real]).all() for row in found.values())


@pytest.mark.long
def test_real_glyphs_score_as_real_and_others_do_not(glyphs):
    prompts = glyphs.prompts(300)
    labels = glyphs.labels(prompts)
    images, text = everything(glyphs.reference, 10_000)
    pool = {tuple(label): [] for label in glyphs.labels(text).tolist()}
    for i, label in enumerate(glyphs.labels(text).tolist()):
        pool[tuple(label)].append(i)
    media = images[[pool[tuple(label)].pop() for label in labels.tolist()]][:, None]
    found = {row.name: row.value for row in glyphs.rows(media, prompts)}
    assert found["caption accuracy"] >= 0.985
    assert 0.5 < found["Frechet, times the real floor"] < 2
    assert 0.8 < found["nearest training picture"] < 1.2  # held out, and not copies
    assert found["near copies"] < 0.1
    trained = everything(glyphs.train, len(prompts))[0][:, None]  # real, but other letters and styles than asked for
    other = {row.name: row.value for row in glyphs.rows(trained, prompts)}
    assert other["caption accuracy"] < 0.1
    assert other["Frechet, times the real floor"] > 10
    assert other["near copies"] == 1


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
    copied = data.open("train").batch([i % len(data.open("train")) for i in range(24)], [0] * 24).media
    assert evaluate(lambda p, s: copied, data, count=24)["near copies"] == 1
    assert report["near copies"] < 0.1
    few = Folder(root=str(tmp_path), resolution=32, held_out=0.1)
    report = evaluate(lambda p, s: torch.zeros(len(p), 1, 3, 32, 32), few, count=30)
    assert [r.name for r in report.rows] == ["diversity"]
    assert "Too few pictures" in report.note
    assert "6 held out" in report.note


def photographs(folder, count, width=64):
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photo = Image.fromarray(load_sample_images().images[0])
    for i in range(count):
        photo.crop((i * 8, i * 5, i * 8 + width, i * 5 + 64)).save(folder / f"{i:02}.png")


def test_a_folder_that_holds_nothing_out_says_so(tmp_path):
    photographs(tmp_path, 45)
    data = Folder(root=str(tmp_path), resolution=32, held_out=0.0)
    report = evaluate(lambda p, s: torch.rand(len(p), 1, 3, 32, 32) * 2 - 1, data, count=30)
    assert [r.name for r in report.rows] == ["diversity"]
    assert "No pictures are held out" in report.note


def test_mirrored_copies_are_copies_where_training_mirrors(tmp_path):
    photographs(tmp_path, 60)
    for flip, expected in ((True, 1.0), (False, 0.0)):
        data = Folder(root=str(tmp_path), resolution=32, held_out=0.4, flip=flip)
        train = Folder(root=str(tmp_path), resolution=32, held_out=0.4).open("train")
        mirrored = train.batch(range(30), [0] * 30).media.flip(-1)
        rows = {r.name: r.value for r in judge_of(data).rows(mirrored, [""] * 30)}
        assert rows["near copies"] == expected


def test_every_report_is_valid_json(judged_alike):
    data = Digits()
    media = data.open("train").media
    for count in (2, FEWEST, 60):
        report = evaluate(lambda p, s: media[: len(p)], data, count=count)
        assert Report.from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False))) == report


def test_report_round_trip_and_bad_counts():
    report = evaluate(lambda p, s: torch.zeros(len(p), 1, 3, 32, 32), Shapes(), count=4)
    assert Report.from_dict(report.to_dict()) == report
    assert report.table().row_count == len(report.rows)
    assert str(report.table().caption).startswith("4 samples.")
    with pytest.raises(UserError):
        evaluate(lambda p, s: torch.zeros(1), Shapes(), count=1)


@pytest.mark.parametrize("data", [Digits(), Shapes()])
def test_an_evaluation_holds_the_panel_against_held_out_pictures(data, judged_alike):
    """Real pictures are not told apart, grey ones are, and the report comes back from JSON as it was."""
    source = data.open("test")
    count = 100
    pictures = source.batch(range(5000, 5000 + count) if data.kind == "shapes" else range(0, 2 * count, 2),
                            range(count)).media
    fine = evaluate(lambda prompts, seed: pictures[: len(prompts)], data, count=count)
    assert fine.panel is not None
    assert {row.space for row in fine.panel.rows} == {"features"}
    grey = evaluate(lambda prompts, seed: pictures[: len(prompts)] * 0.2, data, count=count)
    assert grey.panel is not None
    assert grey.panel.differs
    assert grey["measures far from real"] == len(grey.panel.flagged) > 0
    assert len(fine.panel.flagged) < len(grey.panel.flagged)
    assert Report.from_dict(json.loads(json.dumps(grey.to_dict()))) == grey
    old = {name: value for name, value in grey.to_dict().items() if name != "panel"}  # an evaluation of before
    assert Report.from_dict(old).panel is None
    few = evaluate(lambda prompts, seed: pictures[: len(prompts)], data, count=10)
    assert few.panel is None
