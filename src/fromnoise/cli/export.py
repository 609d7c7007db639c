"""fromnoise export RUN --out FOLDER"""

from __future__ import annotations

from typing import Annotated, Literal

import tyro
from pydantic import Field

from fromnoise.cli.loras import Loras, files_and_scales
from fromnoise.cli.options import parse
from fromnoise.config import spec
from fromnoise.types import UserError

ABOUT = """A model in the layout of another library, or as a small folder to hand on.

fromnoise export runs/shapes-sd3 --out exported

fromnoise export path/to/a/pipeline --lora style.safetensors:0.8 --out merged

fromnoise export runs/pong --format fromnoise --out pong

A pipeline that fromnoise opened (with what has been added to it since) is written whole; of a run of ours the network,
its schedule and its autoencoder are, where diffusers has such; of an autoencoder's run the autoencoder. --format
fromnoise keeps a run as it is in half the room, a world with real beginnings, so that it is played without its data."""


@spec
class Arguments:
    """What to export, and where to."""

    run: tyro.conf.Positional[str] = ""
    """A run folder, a folder in the layout of diffusers, or a hub id."""
    out: Annotated[str, Field(min_length=1)] = "exported"
    """The folder to write, which must be new or empty."""
    lora: Loras = ()
    """A LoRA to merge into the weights, FILE or FILE:SCALE; may be said several times."""
    format: Literal["diffusers", "fromnoise"] = "diffusers"
    """The layout of diffusers, or a run folder with weights in half precision."""


def main(argv: list[str]) -> int:
    args = parse(Arguments, argv, "fromnoise export", about=ABOUT)
    if not args.run:
        raise UserError("Name a run folder: fromnoise export runs/shapes-sd3 --out exported.")
    if args.format == "fromnoise":
        return shared(args)
    from fromnoise.interop.export import export
    from fromnoise.opening import load, load_model

    loras = files_and_scales(args.lora)
    if loras:  # which an autoencoder does not take
        model = load_model(args.run, "cpu")
        for path, scale in loras:
            model.add_lora(path, scale)
    else:
        model = load(args.run, "cpu")
    for sentence in export(model, args.out):
        print(sentence)
    return 0


def shared(args: Arguments) -> int:
    """Write a run of ours as a small folder.  UserError with LoRAs, which belong to what others trained."""
    if args.lora:
        raise UserError("A LoRA is merged in the layout of diffusers: leave out --format fromnoise.")
    from fromnoise.sharing import share

    for sentence in share(args.run, args.out):
        print(sentence)
    return 0
