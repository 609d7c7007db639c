"""Samples as they are handed on: pictures and films in memory, and files that say how they were made."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin
from torch import Tensor

import fromnoise
from fromnoise.files import disk_errors, replacing
from fromnoise.films import WRITTEN, contact_sheet, read_comment, strip, write_film
from fromnoise.media import enlargement, from_uint8, grid, sheets, to_pil, to_uint8
from fromnoise.recipe import Recipe, recipe_dict
from fromnoise.sample import SolveInfo
from fromnoise.settings import Settings, checked
from fromnoise.types import UserError

PNG_KEY = "fromnoise"


@dataclass(frozen=True)
class Output:
    """Samples and how they were made.

    media: ``[B, T, C, H, W]`` in [-1, 1];  settings: what makes them again;  notes: sentences the user
    should read, such as how a long prompt was cut;  before: the stage of a cascade whose pictures these enlarge.
    """

    media: Tensor = field(repr=False)
    settings: Settings
    info: SolveInfo = field(repr=False)
    recipe: Recipe = field(repr=False)
    run: str = ""
    notes: tuple[str, ...] = ()
    before: Output | None = field(default=None, repr=False)

    def images(self) -> list[Image.Image]:
        """The samples as PIL images, at their own size; of films, their contact strips."""
        if self.films:
            return [strip(film, enlarge=1) for film in self.media]
        return [to_pil(frame) for frame in to_uint8(self.media[:, 0])]

    @property
    def films(self) -> bool:
        """Whether the samples have more than one frame."""
        return self.media.shape[1] > 1

    def save(self, path: str | Path, enlarge: int | None = None, columns: int | None = None) -> Path:
        """One file: a single sample, or a grid of them, enlarged by whole pixels to be seen well.

        Pictures are saved as .png.  Films are saved as .mp4, .gif, .webp or .mkv (``fromnoise.films`` says which keeps
        what), ``columns`` side by side, or as a contact sheet in .png, on which every film is a row of its frames.

        The file carries prompts, seed, settings and recipe, from which ``fromnoise sample --like`` makes it again,
        unless they were made from noise that the caller gave.
        """
        path, moves = checked_file(path, self.films), self.films
        factor = None if enlarge is None else checked("enlarge", enlarge)
        columns = None if columns is None else checked("columns", columns)
        story = json.dumps({"fromnoise": fromnoise.__version__, **self._story()}, ensure_ascii=False)
        if path.suffix.lower() in WRITTEN:
            film = from_uint8(sheets(self.media, columns))
            return write_film(film, path, self.settings.fps, factor or enlargement(self.media.shape[-2]), story)
        sheet = contact_sheet(self.media, factor) if moves else (
            grid(self.media, columns, factor or enlargement(self.media.shape[-2])))
        header = PngImagePlugin.PngInfo()
        header.add_itxt(PNG_KEY, story)
        with disk_errors(path), replacing(path) as temporary:
            sheet.save(temporary, format="PNG", pnginfo=header)
        return path

    def _story(self) -> dict[str, Any]:
        """How the samples were made, as JSON types; of a cascade, that of every stage inside that of the next."""
        told = {"run": self.run, "settings": asdict(self.settings), "recipe": recipe_dict(self.recipe)}
        return told if self.before is None else {**told, "before": self.before._story()}


def checked_file(path: str | Path, films: bool) -> Path:
    """A path by its name one that samples can be saved to; ``films``: whether they are such.  UserError otherwise."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".png" or (films and suffix in WRITTEN):
        return path
    if films:
        raise UserError(f"Films are saved as {', '.join(WRITTEN)}, or as a contact sheet in .png (got {path.name}).")
    raise UserError(f"Samples are saved as .png, which keeps them exact (got {path.name}).")


def read_picture(path: str | Path) -> dict[str, Any]:
    """What a PNG or a film saved by fromnoise says of itself: run, settings and recipe, and as ``before`` the same of
    the stage of a cascade that it enlarges.  UserError if it says nothing.
    """
    text = read_comment(path) if Path(path).suffix.lower() in WRITTEN else _png_text(path)
    try:
        found = json.loads(text or "")
        return _read_story(found, found.get("fromnoise", "unknown"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} does not say how it was made: it was not saved by fromnoise, or its "
                        "metadata was removed.") from None
    except UserError as e:
        raise UserError(f"{path} cannot be made again: {e}") from None


def _png_text(path: str | Path) -> str | None:
    """What a PNG holds under ``PNG_KEY``.  UserError where it cannot be read."""
    try:
        with Image.open(path) as image:
            return getattr(image, "text", {}).get(PNG_KEY)
    except FileNotFoundError:
        raise UserError(f"There is no picture {path}.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise UserError(f"{path} is not a PNG that can be read.") from None


def _read_story(found: dict[str, Any], version: str) -> dict[str, Any]:
    """Run, settings and recipe of a picture, and as ``before`` those of the stage that it enlarges, or None."""
    before = found.get("before")
    return {"run": checked("run", found["run"]), "recipe": checked("recipe", found["recipe"]),
            "settings": _read_settings(found["settings"], version),
            "before": None if before is None else _read_story(before, version)}


def _read_settings(found: dict[str, Any], version: str) -> Settings:
    """Settings as they stand in a picture."""
    if unknown := found.keys() - {f.name for f in fields(Settings)}:
        raise UserError(f"it comes from a newer fromnoise ({version}), and this one, {fromnoise.__version__}, does not "
                        f"know its setting {min(unknown)}; update fromnoise.")
    return Settings(**{name: checked(name, value) for name, value in found.items()})
