"""What ``fromnoise sample`` does with several runs: the stages of a cascade, and experts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fromnoise.cli.acting import frames_for
from fromnoise.cli.frames import Wanted
from fromnoise.cli.tasks import Task
from fromnoise.data.images import Refused, open_picture
from fromnoise.generate import Model
from fromnoise.media import from_uint8
from fromnoise.output import Output
from fromnoise.process import Upsampling
from fromnoise.settings import Expert, Settings
from fromnoise.types import UserError

Size = tuple[int, int]  # height, width

SHARED = ("seed", "first", "negative", "compose", "weighted", "long", "frames", "fps")  # settings that stages share
NUMBER = r"\d+(?:\.\d+)?|\.\d+"
OWN = ("steps", "guidance", "solver", "size", "augment")


def through(models: Sequence[Model], prompts: list[str], settings: dict[str, Any], sizes: Sequence[Size | None],
            like: Sequence[Settings], augment: float | None = None, image: str | None = None,
            task: Task | None = None, *, say: Callable[[str], None]) -> list[Output]:
    """Samples of the first model, then of each of the others, which enlarge those before them.

    settings: of the first;  sizes: of each, None for its usual one;  like: the settings of those after the first where
    a picture is made again, else they are as their recipes say;  augment: of all that enlarge;  image: the file that
    the first one enlarges;  task: what it is given of its samples;  say: is told what was chosen of files.
    """
    first, *rest = models
    told = {"size": sizes[0], "augment": augment if first.enlarges or not rest else None}
    settings = settings | {name: value for name, value in told.items() if value is not None}
    small = None if image is None else small_picture(image, first, settings.get("size"))
    if task is not None and task.named:
        data = first.recipe.data
        size = settings.get("size") or (data.height, data.width)
        wanted = Wanted(data.channels, size, settings.get("fps") or first.recipe.fps, say)
        given, frames = task.given(wanted, settings.get("frames"))
        settings = settings | {"given": given, "frames": frames}
    if settings.get("frames") is None:
        ahead = 0 if "given" not in settings else sum(place >= 0 for place in settings["given"].frames)
        settings = settings | {"frames": frames_for(settings.get("actions"), first, ahead)}
    outputs = [first.sample(prompts, image=small, **settings)]
    for i, model in enumerate(rest):
        own = {name: getattr(like[i], name) for name in OWN} if i < len(like) else {}
        said = {"size": sizes[i + 1], "augment": augment}
        shared = {name: getattr(outputs[-1].settings, name) for name in SHARED}
        own |= {name: value for name, value in said.items() if value is not None}
        outputs.append(model.sample(prompts, image=outputs[-1], **shared, **own))
    return outputs


def stages_of(picture: dict[str, Any]) -> list[dict[str, Any]]:
    """What a picture says of the stages of a cascade that it was made by, the first one first."""
    return [*(stages_of(picture["before"]) if picture["before"] else []), picture]


def sizes_of(size: Size | None, models: Sequence[Model]) -> list[Size | None]:
    """The size of every stage for that of the last; None for each where none was asked for.

    UserError for one that is no multiple of what the stages enlarge by.
    """
    if size is None:
        return [None] * len(models)
    sizes = [size]
    for model in reversed(models[1:]):
        factor, (height, width) = model.recipe.upsample.factor, sizes[0]
        if height % factor or width % factor:
            raise UserError(f"A cascade cannot end in {size[1]}x{size[0]}: {width}x{height} is no multiple of the "
                            f"factor {factor} of {model.run}.")
        sizes.insert(0, (height // factor, width // factor))
    return list(sizes)


def small_picture(path: str, model: Model, size: Size | None) -> Tensor:
    """The picture in a file as ``[1, 1, C, h, w]``; a larger one by a whole factor is brought down to what the model
    enlarges to ``size``, by averages.  UserError for a file that is no picture.
    """
    try:
        found = open_picture(Path(path))
    except Refused as why:
        raise UserError(f"--image {path} cannot be used: {why}.") from None
    data, factor = model.recipe.data, model.recipe.upsample.factor
    media = from_uint8(np.asarray(found.convert("L"))[..., None] if data.channels == 1 else np.asarray(found))
    height, width = size or (data.height, data.width)
    times = max(1, media.shape[-2] * factor // height)
    same = (media.shape[-2] * factor, media.shape[-1] * factor) == (height * times, width * times)
    return Upsampling(factor=times if same else 1).shrink(media[None, None])


def expert_of(text: str) -> Expert:
    """"runs/noisy:0.6-1" as (run folder, 0.6, 1).  UserError for what does not look so."""
    found = re.fullmatch(rf"(.+):({NUMBER})-({NUMBER})", text)
    if found is None:
        raise UserError(f"--expert is a run folder and two times from 0 to 1, such as runs/noisy:0.6-1 (got {text}).")
    return found[1], float(found[2]), float(found[3])
