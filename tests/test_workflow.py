"""From recipe to page: what the commands do, on a small model."""

import io
import json
import shutil
from dataclasses import replace

import pytest
from PIL import Image
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_train import tiny

from fromnoise import workflow
from fromnoise.data.pictures import Folder
from fromnoise.denoise import Guidance
from fromnoise.evaluate import Report
from fromnoise.generate import load
from fromnoise.nets import house
from fromnoise.process import describe_weighting
from fromnoise.recipe import Evaluation
from fromnoise.recipes import RECIPES
from fromnoise.showing import facts
from fromnoise.train import Interrupted
from fromnoise.train.metrics import read_metrics
from fromnoise.types import UserError
from fromnoise.workflow import evaluate_run, read_previews, read_report, train_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    recipe = replace(tiny(preview_every=6), evaluate=Evaluation(samples=60))
    showcase = train_run(recipe, folder, "fromnoise train digits", Console(quiet=True))
    return folder, recipe, showcase


def test_a_run_has_all_its_parts(run):
    folder, recipe, showcase = run
    for name in ("recipe.json", "model.safetensors", "metrics.jsonl", "evaluation.json", "index.html", "README.md",
                 "training.json", "samples/grid.png", "samples/step-000000.png", "samples/step-000012.png",
                 "checkpoints/step-000012"):
        assert (folder / name).exists(), name
    page = (folder / "index.html").read_text()
    assert "a handwritten seven" in page
    assert "caption accuracy" in page
    assert showcase.weighting.words == describe_weighting(recipe.objective, recipe.path)
    assert showcase.weighting.words in page
    assert showcase.grid.shape[:2] == (10, 8)
    assert showcase.film[0].t == 1
    assert showcase.film[-1].t == 0
    assert [step for step, _ in showcase.previews] == [0, 6, 12]


def test_previews_are_read_back_as_they_were(run):
    folder, _, showcase = run
    model = load(folder)
    again = model.sample(showcase.preview_prompts, seed=0).media
    last = read_previews(model, folder)[-1][1]
    assert float((again - last).abs().max()) < 1 / 127


def test_previews_that_cannot_be_read_are_left_out(run, tmp_path):
    folder, whole = shutil.copytree(run[0], tmp_path / "run"), (run[0] / "samples/step-000006.png").read_bytes()
    samples, model = folder / "samples", load(run[0])
    for name in ("step-by-step.png", "step-.png", "step-1-2.png", "step-².png", "step-000007.png.png"):
        (samples / name).write_bytes(whole)
    (samples / "step-000000.png").write_bytes(whole[:-200])
    (samples / "step-000001.png").write_bytes(b"junk")
    (samples / "step-000002.png").mkdir()
    with Image.open(samples / "step-000006.png") as image:
        image.resize((image.width // 2, image.height)).save(samples / "step-000003.png")
        image.resize((image.width * 2, image.height)).save(samples / "step-000004.png")
        image.convert("RGB").save(samples / "step-000005.png")
    (samples / "step-12345678.png").write_bytes(whole)
    assert [step for step, _ in read_previews(model, folder)] == [6, 12, 12_345_678]
    evaluate_run(folder, samples=30, console=Console(quiet=True))
    assert "12,345,678" in (folder / "index.html").read_text()


def test_damaged_lines_of_metrics_are_left_out(run, tmp_path):
    folder, recipe, showcase = shutil.copytree(run[0], tmp_path / "run"), *run[1:]
    path = folder / "metrics.jsonl"
    bad = [b"5", b"[]", b"null", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"step": 3}', b'{"step": "x", "loss": 1}',
           b'{"step": 1, "loss": null}', b'{"step": 1, "loss": 1, "seconds": "x"}', b'{"step": 12, "lo']
    path.write_bytes(b"\n".join([*bad[:5], *path.read_bytes().splitlines(), *bad[5:]]))
    assert read_metrics(path) == showcase.metrics
    assert train_run(recipe, folder, "fromnoise train", Console(quiet=True)).metrics == showcase.metrics
    path.write_text('{"step": 12, "loss": 1.0}\n')
    assert train_run(recipe, folder, "fromnoise train", Console(quiet=True)).facts["Training time"] == "0 s"


def test_progress_is_told_in_lines_where_there_is_no_terminal(tmp_path, monkeypatch):
    monkeypatch.setattr(workflow, "SAY_EVERY", 0)
    said = io.StringIO()
    recipe = tiny(steps=4)
    workflow._train_with_progress(recipe, tmp_path / "run", Console(file=said, width=200))
    assert f"{recipe.name}: 4/4 steps, loss " in said.getvalue()
    assert "0:00:00 left" in said.getvalue()
    assert "\x1b" not in said.getvalue()


def test_the_same_command_again_does_nothing_twice(run):
    folder, recipe, showcase = run
    before = (folder / "model.safetensors").read_bytes(), (folder / "evaluation.json").read_bytes()
    again = train_run(recipe, folder, "fromnoise train digits", Console(quiet=True))
    assert before == ((folder / "model.safetensors").read_bytes(), (folder / "evaluation.json").read_bytes())
    assert again.report == showcase.report


@pytest.mark.parametrize("header", [
    {"tokenizer": "{"}, {"step": "abc"}, {"step": 13}, {"sha256": ""}, {"step": None}, {"more": "x"}, "[",
    "[]", "[" * 9999,
])
def test_a_damaged_header_of_weights_is_one_sentence(run, tmp_path, header):
    folder = shutil.copytree(run[0], tmp_path / "run")
    path = folder / "model.safetensors"
    with safe_open(path, "pt") as file:
        known = json.loads(file.metadata()["fromnoise"])
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    entry = header if isinstance(header, str) else json.dumps(
        {k: v for k, v in {**known, **header}.items() if v is not None})
    save_file(tensors, path, metadata={"fromnoise": entry})
    with pytest.raises(UserError, match="checksum does not match"):
        load(folder)
    save_file(tensors, path, metadata={"tokenizer": known["tokenizer"], "step": "12", "sha256": known["sha256"]})
    with pytest.raises(UserError, match="was written by an older fromnoise"):
        load(folder)


def test_evaluating_again_updates_report_and_page(run):
    folder, _, _ = run
    report = evaluate_run(folder, samples=40, guidance=6.0, seed=3, console=Console(quiet=True))
    assert report.samples == 40
    saved = json.loads((folder / "evaluation.json").read_text())
    assert saved["samples"] == 40
    assert saved["settings"] == {"samples": 40, "guidance": 6.0, "solver": "dpmpp_2m", "steps": 20, "grid": "uniform",
                                 "shift": 1.0, "seed": 3, "trained_steps": 12}
    assert report.how == "40 samples, dpmpp_2m, 20 steps, guidance 6, seed 3"
    assert report.how in (folder / "index.html").read_text()
    assert report.how.replace("_", r"\_") in (folder / "README.md").read_text()


def test_the_facts_of_the_training_outlive_an_evaluation(run, tmp_path, monkeypatch):
    folder, recipe, showcase = shutil.copytree(run[0], tmp_path / "run"), *run[1:]
    kept = {name: showcase.facts[name] for name in ("Training time", "Peak memory", "Machine", "Software")}
    monkeypatch.setattr(facts, "machine", lambda device: "another machine")
    monkeypatch.setattr(facts, "peak_memory", lambda device: 77 * 2**40)
    evaluate_run(folder, samples=30, console=Console(quiet=True))
    for name in ("index.html", "README.md"):
        text = (folder / name).read_text().replace("\\", "")
        assert all(words in text for words in kept.values()), name
        assert "fromnoise train digits" in text
        assert "-again" not in text
    again = train_run(recipe, folder, "fromnoise train digits --sample.steps 20", Console(quiet=True))
    assert {name: again.facts[name] for name in kept} == kept
    assert again.command == "fromnoise train digits --sample.steps 20"  # the newest, which the recipe now follows


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b"\xff\xfe", b'{"command": 5, "machine": []}'])
def test_damaged_facts_of_the_training_are_left_out(tmp_path, damaged):
    (tmp_path / "training.json").write_bytes(damaged)
    assert workflow.read_training_facts(tmp_path) == {}


def test_without_facts_of_the_training_none_are_made_up(run, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "run")
    (folder / "training.json").unlink()
    evaluate_run(folder, samples=30, console=Console(quiet=True))
    card = (folder / "README.md").read_text()
    assert "Training time" in card
    assert "Peak memory" not in card
    assert "| Machine" not in card
    assert "-again" in card


def test_a_stopped_run_keeps_the_facts_of_its_training(tmp_path, monkeypatch):
    def stopped(recipe, out, hooks, autoencoder):
        raise Interrupted("stopped")

    monkeypatch.setattr(workflow, "train", stopped)
    with pytest.raises(Interrupted):
        train_run(tiny(), tmp_path, "fromnoise train digits", Console(quiet=True))
    assert set(workflow.read_training_facts(tmp_path)) == {"command", "machine", "peak_mebibytes", "software"}


@pytest.mark.parametrize(("change", "said"), [
    (lambda r: replace(r, sample=replace(r.sample, guidance=Guidance(scale=3.0))),
     "60 samples, dpmpp_2m, 20 steps, guidance 3"),
    (lambda r: replace(r, sample=replace(r.sample, solver="euler", steps=4, shift=2.0)),
     "60 samples, euler, 4 steps, guidance 1.15, shift 2"),
    (lambda r: replace(r, evaluate=Evaluation(samples=30, guidance=2.0)),
     "30 samples, dpmpp_2m, 20 steps, guidance 2"),
])
def test_a_finished_run_is_judged_again_with_other_settings(run, tmp_path, change, said):
    folder, recipe, _ = run
    again = change(recipe)
    showcase = train_run(again, shutil.copytree(folder, tmp_path / "run"), "fromnoise train", Console(quiet=True))
    assert showcase.report.how == said
    assert Report.from_dict(json.loads((tmp_path / "run" / "evaluation.json").read_text())) == showcase.report


@pytest.mark.parametrize("damaged", [
    "", "{", "[" * 100_000, "5", "[]", "{}", '{"rows": 1}', b"\xff\xfe",
    '{"rows": [{"name": "x", "value": "no"}], "samples": 60, "note": "", "settings": {}}',
    '{"rows": [{"name": "x"}], "samples": 60, "note": "", "settings": {}}',
])
def test_a_damaged_evaluation_is_none(tmp_path, damaged):
    (tmp_path / "evaluation.json").write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    assert read_report(tmp_path) is None


def test_a_run_with_a_damaged_evaluation_is_judged_again(run, tmp_path):
    folder, recipe, showcase = run
    path = shutil.copytree(folder, tmp_path / "run") / "evaluation.json"
    path.write_bytes(path.read_bytes()[:100])
    again = train_run(recipe, tmp_path / "run", "fromnoise train", Console(quiet=True))
    assert again.report == showcase.report == read_report(tmp_path / "run")


def test_own_photographs_end_to_end(tmp_path):
    from PIL import Image
    from sklearn.datasets import load_sample_images

    for name, photo in zip(("temple", "flower"), load_sample_images().images, strict=True):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(8):
            w, h = (120, 120) if i % 2 else (160, 100)
            crop = photo[20 * i : 20 * i + h, 30 * i : 30 * i + w]
            Image.fromarray(crop).save(tmp_path / "photos" / name / f"{i}.jpg")
    base = RECIPES["image"]()
    recipe = replace(
        base, data=Folder(root=str(tmp_path / "photos"), resolution=32), evaluate=Evaluation(samples=16),
        net=house(width=32, depth=1, positions="rotary"),
        train=replace(base.train, steps=6, batch=4, threads=1, preview_every=3))
    showcase = train_run(recipe, tmp_path / "run", "fromnoise train image", Console(quiet=True))
    assert set(showcase.prompts) == {"temple", "flower"}
    assert load(tmp_path / "run").sample("temple", size=(24, 40), steps=2).media.shape == (1, 1, 3, 24, 40)


@pytest.mark.parametrize("name", RECIPES)
def test_named_recipes_say_what_they_are_and_survive_json(name, tmp_path):
    from fromnoise.recipe import load_recipe

    recipe = RECIPES[name]()
    assert recipe.name == name
    assert RECIPES[name].__doc__
    recipe.save(tmp_path / "recipe.json")
    assert load_recipe(tmp_path / "recipe.json") == recipe
