"""A folder of pictures as people have it: which files there are, and what is said of them."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fromnoise.data.images import SUFFIXES
from fromnoise.types import UserError


@dataclass
class Found:
    """Pictures below a folder: path, captions (none, or several phrasings) and where they came from."""

    files: list[Path] = field(default_factory=list)
    captions: list[tuple[str, ...]] = field(default_factory=list)
    origins: dict[str, int] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def add(self, file: Path, captions: tuple[str, ...], origin: str) -> None:
        self.files.append(file)
        self.captions.append(captions)
        self.origins[origin] = self.origins.get(origin, 0) + 1


def discover(root: Path) -> Found:
    """Every picture below ``root``, in the order of their names.

    Captions come, in this order of preference, from a text file of the same name (a line is a phrasing),
    from metadata.jsonl or metadata.csv (file_name, text), or from the name of the sub-folder.
    UserError where there is nothing to find.
    """
    if not root.exists():
        raise UserError(f"There is no folder {root}.")
    if not root.is_dir():
        raise UserError(f"{root} is a file: give the folder that holds the pictures.")
    if not os.access(root, os.R_OK | os.X_OK):
        raise UserError(f"The folder {root} may not be read.")
    found = Found()
    described = read_metadata(root, found.skipped)
    others = 0
    for file in walk(root, found.skipped):
        if file.suffix.lower() not in SUFFIXES:
            others += file.suffix.lower() not in (".txt", ".jsonl", ".csv")
            continue
        beside = file.with_suffix(".txt")
        if beside.is_file():
            lines = beside.read_text(encoding="utf-8", errors="replace").splitlines()
            found.add(file, tuple(line.strip() for line in lines if line.strip()), "text files")
        elif file in described:
            found.add(file, (described[file],), "metadata")
        elif file.parent != root:
            found.add(file, (file.parent.name.replace("_", " ").replace("-", " "),), "sub-folders")
        else:
            found.add(file, (), "none")
    if not found.files:
        what = f"holds {others} files, but none is a picture" if others else "is empty"
        raise UserError(f"The folder {root} {what}: it needs {', '.join(sorted(s[1:] for s in SUFFIXES))} files.")
    return found


def walk(root: Path, skipped: list[tuple[str, str]]) -> Iterator[Path]:
    """Files below ``root`` by name; hidden ones are left out, links that lead out of it are refused."""
    home = root.resolve()
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(files):
            path = Path(folder) / name
            if name.startswith("."):
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(home):
                skipped.append((str(path.relative_to(root)), "it is a link that leads out of the folder"))
                continue
            yield path


def read_metadata(root: Path, skipped: list[tuple[str, str]]) -> dict[Path, str]:
    """{file: text} of every metadata.jsonl and metadata.csv below ``root``; rows that cannot be used are named."""
    described: dict[Path, str] = {}
    for table in sorted([*root.rglob("metadata.jsonl"), *root.rglob("metadata.csv")]):
        for number, row in enumerate(rows_of(table), 1):
            where = f"{table.relative_to(root)} row {number}"
            if not isinstance(row, dict) or not isinstance(row.get("file_name"), str) or row.get("text") is None:
                skipped.append((where, "it needs file_name and text"))
                continue
            file = table.parent / row["file_name"]
            if not file.resolve().is_relative_to(root.resolve()):
                skipped.append((where, f"{row['file_name']} lies outside the folder"))
            elif not file.is_file():
                skipped.append((where, f"{row['file_name']} is missing"))
            else:
                described[file] = str(row["text"]).strip()
    return described


def rows_of(table: Path) -> Iterator[object]:
    """Rows of a JSON-lines or CSV file; None for one that is damaged."""
    text = table.read_text(encoding="utf-8-sig", errors="replace")
    if table.suffix == ".csv":
        yield from csv.DictReader(text.splitlines())
        return
    for line in filter(str.strip, text.splitlines()):
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            yield None
