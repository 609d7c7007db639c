"""Models of others by name: where they are looked for, and what is said at once where they cannot be had."""

import socket

import pytest

from fromnoise import folders
from fromnoise.cli import main
from fromnoise.folders import reachable, whereabouts
from fromnoise.recipe import Coder, Training, named_outside
from fromnoise.recipes import digits, shapes_kl
from fromnoise.terms import Hub, Repa, Run
from fromnoise.types import UserError

hub = pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture
def direct(monkeypatch):
    """No proxy, and no word of the environment that everything is offline."""
    monkeypatch.setattr(folders, "getproxies", dict)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_the_hub_is_asked_whether_it_is_there(direct, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert reachable()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert not reachable()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert not reachable()
    monkeypatch.setattr(folders, "getproxies", lambda: {"http": "http://somewhere"})
    assert reachable()


@pytest.mark.parametrize("away", [True, False])
def test_what_is_cached_is_taken_from_there_and_what_is_not_is_asked_for(direct, monkeypatch, tmp_path, away):
    monkeypatch.setattr(folders, "reachable", lambda: not away)
    assert whereabouts(str(tmp_path)) == {"local_files_only": True}
    with pytest.raises(UserError, match="cannot be a hub id"):
        whereabouts(str(tmp_path / "none"))
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda name, file: f"{name}/{file}")
    assert whereabouts("owner/name") == {"local_files_only": away}
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda name, file: None)
    if not away:
        assert whereabouts("owner/name") == {"local_files_only": False}
        return
    with pytest.raises(UserError, match=r"owner/name cannot be had: .* Go online once, or name a folder"):
        whereabouts("owner/name")


def test_training_names_what_it_reads_from_outside():
    alone = Repa(weight=0.5, teacher=Hub(model="owner/teacher"))
    assert named_outside(shapes_kl()) == named_outside(digits()) == []
    assert named_outside(digits().__class__(name="a", data=digits().data, train=Training(repa=alone))) == [
        "owner/teacher"]
    by_a_run = Training(repa=Repa(weight=0.5, teacher=Run(run="runs/a")))
    assert named_outside(digits().__class__(name="a", data=digits().data, train=by_a_run)) == []
    assert named_outside(Coder(name="a", data=shapes_kl().data, latents={"kind": "representation", "encoder": "o/e"})
                         ) == ["o/e"]


def test_an_encoder_that_is_nowhere_is_refused_before_anything_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(folders, "reachable", lambda: False)
    out = str(tmp_path / "run")
    assert main(["train", "shapes-kl", "--latents", "representation", "--latents.encoder", "o/e", "--out", out]) == 2
    said = capsys.readouterr().err
    assert said.startswith("fromnoise: o/e cannot be had")
    assert not (tmp_path / "run").exists()


def test_a_misspelt_kind_of_latents_is_told(tmp_path, capsys):
    assert main(["train", "shapes", "--latents", "klx", "--out", str(tmp_path / "run")]) == 2
    assert 'There is no folder klx. Did you mean the kind of latents "kl"?' in capsys.readouterr().err
    assert main(["train", "shapes", "--latents", "runs/nowhere", "--out", str(tmp_path / "run")]) == 2
    assert "An autoencoder is named by a run folder" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "words"), [
    (["--jobs", "0"], "--jobs should be a whole number"), (["--seeds", "x"], "--seeds should be a whole number"),
    (["--operations", "0"], "--operations should be a positive number"),
    (["--parameters", "none"], "--parameters should be a positive number")])
def test_a_comparison_looks_at_its_numbers_first(option, words, capsys):
    """Before the recipe, which is none."""
    assert main(["compare", "nothing", "a", "b", *option]) == 2
    assert words in capsys.readouterr().err
