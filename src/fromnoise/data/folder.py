"""A folder of pictures or films as people have it: which files there are, and what is said of them."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fromnoise.data.images import SUFFIXES, UNREAD, Refused
from fromnoise.types import UserError

TABLES = ("metadata.jsonl", "metadata.csv")
CAPTION_BYTES = 2**20  # a caption file that is larger is not one
TABLE_BYTES = 2**30
PLAIN = {"train", "training", "test", "val", "valid", "validation", "data", "dataset", "images", "image", "imgs", "img",
         "pictures", "photos"}  # names of sub-folders that say nothing of what they hold


@dataclass(frozen=True)
class Sought:
    """What is looked for.

    noun: one of them in words;  suffixes: how names of such files end;  usable: these in words;  unread: suffixes of
    files that are named in the summary, so that nobody wonders where they went, and what to save them as.
    """

    noun: str
    suffixes: frozenset[str]
    usable: str
    unread: frozenset[str]
    instead: str


PICTURES = Sought("picture", frozenset(SUFFIXES), "JPEG, PNG, WebP, GIF, BMP and TIFF files can be used",
                  frozenset(UNREAD), "JPEG or PNG")


@dataclass
class Found:
    """Pictures below a folder: relative paths, captions (none, or several phrasings) and where these came from.

    skipped: (name, reason) of files, links and metadata rows that were passed over, safe to print.
    """

    root: Path
    sought: Sought = PICTURES
    files: list[Path] = field(default_factory=list)
    captions: list[tuple[str, ...]] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def skip(self, name: str | Path, reason: str) -> None:
        self.skipped.append((printable(str(name)), reason))


def discover(root: Path, caption_key: str = "text", folder_names: bool = True, sought: Sought = PICTURES) -> Found:
    """Every picture below ``root``, or whatever is sought, in the order of their names.

    Captions come, in this order of preference, from a text file of the same name (a line is a phrasing), from
    the ``caption_key`` of metadata.jsonl or metadata.csv, or, with ``folder_names``, from the name of the
    sub-folder.  UserError where there is nothing to find.
    """
    shown = printable(str(root))
    try:
        if not root.exists():
            raise UserError(f"There is no folder {shown}.")
        if not root.is_dir():
            raise UserError(f"{shown} is a file: give the folder that holds the {sought.noun}s.")
        os.scandir(root).close()
    except OSError as e:
        raise UserError(f"The folder {shown} cannot be read: {e.strerror}.") from None
    found = Found(root, sought)
    files = list(walk(found))
    kinds = [file.suffix.lower() for file in files]
    pictures = [file for file, kind in zip(files, kinds, strict=True) if kind in sought.suffixes]
    for file, kind in zip(files, kinds, strict=True):
        if kind in sought.unread:
            found.skip(file, f"{kind[1:].upper()} files are not read: save it as {sought.instead}")
    if not pictures:
        raise UserError(f"The folder {shown} {_nothing_in(found, files)}.")
    texts = {same_name(str(file)[:-4]): file for file, kind in zip(files, kinds, strict=True) if kind == ".txt"}
    described = read_tables(found, [f for f in files if f.name in TABLES], pictures, caption_key)
    for file in pictures:
        captions, origin = _captions_of(found, file, texts, described, folder_names)
        found.files.append(file)
        found.captions.append(captions)
        found.origins.append(origin if captions else "none")
    return found


def _nothing_in(found: Found, files: Sequence[Path]) -> str:
    """Why a folder without usable pictures has none."""
    wanted = found.sought.usable
    if not files:
        more = f" (skipped: {found.skipped[0][0]}, {found.skipped[0][1]})" if found.skipped else ""
        return f"is empty{more}: {wanted}"
    common = ", ".join(f"{n} {printable(kind) or 'without suffix'}" for kind, n in
                       Counter(f.suffix.lower() for f in files).most_common(3))
    return (f"holds {len(files)} file{'s' * (len(files) > 1)} ({common}), but no {found.sought.noun} that can be read: "
            f"{wanted}")


def _captions_of(found: Found, file: Path, texts: dict[str, Path], described: dict[Path, list[str]],
                 folder_names: bool) -> tuple[tuple[str, ...], str]:
    """Phrasings of one picture, and where they came from."""
    beside = texts.get(same_name(str(file.with_suffix("")))) or texts.get(same_name(str(file)))
    if beside is not None:
        try:
            text = read_text(found.root / beside, CAPTION_BYTES)
            if "\0" in text:
                raise Refused("it holds NUL bytes, so it is not a text")
            return tuple(filter(None, map(clean, text.splitlines()))), "text files"
        except Refused as reason:
            found.skip(beside, str(reason))
    if file in described:
        return tuple(described[file]), "metadata"
    named = next((part for part in reversed(file.parts[:-1]) if part.lower() not in PLAIN), None)
    if folder_names and named is not None:
        return tuple(filter(None, [clean(named.replace("_", " ").replace("-", " "))])), "sub-folders"
    return (), "none"


def walk(found: Found) -> Iterator[Path]:
    """Files below the root, relative to it, by name.

    Hidden files are left out, and so are run folders, whose pictures are samples and not data.  Links that
    lead out of the root, links to folders and things that are not plain files are named and left out.
    """
    root, home = found.root, Path(os.path.realpath(found.root))

    def unreadable(error: OSError) -> None:
        found.skip(os.path.relpath(error.filename, root), f"the folder cannot be read: {error.strerror}")

    for at, folders, files in os.walk(root, onerror=unreadable):
        here = Path(os.path.relpath(at, root))
        if here != Path() and {"recipe.json", "metrics.jsonl"} <= set(files):
            found.skip(here, "it is the folder of a training run")
            folders.clear()
            continue
        for name in folders:
            if not name.startswith(".") and os.path.islink(os.path.join(at, name)):
                found.skip(here / name, "it is a link to a folder, which is not followed")
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(files):
            path = Path(at, name)
            if name.startswith("."):
                continue
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(home):
                found.skip(here / name, "it is a link that leads out of the folder")
            elif not path.is_file():
                found.skip(here / name, "it is a broken link" if path.is_symlink() else "it is not a plain file")
            else:
                yield here / name


def read_tables(found: Found, tables: Sequence[Path], pictures: Sequence[Path], key: str) -> dict[Path, list[str]]:
    """{picture: phrasings} of the metadata tables; rows that cannot be used are named."""
    known = {same_name(str(file)): file for file in pictures}
    described: dict[Path, list[str]] = {}
    for table in tables:
        try:
            rows = list(enumerate(_rows(read_text(found.root / table, TABLE_BYTES), table.suffix), 1))
        except Refused as reason:
            found.skip(table, str(reason))
            continue
        columns = sorted({str(k) for _, row in rows if isinstance(row, dict) for k in row if k is not None})
        if columns and not {"file_name", key} <= set(columns):
            found.skip(table, f"it needs file_name and {printable(key)}, but has {printable(', '.join(columns)[:200])}"
                              " (caption_key says which holds the captions)")
            continue
        for number, row in rows:
            try:
                name, captions = _row(row, key)
                target = _target(table, name, known, found.sought.noun)
            except Refused as reason:
                found.skip(f"{table} row {number}", str(reason))
                continue
            phrasings = described.setdefault(target, [])
            phrasings += [c for c in captions if c not in phrasings]
    return described


def _row(row: object, key: str) -> tuple[str, list[str]]:
    """(file name, phrasings) of a row of a table.  Raises Refused."""
    if not isinstance(row, dict):
        raise Refused("it is damaged")
    name, text = row.get("file_name"), row.get(key)
    texts: list = text if isinstance(text, list) else [text]
    if not isinstance(name, str) or not name or not all(isinstance(t, str) for t in texts):
        raise Refused(f"it needs file_name and {printable(key)}")
    return name, [c for c in map(clean, texts) if c]


def _target(table: Path, name: str, known: dict[str, Path], noun: str) -> Path:
    """The picture that a table speaks of; it is only looked up among those found.  Raises Refused."""
    shown = printable(name[:200])
    slashed = name.replace("\\", "/")
    if os.path.isabs(slashed) or slashed[1:3] == ":/":
        raise Refused(f"{shown} is an absolute path")
    if ".." in slashed.split("/"):
        raise Refused(f"{shown} leads upwards, which is not followed")
    for spelled in (name, slashed):
        path = os.path.normpath(os.path.join(table.parent, spelled))
        if (picture := known.get(same_name(path))) is not None:
            return picture
    raise Refused(f"{shown} is missing or not a {noun}")


def _rows(text: str, suffix: str) -> Iterator[object]:
    """Rows of a JSON-lines or CSV file; None for one that is damaged."""
    if suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
        while True:
            try:
                yield next(reader)
            except StopIteration:
                return
            except csv.Error:
                yield None
    for line in filter(str.strip, text.split("\n")):
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            yield None


def _delimiter(text: str) -> str:
    """What separates the columns of a CSV file: a comma, a semicolon or a tab, whichever sets file_name apart."""
    for delimiter in ",;\t":
        with contextlib.suppress(csv.Error):
            if "file_name" in next(csv.reader(io.StringIO(text[:65536], newline=""), delimiter=delimiter), []):
                return delimiter
    return ","


def read_text(path: Path, limit: int) -> str:
    """A text file in UTF-8, UTF-16 with its mark, or else Windows-1252.  Raises Refused."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as e:
        raise Refused(f"it cannot be read: {e.strerror}") from None
    if len(data) > limit:
        raise Refused(f"it is larger than {limit // 2**20} MB")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def clean(text: str) -> str:
    """A caption on one line, without control characters or broken surrogates."""
    text = text.encode("utf-8", errors="replace").decode()
    return " ".join("".join(" " if unicodedata.category(c) == "Cc" else c for c in text).split())


def printable(name: str) -> str:
    """A file name that is safe on a terminal: control characters and undecodable bytes are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


def same_name(path: str) -> str:
    """A path in the form in which two spellings of it are equal (macOS decomposes accents, others do not)."""
    return unicodedata.normalize("NFC", path)
