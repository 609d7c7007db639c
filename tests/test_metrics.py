"""Each metric against its slow twin, a closed form or another library; the panel against what was planted."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import energy_distance as energy_1d
from scipy.stats import wasserstein_distance
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel
from sklearn.neighbors import NearestNeighbors

from fromnoise.analytic import anisotropic, ring
from fromnoise.evaluate import METRICS, Panel, Points, panel
from fromnoise.evaluate.defects import DEFECTS
from fromnoise.evaluate.distances import frechet, frechet_infinity, sliced_wasserstein, whitening
from fromnoise.evaluate.points import BANDWIDTHS, NEIGHBOURS
from fromnoise.types import UserError


def normal(n, dim=3, seed=0, mean=0.0, std=1.0):
    random = torch.Generator().manual_seed(seed)
    return mean + std * torch.randn(n, dim, generator=random, dtype=torch.float64)


@pytest.fixture(scope="module")
def sets():
    """Two different sets of unequal size, large enough that rows are worked on in several parts."""
    return normal(700, 4, 1, mean=5.0, std=0.9), normal(600, 4, 2, mean=5.2)


# ---- slow twins -------------------------------------------------------------------------------------


def mean_of_pairs(kernel, a, b):
    """Mean of a kernel over pairs, over different points where both sets are one."""
    found = kernel(a, b)
    if a is not b:
        return found.mean()
    return (found.sum() - np.trace(found)) / (len(a) * (len(a) - 1))


def discrepancy(kernel, a, b):
    return mean_of_pairs(kernel, a, a) + mean_of_pairs(kernel, b, b) - 2 * mean_of_pairs(kernel, a, b)


def euclid(a, b):
    return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))


def test_energy_distance_is_the_double_sum(sets):
    a, b = (x.numpy() for x in sets)
    assert METRICS["energy distance"](*sets) == pytest.approx(-discrepancy(euclid, a, b), rel=1e-9)


def test_mmd_is_the_double_sum(sets):
    a, b = (x.numpy() for x in sets)
    scale = np.median(euclid(b, b)[np.triu_indices(len(b), 1)]) ** 2
    want = np.mean([discrepancy(lambda x, y, s=s: rbf_kernel(x, y, gamma=1 / (2 * s**2 * scale)), a, b)
                    for s in BANDWIDTHS])
    assert METRICS["MMD"](*sets) == pytest.approx(want, rel=2e-3)  # torch's median is the lower of the middle two
    scale = Points(sets[1]).kernel.scale
    want = np.mean([discrepancy(lambda x, y, s=s: rbf_kernel(x, y, gamma=1 / (2 * s**2 * scale)), a, b)
                    for s in BANDWIDTHS])
    assert METRICS["MMD"](*sets) == pytest.approx(want, rel=1e-9)


def test_kid_is_the_double_sum(sets):
    a, b = (x.numpy() for x in sets)
    want = discrepancy(lambda x, y: polynomial_kernel(x, y, degree=3, gamma=1 / 4, coef0=1), a, b)
    assert METRICS["KID"](*sets) == pytest.approx(want, rel=1e-8)


def test_balls_agree_with_scikit_learn(sets):
    a, b = (x.numpy() for x in sets)
    reach = [NearestNeighbors(n_neighbors=NEIGHBOURS).fit(x).kneighbors()[0][:, -1] for x in (a, b)]
    distance = euclid(a, b)
    want = {"precision": (distance <= reach[1]).any(1).mean(),
            "recall": (distance <= reach[0][:, None]).any(0).mean(),
            "density": (distance <= reach[1]).sum() / (NEIGHBOURS * len(a)),
            "coverage": (distance.min(0) <= reach[1]).mean()}
    for name, value in want.items():
        assert METRICS[name](*sets) == pytest.approx(value), name
        assert 0.1 < value < 1.5


def test_float32_is_near_enough_to_float64(sets):
    single = [x.float() for x in sets]
    for name in ("energy distance", "MMD", "KID", "sliced Wasserstein", "Frechet"):
        assert METRICS[name](*single) == pytest.approx(METRICS[name](*sets), rel=1e-3, abs=1e-6), name


@pytest.mark.parametrize(("n", "m"), [(300, 300), (200, 330)])
def test_sliced_wasserstein_against_scipy(n, m):
    a, b = normal(n, 5, 1), normal(m, 5, 2, mean=0.3)
    axes = torch.nn.functional.normalize(
        torch.randn(5, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=0)
    want = np.mean([wasserstein_distance(a @ axis, b @ axis) for axis in axes.T])
    assert sliced_wasserstein(a, b) == pytest.approx(want, rel=1e-9)


# ---- closed forms -----------------------------------------------------------------------------------


def test_energy_distance_of_two_gaussians_on_the_line():
    """E|x - y| of N(m, s^2): s sqrt(2 / pi) exp(-m^2 / 2 s^2) + m erf(m / s sqrt 2)."""
    def mean_abs(m, s):
        return s * math.sqrt(2 / math.pi) * math.exp(-(m**2) / (2 * s**2)) + m * math.erf(m / (s * math.sqrt(2)))

    a, b = normal(8000, 1, 1), normal(8000, 1, 2, mean=0.8, std=1.5)
    want = 2 * mean_abs(0.8, math.hypot(1, 1.5)) - mean_abs(0, math.sqrt(2)) - mean_abs(0, 1.5 * math.sqrt(2))
    found = METRICS["energy distance"](a.float(), b.float())
    assert found == pytest.approx(want, rel=0.06)
    biased = energy_1d(a[:, 0].numpy(), b[:, 0].numpy()) ** 2  # over all pairs, a point with itself too
    assert found == pytest.approx(biased, abs=6e-4)


def test_mmd_of_two_gaussians():
    """E exp(-|x - y|^2 / 2 h) is closed for Gaussians: (h / (h + v))^(D/2) exp(-|m|^2 / 2 (h + v))."""
    a, b, dim = normal(6000, 2, 1), normal(6000, 2, 2, mean=0.5), 2
    scale = Points(b).kernel.scale

    def expected(m2):
        widths = [s**2 * scale for s in BANDWIDTHS]
        return np.mean([(h / (h + 2)) ** (dim / 2) * math.exp(-m2 / (2 * (h + 2))) for h in widths])

    assert METRICS["MMD"](a, b) == pytest.approx(2 * expected(0) - 2 * expected(0.5), rel=0.1)


@pytest.mark.parametrize("name", ["energy distance", "MMD", "KID"])
def test_unbiased_metrics_are_zero_on_average(name):
    found = [METRICS[name](normal(40, 3, 2 * i), normal(40, 3, 2 * i + 1)) for i in range(400)]
    assert abs(np.mean(found)) < 3.5 * np.std(found) / 20
    assert np.min(found) < 0


def test_frechet_of_gaussians_and_at_infinity():
    """Between N(0, I) and N(m, s^2 I): |m|^2 + D (s - 1)^2.  At finite n it is larger; the extrapolation is not."""
    pairs = [(normal(500, 10, 2 * i), normal(500, 10, 2 * i + 1, mean=0.1, std=1.1)) for i in range(30)]
    want = 10 * 0.1**2 + 10 * 0.1**2
    finite, infinite = (np.mean([measure(a, b) for a, b in pairs]) for measure in (frechet, frechet_infinity))
    assert finite > want + 0.05
    assert abs(infinite - want) < 0.3 * (finite - want)
    same = [frechet_infinity(normal(400, 8, 2 * i), normal(400, 8, 2 * i + 1)) for i in range(20)]
    assert abs(np.mean(same)) < 0.1 * frechet(normal(400, 8, 0), normal(400, 8, 1))


def test_sliced_wasserstein_of_a_shift():
    """A shift by v moves every projection by |v . axis|, whose mean on the circle is 2 |v| / pi."""
    x = normal(100, 2)
    assert sliced_wasserstein(x, x + torch.tensor([3.0, 4.0])) == pytest.approx(10 / math.pi, rel=0.1)
    assert sliced_wasserstein(x, x) == 0


def test_whitening_makes_the_reference_white_and_stays_bounded():
    x = normal(500, 6) @ normal(6, 6, 1)
    white = whitening(x)(x)
    torch.testing.assert_close(torch.cov(white.T), torch.eye(6, dtype=torch.float64), atol=1e-8, rtol=0)
    flat = x.clone()
    flat[:, 2] = 1.0  # a pixel that is always the same
    moved = flat.clone()
    moved[:, 2] += 0.01
    assert float((whitening(flat)(moved) - whitening(flat)(flat)).norm(dim=1).max()) < 2


def test_c2st():
    same = METRICS["C2ST"](normal(500, 3, 1), normal(500, 3, 2))
    apart = METRICS["C2ST"](normal(500, 3, 1), normal(500, 3, 2, mean=3.0))
    shape = METRICS["C2ST"](normal(1000, 3, 1, std=0.5), normal(1000, 3, 2))  # no linear classifier sees this
    assert 0.4 < same < 0.6
    assert apart > 0.99
    assert shape > 0.7
    # of N(0, 1) and N(d, 1) on the line the best possible area is Phi(d / sqrt 2)
    best = 0.5 * (1 + math.erf(1.0 / 2))
    assert METRICS["C2ST"](normal(3000, 1, 1), normal(3000, 1, 2, mean=1.0)) == pytest.approx(best, abs=0.02)


def test_metrics_of_what_is_known_of_each_point():
    x = torch.zeros(4, 1)
    a = Points(x, torch.tensor([-1.0, -2.0, -3.0, -4.0]), torch.tensor([0, 0, 1, 3]), torch.ones(4))
    b = Points(x, torch.full((4,), -2.0), torch.tensor([0, 1, 2, 3]), torch.full((4,), 4.0))
    assert METRICS["NLL difference"](a, b) == pytest.approx(0.5)
    assert METRICS["mode frequencies"](a, b) == pytest.approx(0.25)
    assert METRICS["nearest training example"](a, b) == pytest.approx(0.25)
    assert METRICS["near copies"](a, b) == 1
    with pytest.raises(ValueError, match="needs Points with mode"):
        METRICS["mode frequencies"](x, x)


# ---- the panel --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixture():
    return anisotropic(64, modes=16)


def drawn(mixture, count, seed):
    return mixture.sample(count, torch.Generator().manual_seed(seed))[0]


def test_a_panel_flags_what_is_planted_and_nothing_else(mixture):
    """Small sets and few repeats; benchmarks/defects.py has the study at the stated sizes."""
    real, train = drawn(mixture, 1500, 0), drawn(mixture, 300, 1)
    know = {"log_prob": mixture.log_prob, "mode": mixture.mode}
    fine = panel(drawn(mixture, 600, 2), real, train=train, **know)
    assert len(fine.flagged) <= 0.05 * len(fine.rows)
    assert {row.metric for row in fine.rows} == METRICS.keys()
    assert {row.space for row in fine.rows} == {"raw", "whitened"}
    copies = panel(train[torch.arange(600) % 300], real, null_repeats=5, train=train, **know)
    for name in ("near copies, raw", "nearest training example, raw", "coverage, raw", "C2ST, whitened"):
        assert copies[name].z > 5, name
    shrunk = DEFECTS["shrunk by 5 %"].draw(mixture, 750, torch.Generator().manual_seed(3))
    assert panel(shrunk, real, null_repeats=5, **know)["NLL difference"].z > 5


NOTICED = {"one mode of 16 dropped": "mode frequencies", "5 % reweighted": "mode counts",
           "500 samples remembered": "Frechet", "shifted by 5 %": "Frechet"}  # NLL difference notices the rest


@pytest.mark.parametrize("name", DEFECTS)
def test_every_defect_is_flagged_at_its_size(mixture, name):
    """By the cheapest metric that notices it; benchmarks/defects.py has all of them."""
    defect, metric = DEFECTS[name], NOTICED.get(name, "NLL difference")
    real = drawn(mixture, (4 if name == "5 % reweighted" else 2) * defect.size, 10)
    made = defect.draw(mixture, defect.size, torch.Generator().manual_seed(11))
    assert panel(made, real, log_prob=mixture.log_prob, mode=mixture.mode, metrics=[metric]).flagged


def test_true_points_are_not_flagged():
    mixture = anisotropic(16, modes=4)
    rows = [row for i in range(12) for row in
            panel(drawn(mixture, 200, 2 * i), drawn(mixture, 800, 2 * i + 1), log_prob=mixture.log_prob,
                  mode=mixture.mode, metrics=METRICS.keys() - {"C2ST", "nearest training example", "near copies"}).rows]
    assert sum(row.flagged for row in rows) <= 0.05 * len(rows)
    z = torch.tensor([row.z for row in rows])
    assert 0.3 < float(z.std()) < 1.8  # a null is neither too wide nor too narrow
    assert abs(float(torch.tensor([row.z for row in rows if row.better == "lower"]).mean())) < 0.5


def test_only_the_metrics_that_are_asked_for():
    real, made = torch.randn(60, 2), torch.randn(30, 2)
    found = panel(made, real, null_repeats=2, metrics=["KID", "Frechet"])
    assert {row.metric for row in found.rows} == {"KID", "Frechet"}
    assert found["KID, raw"] == panel(made, real, null_repeats=2)["KID, raw"]
    with pytest.raises(UserError, match="no metric 'FID'; there are energy distance"):
        panel(made, real, metrics=["FID"])
    with pytest.raises(UserError, match="near copies cannot be measured without train"):
        panel(made, real, metrics=["near copies"])


def test_every_defect_is_what_it_says(mixture):
    draws = {name: defect.draw(mixture, 8000, torch.Generator().manual_seed(0)) for name, defect in DEFECTS.items()}
    true = mixture.weights
    for name, x in draws.items():
        assert x.shape == (8000, 64), name
        found = torch.bincount(mixture.mode(x), minlength=16) / len(x)
        away = {"one mode of 16 dropped": None, "5 % reweighted": 0.05, "500 samples remembered": None}.get(name, 0.0)
        if away is not None:
            assert float((found - true).abs().sum() / 2) == pytest.approx(away, abs=0.025), name
    missing = torch.bincount(mixture.mode(draws["one mode of 16 dropped"]), minlength=16)
    assert int((missing == 0).sum()) == 1
    assert len(draws["500 samples remembered"].unique(dim=0)) == 500
    values, axes = torch.linalg.eigh(mixture.cov)
    kept = ((draws["high frequencies lost"] - mixture.mean) @ axes).square().mean(0) / values
    torch.testing.assert_close(kept, torch.tensor([0.64] * 32 + [1.0] * 32).double(), atol=0.09, rtol=0)
    for name, ratio in (("shrunk by 5 %", 0.95**2), ("3 % noise added", None)):
        x = draws[name]
        within = (x - mixture.means[mixture.mode(x)]).square().sum(1).mean()
        spread = (mixture.weights * mixture.variances.sum(1)).sum()
        want = spread * ratio if ratio else spread + 64 * 0.03**2 * mixture.cov.diagonal().mean()
        assert float(within) == pytest.approx(float(want), rel=0.015), name
    torch.testing.assert_close(draws["shifted by 5 %"].mean(0) - mixture.mean, torch.full((64,), 0.05).double(),
                               atol=0.05, rtol=0)


def test_the_same_seed_gives_the_same_panel_and_disturbs_nobody():
    mixture = ring()
    real, made = drawn(mixture, 400, 0), drawn(mixture, 150, 1)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = panel(made, real, null_repeats=3, log_prob=mixture.log_prob, seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert panel(made, real, null_repeats=3, log_prob=mixture.log_prob, seed=4) == first
    assert panel(made, real, null_repeats=3, log_prob=mixture.log_prob, seed=5) != first
    assert (first.size, first.reference, first.repeats) == (150, 250, 3)
    assert Panel.from_dict(json.loads(json.dumps(first.to_dict(), allow_nan=False))) == first
    assert first.table().row_count == len(first.rows)
    assert first["NLL difference"].space == "raw"
    with pytest.raises(KeyError, match="energy distance, raw"):
        first["nothing"]


def test_z_says_worse_with_its_sign():
    """Shrinkage raises density: better than real is as wrong, and below 0."""
    mixture = anisotropic(8, modes=4)
    real, made = drawn(mixture, 2000, 0), drawn(mixture, 1000, 1)
    found = panel(mixture.means[mixture.mode(made)] * 0.5 + made * 0.5, real, null_repeats=4, mode=mixture.mode,
                  log_prob=mixture.log_prob)
    assert found["density, raw"].z < -5
    assert found["coverage, raw"].z > 5
    assert found["energy distance, whitened"].z > 5
    assert found["NLL difference"].z > 5
    assert found["NLL difference"].value < 0  # more probable than real points are


def test_random_features_are_the_same_ones_each_time():
    from fromnoise.perception.features import RandomFeatures

    images = torch.rand(4, 3, 16, 16)
    assert torch.equal(RandomFeatures(3).look(images), RandomFeatures(3).look(images))
    assert not torch.equal(RandomFeatures(3).look(images), RandomFeatures(3, seed=1).look(images))


def test_pictures_features_and_a_pixel_that_never_varies():
    from fromnoise.perception.features import RandomFeatures

    random = torch.Generator().manual_seed(0)
    real, made = (torch.rand(n, 1, 8, 8, generator=random) * 2 - 1 for n in (200, 100))
    real[:, :, 0, 0] = made[:, :, 0, 0] = -1
    found = panel(made, real, null_repeats=4, features=RandomFeatures(1).look)
    assert {row.space for row in found.rows} == {"raw", "whitened", "features"}
    assert all(math.isfinite(row.z) for row in found.rows)
    assert len(found.flagged) <= 2
    faint = panel(made * 0.5, real, null_repeats=4, features=RandomFeatures(1).look)
    assert faint["energy distance, features"].z > 5


@pytest.mark.parametrize(("change", "sentence"), [
    ({"generated": torch.zeros(30, 3)}, "generated points have the shape"),
    ({"generated": torch.full((30, 2), torch.nan)}, "NaN"),
    ({"generated": torch.zeros(5, 2)}, "too few"),
    ({"real": torch.zeros(39, 2)}, "too few"),
    ({"null_repeats": 1}, "at least 2 repeats"),
    ({"train": torch.zeros(3, 5)}, "train points have the shape"),
    ({"train": torch.zeros(0, 2)}, "no training examples"),
])
def test_what_cannot_be_measured_is_said(change, sentence):
    given = {"generated": torch.randn(30, 2), "real": torch.randn(60, 2), **change}
    with pytest.raises(UserError, match=sentence):
        panel(**given)


def test_real_points_that_were_trained_on_are_refused():
    real = torch.randn(60, 2)
    with pytest.raises(UserError, match="held out"):
        panel(torch.randn(30, 2), real, train=real)


# ---- the verdict ------------------------------------------------------------------------------------


def test_mode_counts_are_pearsons_statistic():
    from scipy.stats import chi2_contingency

    random = torch.Generator().manual_seed(0)
    a, b = (torch.randint(5, (n,), generator=random) for n in (300, 700))
    found = METRICS["mode counts"](Points(torch.zeros(300, 1), mode=a), Points(torch.zeros(700, 1), mode=b))
    counts = [torch.bincount(x, minlength=5).numpy() for x in (a, b)]
    assert found == pytest.approx(chi2_contingency(counts, correction=False).statistic)


def test_a_row_knows_its_chance_and_the_panel_that_many_rows_are_many_chances():
    """Student's t: with 5 repeats |z| = 2.776 has 5 %; Bonferroni: times the rows."""
    from fromnoise.evaluate.panel import PanelRow, chance

    assert chance(2.776, 5) == pytest.approx(0.05, rel=1e-3)
    assert chance(-2.776, 5) == chance(2.776, 5)
    assert chance(5.0, 8) > 20 * chance(5.0, 64)

    def of(*ps):
        return Panel([PanelRow("KID", "raw", 1.0, 0.0, 1.0, 3.0, p, "lower") for p in ps], 50, 50, 8)

    assert of(0.02, 0.5, 0.9).p == pytest.approx(0.06)
    assert not of(0.02, 0.5, 0.9).differs
    assert "Not told apart" in of(0.02, 0.5, 0.9).verdict
    assert of(0.01, 0.5, 0.9).differs
    assert "most by KID, raw" in of(0.01, 0.5, 0.9).verdict
    assert of(0.5, 0.9).p == 1


def test_the_verdict_accuses_few_true_points_and_all_shrunk_ones():
    mixture = anisotropic(16, modes=4)

    def verdict(i, made):
        return panel(made, drawn(mixture, 600, 2 * i + 1), log_prob=mixture.log_prob, seed=i,
                     metrics=["energy distance", "Frechet", "coverage", "NLL difference"]).differs

    true = [verdict(i, drawn(mixture, 200, 2 * i)) for i in range(20)]
    shrunk = [verdict(i, mixture.means[mixture.mode(x)] * 0.3 + x * 0.7)
              for i, x in ((i, drawn(mixture, 200, 2 * i)) for i in range(3))]
    assert sum(true) <= 3
    assert all(shrunk)


def test_only_the_spaces_that_are_asked_for():
    real, made = torch.randn(60, 2), torch.randn(30, 2)
    found = panel(made, real, null_repeats=2, metrics=["KID"], spaces=["whitened"])
    assert [row.name for row in found.rows] == ["KID, whitened"]
    with pytest.raises(UserError, match="no space 'pixels'"):
        panel(made, real, spaces=["pixels"])
    with pytest.raises(UserError, match="without features"):
        panel(made, real, spaces=["features"])
