"""fromnoise sample RUN "a prompt" [...]"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import Field

from fromnoise.cli.acting import actions_of
from fromnoise.cli.fields import defaults
from fromnoise.cli.loras import Loras, files_and_scales, those_of
from fromnoise.cli.options import parse
from fromnoise.cli.stages import expert_of, sizes_of, stages_of, through
from fromnoise.cli.tasks import counting, task_of
from fromnoise.config import spec, to_dict
from fromnoise.denoise import Guidance, Guided, Held, Keep
from fromnoise.films import WRITTEN, check_shown, moving
from fromnoise.opening import is_pipeline, load_model, usual_sampling
from fromnoise.output import checked_file, read_picture
from fromnoise.recipe import Recipe, Sampling, changes, differences, read_recipe
from fromnoise.sample import FullSequence, Order
from fromnoise.settings import Settings
from fromnoise.text import parts
from fromnoise.train.memory import keep_freed_memory
from fromnoise.types import UserError

ABOUT = """Pictures, or films, from a trained run.

fromnoise sample runs/digits "a handwritten seven" "the digit 3" --n 8

fromnoise sample runs/digits "the digit 3" --guidance 3 --guidance.interval 0.2 0.8 --guidance.method apg

fromnoise sample path/to/a/pipeline "a red circle" --lora style.safetensors:0.8 --lora other.safetensors

fromnoise sample runs/base "a red circle" --then runs/up     (a cascade: runs/up enlarges what runs/base makes)

fromnoise sample runs/up "a red circle" --image small.png

fromnoise sample runs/base "a red circle" --expert runs/noisy:0.6-1     (asked in the place of runs/base at such t)

fromnoise sample runs/video "a wave" --out wave.mp4

fromnoise sample runs/films "a red circle falls" --first a.png --last b.png     (of a model of clips)

fromnoise sample runs/films "a red circle falls" --extend clip.mp4 --frames 48 --overlap 8

fromnoise sample runs/world --extend clip.png --actions 2,2,left,0     (of a world model: what leads to each frame)

fromnoise sample runs/films --clip clip.gif --slow 2     (twice as many frames; --inside mask.png: a part made anew)

fromnoise sample --like picture.png

fromnoise sample --like picture.png "another prompt" --n 2"""


@spec
class Arguments:
    """What to sample, and how.  What is not said is as in the recipe, or as in the picture of --like."""

    run: tyro.conf.Positional[str] = ""
    """The run folder; not needed with --like, where a text that is no folder is a prompt."""
    prompts: tyro.conf.Positional[tuple[str, ...]] = ()
    """What to show; without any, pictures of nothing in particular."""
    prompts_file: str | None = None
    """A text file with one prompt a line, besides those given."""
    n: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Samples of each prompt; by default 4."""
    out: str | None = None
    """The PNG to write, or for films an .mp4, .gif, .webp or .mkv, or a .png with all their frames; by default the next
    free sample-0001.png in the run's samples folder, and of films a GIF beside it."""
    steps: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Solver steps."""
    guidance: Guided = Guidance()
    """Guidance; a number alone is its scale, of which 1 is none."""
    solver: str | None = None
    """auto, dpmpp_2m or another name of docs/solvers.md, or one of `fromnoise tune`: tuned-8."""
    then: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A run that enlarges the pictures, by its own recipe's settings; said again, one that enlarges those."""
    image: str | None = None
    """The small picture to enlarge, or a larger one by a whole factor, which is brought to its size by averages."""
    augment: Annotated[float, Field(ge=0, le=1)] | None = None
    """Noise added to every small picture that is enlarged, up to upsample.noise; by default as the recipe says."""
    frames: Annotated[int, Field(ge=1)] | None = None
    """Frames of a clip; by default as many as the data have."""
    overlap: Annotated[int, Field(ge=1)] | None = None
    """Make a clip longer than those of the data window by window, each of which knows so many frames before it."""
    first: str | None = None
    """A picture that the clip begins with."""
    last: str | None = None
    """A picture that it ends with."""
    extend: str | None = None
    """A film, an animated GIF or a PNG of frames side by side that the clip goes on from, and which --frames counts; a
    file of several samples as FILE:2 is the second of these.  Films are brought to the frames a second of samples."""
    extend_back: str | None = None
    """The same, that the clip leads up to."""
    clip: str | None = None
    """The same, that --slow or --inside changes; of a model of pictures, a picture.  With --slow frames are taken one
    after the other, whatever their rate."""
    slow: Annotated[int, Field(ge=2)] | None = None
    """So many times the frames of --clip, those between its own being made."""
    inside: str | None = None
    """A mask: what is white in it is made anew in --clip, what is black is kept."""
    schedule: Order = FullSequence()
    """In which order the frames of a clip come out of the noise."""
    keep: Keep = Held()
    """How what is given is kept."""
    expert: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """RUN:LOW-HIGH, a run that takes the place of the first one at times between the two; said again, another."""
    actions: str | None = None
    """Of a world model, what leads to each frame after those given: numbers or names such as 2,2,left,0, or a .npy or
    .csv file of them; -1 is not told.  Without --frames they say how many frames there are."""
    action_guidance: Annotated[float, Field(ge=0)] | None = None
    """How much more closely than in the data frames follow their actions; 1 is none."""
    fps: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Frames a second of films."""
    size: str | None = None
    """WIDTHxHEIGHT in pixels, such as 64x48; of a cascade, of the last picture."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """Fixes the noise; by default 0."""
    negative: str | None = None
    """What to steer away from."""
    compose: bool = False
    """AND and NOT in a prompt join and exclude what stands on their sides: "a red circle AND a blue square"."""
    weighted: bool = False
    """Brackets weigh words: "a (red:1.3) circle", "[faint]"; \\( is a bracket."""
    long: bool = False
    """A prompt that is too long is read in windows, one after the other, and not cut."""
    lora: Loras = ()
    """A LoRA to add, FILE or FILE:SCALE; may be said several times.  With --like instead of those of the picture."""
    like: str | None = None
    """A picture or film that fromnoise saved: make it again, but for what is said otherwise."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto takes a GPU where there is one."""


def main(argv: list[str]) -> int:
    args, usual = read(argv)
    if args.out is not None and Path(args.out).suffix.lower() not in (".png", *WRITTEN):
        raise UserError(f"--out is a .png file, which keeps samples exact, or for films one of {', '.join(WRITTEN)} "
                        f"(got {args.out}).")
    if args.like is not None and not args.prompts and not os.path.isdir(args.run):
        args = replace(args, run="", prompts=(args.run,) if args.run else ())
    told = stages_of(read_picture(args.like)) if args.like is not None else []
    if told and told[0]["settings"].given_noise:
        raise UserError(f"{args.like} was made from noise that was given in Python and is not in the file: "
                        "make it again with Model.sample and the same noise.")
    if told and told[0]["settings"].given_image and args.image is None:
        raise UserError(f"{args.like} was made of a small picture that is not in the file: name it with --image.")
    task = task_of(args)
    task.check()
    if told and told[0]["settings"].given and not task.named:
        raise UserError(f"{args.like} was made of frames that are not in the file: name them with --first, --extend or "
                        "whichever it was.")
    run = args.run or (told[0]["run"] if told else "")
    if not run:
        raise UserError('Name a run folder: fromnoise sample runs/digits "a handwritten seven".')
    prompts, settings = wanted(args, told[0]["settings"] if told else None)
    for sentence in without_effect(usual, args, prompts):
        say(sentence)
    runs = [run, *(args.then or [stage["run"] for stage in told[1:]])]
    loras = (those_of(told[0]["settings"].loras, str(args.like)) if told and not args.lora
             else files_and_scales(args.lora))
    models = [load_model(each, args.device) for each in runs]
    films = models[-1].recipe.data.frames > 1 and settings.get("frames") != 1
    if args.out is not None:  # before the work
        check_shown(checked_file(args.out, films), settings.get("fps") or models[-1].recipe.fps)
    keep_freed_memory()
    for each, stage, model in zip(runs, told, models, strict=False):
        if not draws_alike(stage["recipe"], model.recipe):
            say(f"{each} is of another recipe than the picture, which will not come out the same.")
    for path, scale in loras:
        models[0].add_lora(path, scale)
    sizes = sizes_of(size_of(args.size), models)
    if settings.get("overlap"):
        settings["callback"] = counting(say)
    outputs = through(models, prompts, settings, sizes, [stage["settings"] for stage in told[1:]], args.augment,
                      args.image, task, say=say)
    if told and told[0]["settings"].given != outputs[0].settings.given:
        say(f"What is given is not what {args.like} was made of, which will not come out the same.")
    if told and told[0]["settings"].given_image != outputs[0].settings.given_image:
        say(f"{args.image} is not the small picture that {args.like} was made of, which will not come out the same.")
    for output in outputs:
        if output.settings.solver == "auto":
            say(f"{output.info.solver}, {output.info.nfe} evaluations")
    for note in dict.fromkeys(note for output in outputs for note in output.notes):
        say(note)
    beside = Path(runs[-1] if os.path.isdir(runs[-1]) else "")  # a hub id is no folder
    first = Path(args.out) if args.out else next_free(beside / "samples")
    also = [first.with_suffix(moving(outputs[-1].settings.fps))] if films and not args.out else []
    for path in (first, *also):
        print(outputs[-1].save(path, columns=columns_of(prompts)))
    return 0


def read(argv: list[str]) -> tuple[Arguments, Guidance]:
    """(the arguments, the guidance that they change): which options there are depends on the method of the latter."""
    argv = [re.sub(r"^--sample\.", "--", word) for word in argv]  # a field of a recipe by its full name
    pairs = list(zip(["", *argv], argv, strict=False))
    run = next((word for before, word in pairs if before not in ("--guidance.guide", "--then") and is_model(word)), "")
    like = next((word for before, word in pairs if before == "--like"), None)
    args, usual = parse_over(argv, run, like)
    if (args.run, args.like) != (run, like):  # the guess was wrong, which is known now
        args, usual = parse_over(argv, args.run, args.like)
    return args, usual


def parse_over(argv: list[str], run: str, like: str | None) -> tuple[Arguments, Guidance]:
    """(the arguments, the guidance) over what the picture says, or else the recipe of the run."""
    usual, flags = Sampling(), {}
    if like is not None:
        usual = stages_of(read_picture(like))[0]["settings"]
        flags = {name: getattr(usual, name) for name in ("compose", "weighted", "long")}
    elif is_model(run) or is_pipeline(run):
        usual = usual_sampling(run)
    parts = {name: to_dict(getattr(usual, name)) for name in ("guidance", "schedule", "keep")}
    return parse(Arguments, argv, "fromnoise sample", defaults(Arguments) | parts | flags, ABOUT), usual.guidance


def is_model(word: str) -> bool:
    """Whether a word is the folder of a run or of a pipeline."""
    return any(os.path.isfile(os.path.join(word, name)) for name in ("recipe.json", "model_index.json"))


def without_effect(usual: Guidance, args: Arguments, prompts: list[str]) -> list[str]:
    """A sentence for every option of guidance that was said in vain."""
    guidance = args.guidance
    joined = args.compose and any(len(wanted) + len(excluded) > 1 for wanted, excluded in map(parts, prompts))
    said = {f"guidance.{field}" for field in changes(usual, guidance)} | {"compose"}
    idle = {f"guidance.{field}": why for field, why in guidance.idle(others=joined).items()}
    if args.compose and not joined:
        idle["compose"] = "no prompt has AND or NOT in it"
    if args.weighted and not any(set(prompt) & set("()[]") for prompt in prompts):
        said.add("weighted")
        idle["weighted"] = "no prompt has a bracket in it"
    if args.negative and (guidance.guide is not None or (guidance.inert and not joined)):
        said.add("negative")
        idle["negative"] = "guidance is 1 at all times" if guidance.inert else "the guide stands in its place"
    return [f"--{field.replace('_', '-')} has no effect here: {why}." for field, why in idle.items() if field in said]


def draws_alike(said: dict[str, Any], recipe: Recipe) -> bool:
    """Whether the recipe that a picture names makes the same pictures; its name, judging and such may differ."""
    try:
        other = read_recipe(said, "the picture", type(recipe))
    except UserError:
        return False
    if not isinstance(other, Recipe):
        return False
    grids = [(r.sample.grid, r.sample.shift) for r in (other, recipe)]
    return not differences(other, recipe) and grids[0] == grids[1]


def wanted(args: Arguments, like: Settings | None) -> tuple[list[str], dict[str, Any]]:
    """(every prompt n times, the other settings): those of ``like``, if there is one, unless said otherwise."""
    said = {"steps": args.steps, "guidance": args.guidance, "solver": args.solver, "seed": args.seed,
            "frames": args.frames, "overlap": args.overlap, "schedule": args.schedule, "keep": args.keep,
            "negative": args.negative, "compose": args.compose, "weighted": args.weighted, "long": args.long,
            "experts": [expert_of(text) for text in args.expert] or None, "fps": args.fps,
            "actions": None if args.actions is None else actions_of(args.actions),
            "action_guidance": args.action_guidance}
    prompts = [*args.prompts, *(read_prompts(args.prompts_file) if args.prompts_file is not None else [])]
    base: dict[str, Any] = {"seed": 0, "negative": ""}
    if like is not None:
        base = {name: getattr(like, name) for name in (*said, "first", "size", "augment")}
        base["actions"] = like.actions or None
        if not prompts and args.n is None:
            return like.prompts, base | {k: v for k, v in said.items() if v is not None}
        prompts = prompts or list(dict.fromkeys(like.prompts))
    repeated = [prompt for prompt in prompts or [""] for _ in range(args.n or 4)]
    return repeated, base | {k: v for k, v in said.items() if v is not None}


def columns_of(prompts: list[str]) -> int | None:
    """The samples of a prompt, where there are several prompts with as many each, so that each has its rows."""
    counts = set(Counter(prompts).values())
    n = counts.pop()
    return n if not counts and 1 < n <= 12 and n < len(prompts) else None


def read_prompts(path: str) -> list[str]:
    """The lines of a prompt file that are not empty."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"There is no prompt file {path}.") from None
    except (OSError, UnicodeDecodeError):
        raise UserError(f"The prompt file {path} cannot be read: give a UTF-8 text file, a prompt a line.") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"The prompt file {path} is empty: write one prompt a line.")
    return prompts


def size_of(text: str | None) -> tuple[int, int] | None:
    """"64x48" as (height 48, width 64)."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text.lower())
    if found is None:
        raise UserError(f'--size is WIDTHxHEIGHT, such as 64x48 (got "{text}").')
    return int(found[2]), int(found[1])


def next_free(folder: Path) -> Path:
    """``sample-0001.png`` or the first number after those that are there."""
    taken = [int(m[1]) for p in folder.glob("sample-*.png") if (m := re.fullmatch(r"sample-(\d+)", p.stem))]
    return folder / f"sample-{max(taken, default=0) + 1:04d}.png"


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr)
