"""Post-hoc averages against averages of that width kept all along."""

from __future__ import annotations

import json
from dataclasses import replace
from shutil import rmtree
from typing import Any

import pytest
import torch

from fromnoise.cli import main
from fromnoise.generate import load
from fromnoise.latents import KL
from fromnoise.nets import UNet
from fromnoise.opening import open_autoencoder, with_autoencoder
from fromnoise.recipe import Coder, Recipe, Schedule, Training, load_recipe
from fromnoise.recipes import digits
from fromnoise.text import Trained
from fromnoise.train import Hooks, train
from fromnoise.train.checkpoint import list_checkpoints
from fromnoise.train.ema import Ema, gamma_of
from fromnoise.train.snapshots import BINS, Snapshots, list_snapshots, mixture, profiles, reconstruct
from fromnoise.types import UserError
from fromnoise.weights import load_weights


def walk(steps: int) -> torch.Tensor:
    """A random walk that slows down, as weights do: ``[steps, 40]``."""
    random = torch.Generator().manual_seed(0)
    return (torch.randn(steps, 40, generator=random) / torch.arange(1, steps + 1)[:, None] ** 0.5).cumsum(0)


def averaged(path: torch.Tensor, sigma_rel: float) -> torch.Tensor:
    """The average of that width, kept all along."""
    ema = Ema([path[0]], sigma_rel)
    for step, weights in enumerate(path, 1):
        ema.update([weights], step)
    return ema.tensors[0]


def test_profiles_are_what_the_updates_come_to():
    """Each step's share in an average of one-hot weights."""
    steps, width = 30, 0.12
    shares = averaged(torch.eye(steps, dtype=torch.float64), width)
    edges = torch.arange(steps + 1, dtype=torch.float64)
    torch.testing.assert_close(profiles(edges, [(steps, gamma_of(width))])[0], shares)
    earlier = averaged(torch.eye(steps, dtype=torch.float64)[:20], width)
    torch.testing.assert_close(profiles(edges, [(20, gamma_of(width))])[0], earlier)


@pytest.mark.parametrize(("sigma_rel", "close"), [(0.05, 1e-6), (0.075, 5e-3), (0.12, 5e-3), (0.15, 1e-2),
                                                    (0.2, 3e-2)])
def test_any_width_from_snapshots_of_two(sigma_rel, close, tmp_path):
    """Wide averages reach back to before the first snapshot, and are met less closely."""
    path = walk(400)
    snapshots = Snapshots(tmp_path, ["w"], [path[0]], count=16, steps=400)
    for step, weights in enumerate(path, 1):
        snapshots.take([weights], step)
    found, step, error = reconstruct(tmp_path, sigma_rel)
    wanted = averaged(path, sigma_rel)
    assert step == 400
    assert error < close
    spread = float((path[-1] - wanted).norm())  # how much it matters which average is taken
    assert float((found["w"] - wanted).norm()) < max(close, 1e-5) * spread
    middle, _, _ = reconstruct(tmp_path, sigma_rel, step=300)
    assert float((middle["w"] - averaged(path[:300], sigma_rel)).norm()) < 2 * max(close, 1e-5) * spread


def test_long_trainings_are_put_into_bins():
    snapshots = [(step, width) for step in range(25_000, 400_001, 25_000) for width in (0.05, 0.1)]
    weights, error = mixture(snapshots, 400_000, 0.15)
    assert error < 1e-2
    assert float(weights.sum()) == pytest.approx(1, abs=1e-3)
    coarse, _ = mixture([(step // 100, width) for step, width in snapshots], 4_000, 0.15)
    assert BINS > 4_000
    torch.testing.assert_close(weights, coarse, atol=0.05, rtol=0.05)


# ---- runs ------------------------------------------------------------------------------------------


def tiny(**training) -> Recipe:
    settings = {"steps": 12, "batch": 8, "threads": 1, "checkpoint_every": 4, "preview_every": 0, "snapshots": 6,
                **training}
    return replace(digits(), net=UNet(width=8, multipliers=(1, 2)), text=Trained(width=16, max_length=16),
                   train=Training(**settings))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out, said = tmp_path_factory.mktemp("runs") / "digits", []
    train(tiny(), out, Hooks(message=said.append))
    assert "6 snapshots of two averages will take" in said[0]
    return out


def test_a_run_keeps_as_many_snapshots_as_it_says(run):
    assert [step for step, _ in list_snapshots(run)] == [2, 4, 6, 8, 10, 12]
    weights = (run / "model.safetensors").stat().st_size
    assert list_snapshots(run)[0][1].stat().st_size == pytest.approx(2 * weights, rel=0.2)


def test_the_width_of_the_run_comes_back(run):
    """Its own average has the width 0.1, which is one of those tracked."""
    tensors, step, error = reconstruct(run, 0.1)
    kept = load_weights(run)[0]
    assert (step, error < 1e-6, tensors.keys()) == (12, True, kept.keys())
    assert all(torch.allclose(tensors[name], kept[name], atol=1e-5) for name in kept)


def test_snapshots_after_a_resume_are_the_same(run, tmp_path):
    train(tiny(), tmp_path)
    before = {step: path.read_bytes() for step, path in list_snapshots(tmp_path)}
    assert before == {step: path.read_bytes() for step, path in list_snapshots(run)}
    rmtree(list_checkpoints(tmp_path / "checkpoints")[0][1])  # back to step 8
    for step, path in list_snapshots(tmp_path):
        if step > 8:
            path.write_bytes(b"of what was lost")
    train(tiny(), tmp_path)
    assert before == {step: path.read_bytes() for step, path in list_snapshots(tmp_path)}


def test_ema_writes_a_run_of_that_width(run, tmp_path, capsys):
    assert main(["ema", str(run), "--sigma-rel", "0.15", "--out", str(tmp_path / "wide")]) == 0
    assert "profile is met to" in capsys.readouterr().out
    assert load_recipe(tmp_path / "wide" / "recipe.json").train.ema == 0.15
    made = load_weights(tmp_path / "wide")[0]
    wanted = reconstruct(run, 0.15)[0]
    assert all(torch.equal(made[name], wanted[name]) for name in wanted)
    assert load(tmp_path / "wide", "cpu").step == 12
    assert main(["ema", str(run), "--out", str(tmp_path / "wide")]) == 2
    assert "there already" in capsys.readouterr().err


def test_averages_of_runs_with_autoencoders_are_whole(tmp_path):
    """That of an autoencoder has statistics of its own, and that of a latent run keeps its autoencoder."""
    spec = KL(channels=2, widths=(8, 8), depth=1, groups=4, attention=False)
    short: dict[str, Any] = {"steps": 4, "batch": 4, "threads": 1, "preview_every": 0, "snapshots": 2}
    train(Coder(name="ae", data=digits().data, latents=spec, train=Schedule(**short)), tmp_path / "ae")
    assert main(["ema", str(tmp_path / "ae"), "--sigma-rel", "0.15", "--out", str(tmp_path / "wide")]) == 0
    found = [json.loads((tmp_path / name / "statistics.json").read_text()) for name in ("ae", "wide")]
    assert found[0]["std"] != found[1]["std"]
    assert found[1]["std"] == pytest.approx(found[0]["std"], rel=0.1)
    latent = with_autoencoder(replace(tiny(), train=Training(**short)), tmp_path / "wide")
    train(latent, tmp_path / "latent", autoencoder=lambda: open_autoencoder(tmp_path / "wide")[1])
    assert main(["ema", str(tmp_path / "latent"), "--sigma-rel", "0.15", "--out", str(tmp_path / "other")]) == 0
    before, after = (load(tmp_path / name, "cpu").system.frozen() for name in ("latent", "other"))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_what_cannot_be_averaged_is_said(run, tmp_path):
    with pytest.raises(UserError, match=r"train.snapshots"):
        reconstruct(tmp_path, 0.1)
    with pytest.raises(UserError, match="from step 2 to 12"):
        reconstruct(run, 0.1, step=13)
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "step-000005.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="damaged"):
        reconstruct(tmp_path, 0.1)
    with pytest.raises(UserError, match="another recipe"):
        train(tiny(snapshots=0), run)


def test_without_snapshots_nothing_is_kept(tmp_path):
    train(tiny(snapshots=0, steps=4), tmp_path)
    assert not (tmp_path / "snapshots").exists()
    names = {p.stem for p in (list_checkpoints(tmp_path / "checkpoints")[0][1]).glob("*.safetensors")}
    assert names == {"weights", "ema", "optimizer"}
