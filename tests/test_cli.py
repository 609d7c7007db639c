"""The command line: what is set is what is trained, and every mistake is one sentence with exit code 2."""

import json
import os
import subprocess
import sys
from dataclasses import is_dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from fromnoise import workflow
from fromnoise.cli import COMMANDS, main
from fromnoise.cli.fields import defaults, hints, kinds, meanings
from fromnoise.cli.options import parse
from fromnoise.cli.sample import columns_of
from fromnoise.cli.train import describe, resolve
from fromnoise.config import spec, to_dict
from fromnoise.nets import house
from fromnoise.nets.trunk import Rotary
from fromnoise.recipe import Recipe, recipe_dict
from fromnoise.recipes import RECIPES, digits
from fromnoise.types import UserError

TINY = ["--train.steps", "4", "--train.batch", "8", "--train.threads", "1", "--train.preview-every", "0",
        "--net.width", "8", "--net.multipliers", "1", "2", "--text.width", "16", "--evaluate.samples", "20"]


def refused(capsys, *argv: str) -> str:
    """The one sentence with which a command line is refused."""
    capsys.readouterr()
    assert main(argv) == 2
    printed = capsys.readouterr()
    *_, last = printed.err.splitlines()
    assert last.startswith("fromnoise: ")
    assert "Traceback" not in printed.err
    return last


# ---- the front ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(argv, capsys):
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert all(f"  {command} " in printed for command in COMMANDS)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("fromnoise 0.")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"usage: fromnoise {command}" in capsys.readouterr().out


def test_unknown_command_names_the_nearest(capsys):
    assert 'Did you mean "sample"?' in refused(capsys, "smaple")
    assert "doctor" in refused(capsys, "xyzzy")


def test_recipes_are_listed_with_what_they_are(capsys):
    assert main(["recipes"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in RECIPES)
    assert "Handwritten digits" in printed


def test_doctor_says_what_is_there_and_what_extras_are_for(capsys):
    import torch

    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert torch.__version__ in printed
    assert "cpu" in printed
    assert "TensorBoard" in printed


def test_doctor_names_what_is_missing():
    from packaging.requirements import Requirement

    from fromnoise.cli.doctor import faults

    assert faults([Requirement("no-such-package>=1"), Requirement("torch>=2.6")]) == ["no-such-package"]
    assert faults([Requirement("torch<1")])[0].startswith("torch 2")


@pytest.mark.parametrize("argv", [["\udcff"], ["sample", "runs/d", "\udcff"], ["train", "digits", "--name", "\udcff"]])
def test_bytes_that_are_not_text_are_refused(argv, capsys):
    assert "\\udcff' is not text in UTF-8" in refused(capsys, *argv)


@pytest.mark.parametrize(("field", "choice"), [
    (["--objective.max-weight", "9"], []), (["--text.vocabulary", "300"], ["--text.tokenizer", "bytes"]),
    (["--train.optimizer.muon-lr", "0.1"], ["--train.optimizer.matrices", "adamw"]),
    (["--sample.shift", "2"], ["--sample.solver", "auto"]), (["--sample.grid", "karras"], ["--sample.solver", "rk45"]),
    (["--sample.steps", "7"], ["--sample.solver", "rk45"]),
])
def test_a_field_without_effect_is_said(field, choice, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(workflow, "train_run", lambda *_: SimpleNamespace(report=None))
    assert main(["train", "digits", "--out", str(tmp_path), *choice, *field]) == 0
    assert f"{field[0]} has no effect here: " in capsys.readouterr().err
    assert main(["train", "digits", "--out", str(tmp_path), "--train.steps", "3"]) == 0
    assert "no effect" not in capsys.readouterr().err


@pytest.mark.parametrize(("prompts", "columns"), [
    (["a", "a", "a", "b", "b", "b"], 3), (["a", "a", "b"], None), (["a", "b"], None), (["a"] * 4, None),
])
def test_each_prompt_has_its_rows(prompts, columns):
    assert columns_of(prompts) == columns


def test_a_prompt_in_place_of_a_run_or_a_recipe_is_no_bug(capsys):
    for command in ("sample", "train"):
        assert "File name too long" in refused(capsys, command, "a handwritten seven " * 20)


def test_a_bug_is_raised_for_developers_and_kept_in_a_file_for_users(monkeypatch, capsys, tmp_path):
    def broken(argv):
        raise ZeroDivisionError("not the user's fault \udcff")

    monkeypatch.setattr("fromnoise.cli.recipes.main", broken)
    with pytest.raises(ZeroDivisionError):
        main(["recipes"])
    monkeypatch.delenv("FROMNOISE_DEBUG")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["recipes"]) == 1
    assert "bug" in capsys.readouterr().err
    (kept,) = tmp_path.iterdir()
    assert "ZeroDivisionError: not the user's fault" in kept.read_text(encoding="utf-8")


@pytest.mark.parametrize(("error", "code", "words"), [
    (KeyboardInterrupt(), 130, "Stopped."),
    (MemoryError(), 2, "not enough memory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "not enough memory"),
    (OSError(28, "No space left on device", "x.png"), 2, "x.png: No space left on device"),
    (NotADirectoryError(20, "Not a directory", "notes.txt"), 2, "notes.txt: Not a directory"),
    (IsADirectoryError(21, "Is a directory", "runs"), 2, "runs: Is a directory"),
    (FileExistsError(17, "File exists", "notes.txt"), 2, "notes.txt: File exists"),
])
def test_what_is_not_a_bug_is_one_sentence(error, code, words, monkeypatch, capsys):
    def broken(argv):
        raise error

    monkeypatch.setattr("fromnoise.cli.recipes.main", broken)
    assert main(["recipes"]) == code
    assert words in capsys.readouterr().err


def test_an_ending_process_does_not_tidy_its_memory_first():
    code = ("import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 0)); "
            "from fromnoise.cli import main; main(['--version'])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True"


@pytest.mark.parametrize(("name", "words"), [("empty.csv", "holds no actions"), ("words.csv", "cannot be read"),
                                            ("none.npy", "There is no file")])
def test_a_file_without_actions_is_one_sentence(name, words, tmp_path, recwarn):
    from fromnoise.cli.acting import actions_of

    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "words.csv").write_text("left\nright\n")
    with pytest.raises(UserError, match=words):
        actions_of(str(tmp_path / name))
    assert not recwarn


def test_a_closed_pipe_is_quiet():
    command = f"{sys.executable} -m fromnoise --help | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# ---- fields of a recipe ---------------------------------------------------------------------------------


def recipe_of(*argv: str) -> Recipe:
    return resolve(list(argv))[0]


def test_without_arguments_it_is_the_named_recipe():
    for name, make in RECIPES.items():
        recipe, named, out = resolve([name])
        assert recipe == named == make()
        assert out == Path("runs") / name


def test_fields_are_set():
    recipe = recipe_of("digits", "--train.steps", "500", "--train.batch=32", "--net.width", "64", "--seed", "1",
                       "--train.optimizer.betas", "0.8", "0.95", "--evaluate.guidance", "3",
                       "--objective.no-stratified", "--train.text_dropout", "0.2", "--net.multipliers", "1", "3")
    assert (recipe.train.steps, recipe.train.batch, recipe.net.width, recipe.seed) == (500, 32, 64, 1)
    assert recipe.train.optimizer.betas == (0.8, 0.95)
    assert recipe.evaluate.guidance == 3.0
    assert recipe.objective.stratified is False
    assert recipe.train.text_dropout == 0.2
    assert recipe.net.multipliers == (1, 3)
    assert recipe.data == RECIPES["digits"]().data


def test_a_switch_may_be_told_its_value():
    for said, stratified in ((["--objective.stratified", "true"], True), (["--objective.stratified=false"], False),
                             (["--objective.stratified", "False", "--seed", "3"], False)):
        assert recipe_of("digits", *said).objective.stratified is stratified
    # a text that reads so is left alone
    assert recipe_of("digits", "--objective.stratified", "--name", "true").name == "true"


def test_out_is_not_part_of_the_recipe():
    recipe, named, out = resolve(["digits", "--out", "elsewhere/x"])
    assert out == Path("elsewhere/x")
    assert recipe == named
    assert type(recipe) is Recipe


def test_a_kind_starts_from_its_own_defaults_and_its_fields_follow():
    recipe = recipe_of("digits", "--net.single", "3", "--net", "trunk", "--path", "cosine",
                       "--objective.times=uniform")
    assert (recipe.net.kind, recipe.net.single, recipe.path.kind) == ("trunk", 3, "cosine")
    assert recipe.net.patch == defaults(type(recipe.net))["patch"]
    assert to_dict(recipe.objective.times) == {"kind": "uniform"}


def test_a_name_is_what_its_function_makes_and_every_field_follows():
    assert recipe_of("digits", "--net", "transformer").net == house()
    said = ["--net.depth=3", "--net.heads", "6", "--net", "transformer", "--net.no-pooled-text", "--net.positions",
            "rotary", "--net.width", "72", "--net.text.clean"]
    made = house(depth=3, heads=6, pooled_text=False)
    assert recipe_of("digits", *said).net == replace(
        made, width=72, positions=Rotary(), text=replace(made.text, clean=True))


def test_naming_the_kind_that_is_there_changes_nothing():
    assert recipe_of("digits", "--net", "unet") == RECIPES["digits"]()


def test_a_folder_can_be_named_as_the_data():
    recipe = recipe_of("image", "--data", "./photos", "--data.resolution", "32")
    assert (recipe.data.kind, recipe.data.root, recipe.data.resolution) == ("folder", "./photos", 32)
    assert recipe_of("digits", "--data=/pictures").data.root == "/pictures"


def test_train_takes_a_recipe_file_and_a_run_folder(tmp_path):
    recipe = recipe_of("digits", "--seed", "9")
    recipe.save(tmp_path / "recipe.json")
    again, named, out = resolve([str(tmp_path / "recipe.json"), "--train.steps", "3"])
    assert (again.seed, again.train.steps, named, out) == (9, 3, recipe, Path("runs/digits"))
    assert resolve([str(tmp_path)])[2] == tmp_path


@pytest.mark.parametrize("name", ["/tmp/x", "../x", "..", ".", "", " ", "a\\b", "a\0b", "x" * 300])
def test_a_recipe_cannot_send_its_run_out_of_runs(name, capsys, tmp_path):
    (tmp_path / "evil.json").write_text(json.dumps({**recipe_dict(digits()), "name": name}))
    assert "evil.json: name: should be a plain name" in refused(capsys, "train", str(tmp_path / "evil.json"))
    assert "--name should be a plain name" in refused(capsys, "train", "digits", f"--name={name}")


@pytest.mark.parametrize(("argv", "words"), [
    ("digts", 'Did you mean "digits"?'),
    ("nowhere.json", "There is no file nowhere.json"),
    ("", "Name a recipe first"),
    ("--seed 1 digits", "Name a recipe first"),
    ("digits --net.widht 3", "Did you mean --net.width?"),
    ("digits --steps 3", "Did you mean --train.steps or --sample.steps?"),
    ("digits --net.depth 3", "--net.depth goes with --net transformer"),
    ("digits --objective.times uniform --objective.times.std 3", "goes with --objective.times lognormal"),
    ("digits --net transfomer", 'Did you mean "transformer"?'),
    ("digits --data shape", 'Did you mean "shapes"?'),
    ("digits --path", "--path needs a value: one of flow, trigonometric, cosine"),
    ("digits --data folder", "--data.root must be given"),
    ("shapes-kl --latents ./vae", '--latents cannot be "./vae"'),
    ("shapes-kl --latents foreign", "--latents.name must be given"),
    ("shapes-kl --latents dc --latents.widths 16 24", "decoder's levels as widths."),
    ("shapes --latents {tmp}/nothing", "nothing. An autoencoder is named by a run folder"),
    ("{tmp}/wrong.json", "wrong.json: net.width: Input should be greater than or equal to 8 (got -8)"),
    ("digits --train.batch 0", "--train.batch should be greater than 0 (got 0)"),
    ("digits --net.width wide", "--net.width should be a valid integer (got wide)"),
    ("shapes --net.depth 3", "--net.depth goes with --net transformer, and this is trunk"),
    ("digits --net transformer --net.depth many", "--net transformer: depth: Input should be a valid integer"),
    ("digits --net transformer --net.width 3", "--net.width should be greater than or equal to 16 (got 3)"),
    ("digits --train.optimizer.lr nan", "--train.optimizer.lr should be a finite number (got nan)"),
    ("digits --objective.times.mean inf", "--objective.times.mean should be a finite number (got inf)"),
    ("image", "Which folder are the pictures in? Add --data"),
    ("digits --sample.solver eulr", 'Did you mean "euler"?'),
    ("digits --train.optimizer.betas 0.9", "Missing value for argument '--train.optimizer.betas'"),
    ("digits --train.optimizer.betas 0.9 1.5", "--train.optimizer.betas should be less than 1 (got 1.5)"),
    ("digits --train.optimizer.betas 1.0 0.9", "--train.optimizer.betas should be less than 1 (got 1.0)"),
    ("digits --train.optimizer.betas -0.1 0.9", "--train.optimizer.betas should be greater than or equal to 0"),
    ("digits --train.steps", "Missing value for argument '--train.steps'"),
    ("digits --train.steps 3 4", '"4" is not understood here'),
    ("digits --out=", "--out should have at least 1 character"),
    ("digits more", '"more" is not understood here'),
    ("digits --seed 3.5 --train.batch -1", "--train.batch should be greater than 0 (got -1); --seed should be"),
    ("digits --train.device tpu --out {tmp}/a", '"tpu" is not a device'),
    ("image --data {tmp}/nowhere --out {tmp}/b", "nowhere"),
    ("digits --net transformer --net.width 30 --out {tmp}/c", "net.width 30 is not a multiple of net.attention.heads"),
])
def test_mistakes_are_one_sentence(argv, words, capsys, tmp_path):
    wrong = recipe_dict(digits())
    wrong["net"]["width"] = -8
    (tmp_path / "wrong.json").write_text(json.dumps(wrong))
    assert words in refused(capsys, "train", *argv.format(tmp=tmp_path).split())


@pytest.mark.parametrize("name", ["image", "video", "world"])
@pytest.mark.parametrize(("data", "words"), [
    ([], "Which folder are the "), (["--data", "./nowhere"], "There is no folder nowhere")])
def test_data_that_are_not_there_are_said_before_the_recipe(name, data, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", name, *data]) != 0
    said = capsys.readouterr().err
    assert said.startswith(f"fromnoise: {words}")
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("form", "words"), [
    (0, "recipe format 0, which is not known here"), ("x", "recipe format 'x', which"), (True, "format True"),
    (None, "format None"), (99, "was written by a newer fromnoise"),
])
def test_recipe_formats_that_are_not_known(form, words, capsys, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps({**recipe_dict(digits()), "format": form}))
    assert words in refused(capsys, "train", str(tmp_path / "r.json"))


@pytest.mark.parametrize("name", RECIPES)
def test_help_lists_every_field_with_its_value_and_meaning(name, capsys):
    assert main(["train", name, "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())

    def check(spec, prefix):
        for field in hints(type(spec)):
            value = getattr(spec, field)
            if is_dataclass(value):
                check(value, f"{prefix}{field}.")
            elif field != "kind":
                assert f"--{prefix}{field}".replace("_", "-") in printed
                assert " ".join(meanings(type(spec))[field].split()[:3]) in printed

    recipe = RECIPES[name]()
    check(recipe, "")
    assert f"(default: {recipe.train.steps})" in printed
    for field in ("data", "net" if isinstance(recipe, Recipe) else "latents"):
        assert f"--{field} {{{','.join(kinds(hints(type(recipe))[field]))}}}" in printed
    assert ".kind" not in printed


def test_the_resolved_recipe_marks_what_was_changed():
    from rich.console import Console

    recipe, named, out = resolve(["digits", "--train.steps", "7", "--path", "cosine"])
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(describe(recipe, named, out))
    printed = console.export_text()
    assert f"steps 7 (was {named.train.steps})" in printed
    assert "cosine (was flow)" in printed
    assert printed.count("(was") == 2


# ---- forms in general -----------------------------------------------------------------------------------


@spec
class Round:
    """A round one."""

    kind: Literal["round"] = "round"
    radius: float = 1.0
    """How far out."""


@spec
class Sharp:
    """A sharp one."""

    kind: Literal["sharp"] = "sharp"


@spec
class Square:
    """A square one."""

    kind: Literal["square"] = "square"
    side: Annotated[int, Field(gt=0)] = 2
    """How long."""
    corner: Annotated[Sharp | Round, Field(discriminator="kind")] = Sharp()


@spec
class Holder:
    """Holds one."""

    shape: Annotated[Round | Square, Field(discriminator="kind")] = Round()
    label: str = "a"
    """What it is called."""
    limit: int | None = None
    """How many."""


def test_a_kind_within_a_kind_may_come_first():
    held = parse(Holder, ["--shape.corner.radius", "5", "--shape.corner", "round", "--shape", "square"], "x")
    assert held == Holder(shape=Square(corner=Round(radius=5)))


def test_values_that_look_like_options_or_nothing():
    assert parse(Holder, ["--label", "none"], "x").label == "none"
    assert parse(Holder, ["--limit", "none"], "x", {**defaults(Holder), "limit": 3}).limit is None
    assert parse(Holder, ["--limit", "-3"], "x").limit == -3
    assert parse(Holder, ["--label", ""], "x").label == ""


WORDS = ["--shape", "--shape.corner", "--shape.kind=square", "square", "round", "--shape.side", "--shape.radius",
         "--label", "--limit", "7", "-1", "=", "--", "-"]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=5), max_size=5))
def test_any_arguments_are_understood_or_refused_in_a_sentence(args):
    try:
        assert isinstance(parse(Holder, args, "x"), Holder)
    except UserError as e:
        assert str(e)  # noqa: PT017
    except SystemExit as e:
        assert e.code == 0  # noqa: PT017
        assert {"-h", "--help"} & set(args)


# ---- a run, from training to replay ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "digits", "--out", str(out), *TINY]) == 0
    return out


def test_training_leaves_a_whole_run_folder(run):
    names = {p.name for p in run.iterdir()}
    assert {"recipe.json", "model.safetensors", "metrics.jsonl", "samples", "index.html", "README.md"} <= names
    assert json.loads((run / "recipe.json").read_text())["train"]["steps"] == 4


def test_samples_do_not_overwrite_each_other_and_can_be_made_again(run, capsys, tmp_path):
    for number in (1, 2):
        assert main(["sample", str(run), "a handwritten seven", "3", "--n", "2", "--seed", "5", "--steps", "3"]) == 0
        path = Path(capsys.readouterr().out.strip())
        assert path.name == f"sample-000{number}.png"
    again = tmp_path / "again.png"
    assert main(["sample", "--like", str(path), "--out", str(again)]) == 0
    assert again.read_bytes() == path.read_bytes()


def test_what_auto_picked_is_said(run, capsys, tmp_path):
    assert main(["sample", str(run), "3", "--solver", "auto", "--steps", "5", "--out", str(tmp_path / "a.png")]) == 0
    said = capsys.readouterr().err
    assert said.startswith("auto: v in ")
    assert said.endswith(" grid, 5 evaluations\n")


def test_a_picture_from_given_noise_is_not_made_again_as_another(run, capsys, tmp_path):
    from fromnoise import load

    path = load(run).sample(["3"], steps=1, noise=[[[[[0.0] * 8] * 8]]]).save(tmp_path / "a.png")
    assert "made from noise that was given" in refused(capsys, "sample", "--like", str(path))


def test_a_replay_can_be_varied(run, tmp_path):
    from fromnoise.output import read_picture

    first, other = tmp_path / "a.png", tmp_path / "b.png"
    assert main(["sample", str(run), "seven", "--n", "2", "--guidance", "3", "--steps", "2", "--out", str(first)]) == 0
    assert main(["sample", "--like", str(first), "--seed", "8", "--n", "3", "--out", str(other)]) == 0
    varied = read_picture(other)["settings"]
    assert (varied.prompts, varied.seed, varied.guidance.scale, varied.steps) == (["seven"] * 3, 8, 3.0, 2)


def test_a_text_beside_like_is_a_prompt_unless_it_is_a_folder(run, tmp_path, capsys):
    from fromnoise.output import read_picture

    first, other = tmp_path / "a.png", tmp_path / "b.png"
    assert main(["sample", str(run), "seven", "--n", "2", "--steps", "2", "--out", str(first)]) == 0
    for text in ("another", "another" * 50):
        assert main(["sample", "--like", str(first), text, "--n", "1", "--out", str(other)]) == 0
        assert read_picture(other)["settings"].prompts == [text]
    assert main(["sample", "--like", str(first), str(run), "--out", str(other)]) == 0
    assert other.read_bytes() == first.read_bytes()


@pytest.mark.parametrize(("change", "warned"), [
    (lambda r: r["evaluate"].update(samples=7), False), (lambda r: r.update(fromnoise="0.0.1"), False),
    (lambda r: r.update(name="other"), False), (lambda r: r["train"].update(device="cpu", keep=9), False),
    (lambda r: r["train"].pop("keep"), False), (lambda r: r["sample"].update(steps=7), False),
    (lambda r: r["sample"].update(shift=2.0), True), (lambda r: r["net"].update(width=16), True),
    (lambda r: r["train"].update(steps=3), True), (lambda r: r.update(seed=8), True),
    (lambda r: r["net"].update(kind="later"), True),
])
def test_a_replay_warns_where_the_recipe_makes_other_pictures(change, warned, run):
    from fromnoise.cli.sample import draws_alike
    from fromnoise.recipe import load_recipe

    recipe = load_recipe(run / "recipe.json")
    said = recipe_dict(recipe)
    change(said)
    assert draws_alike(said, recipe) is not warned


def test_prompts_come_from_a_file_as_well(run, tmp_path):
    from fromnoise.output import read_picture

    (tmp_path / "p.txt").write_text("one\n\n  two \n")
    out = tmp_path / "x.png"
    assert main(["sample", str(run), "three", "--prompts-file", str(tmp_path / "p.txt"), "--n", "1", "--steps", "1",
                 "--size", "16x8", "--out", str(out)]) == 0
    found = read_picture(out)["settings"]
    assert found.prompts == ["three", "one", "two"]
    assert found.size == (8, 16)


def test_a_cut_prompt_is_said(run, capsys, tmp_path):
    argv = ["sample", str(run), "seven " * 80, "--n", "1", "--steps", "1", "--out", str(tmp_path / "x.png")]
    assert main(argv) == 0
    assert "cut" in capsys.readouterr().err


@pytest.mark.parametrize(("argv", "words"), [
    ("", "Name a run folder"),
    ("{tmp}/nowhere x", "There is no folder"),
    ("{run} x --n 0", "--n should be greater than or equal to 1 (got 0)"),
    ("{run} x --steps 0", "--steps should be"),
    ("{run} x --steps 99999999999", "--steps should be less than or equal to 10000"),
    ("{run} x --guidance nan", "--guidance.scale should be"),
    ("{run} x --guidence 2", "Did you mean --guidance?"),
    ("{run} x --solver eulr", 'Did you mean "euler"?'),
    ("{run} x --size 9x9", "multiples of 2"),
    ("{run} x --size big", "--size is WIDTHxHEIGHT"),
    ("{run} x --size 0x0", "0x0 does not fit"),
    ("{run} x --seed -1", "--seed should be"),
    ("{run} x --device cuda:99", "cuda:99"),
    ("{run} x --out picture.jpg", "--out is a .png file"),
    ("{run} --prompts-file {tmp}/nowhere.txt", "There is no prompt file"),
    ("{run} --prompts-file {tmp}", "cannot be read"),
    ("--like {tmp}/nowhere.png", "There is no picture"),
    ("--like {run}/recipe.json", "is not a PNG"),
])
def test_mistakes_in_sampling_are_one_sentence(argv, words, run, capsys, tmp_path):
    assert words in refused(capsys, "sample", *argv.format(run=run, tmp=tmp_path).split())


def test_evaluating_again_updates_the_page(run, capsys):
    before = (run / "index.html").stat().st_mtime_ns
    assert main(["evaluate", str(run), "--samples", "20", "--seed", "3"]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert (run / "index.html").stat().st_mtime_ns > before


@pytest.mark.parametrize(("argv", "words"), [
    ("", "Name a run folder"),
    ("{tmp}/nowhere", "There is no folder"),
    ("{run} --samples 0", "--samples should be greater than or equal to 2"),
])
def test_mistakes_in_evaluating_are_one_sentence(argv, words, run, capsys, tmp_path):
    assert words in refused(capsys, "evaluate", *argv.format(run=run, tmp=tmp_path).split())


def test_another_recipe_in_the_same_folder_is_refused(run, capsys):
    before = (run / "recipe.json").read_bytes()
    assert "net.width" in refused(capsys, "train", str(run), "--net.width", "16")
    assert (run / "recipe.json").read_bytes() == before
