"""What frozen encoders answered, kept: the last texts in memory, or all captions of a data set in shards on disk.

    <folder>/<key>/shard-00000.safetensors, shard-00001.safetensors, ...

The key is a hash of the encoders' files, the rule by which they read and the numbers they are kept in, so that answers
of another encoder are never taken for these.  A shard is whole or not there: what was stopped goes on after the last.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fromnoise.files import disk_errors, replacing
from fromnoise.text.rows import Row, Rows
from fromnoise.types import UserError

Answer = Callable[[Sequence[str]], dict[str, Rows]]
SHARD = 1024  # texts of a shard
GROUP = 32  # texts encoded at once for it


class Memory:
    """The answers to the texts last asked for, at most ``limit`` of them.

    A text that is not there is encoded alone: then its answer depends on nothing but the text, and a run that was
    stopped, which comes back with nothing held, goes on exactly as one that was not.
    """

    def __init__(self, limit: int, dtype: torch.dtype):
        self.limit, self.dtype = limit, dtype
        self.held: OrderedDict[str, Rows] = OrderedDict()

    def get(self, texts: Sequence[str], answer: Answer) -> dict[str, Rows]:
        """The answers to ``texts``, those that are not held from ``answer``."""
        found = {}
        for text in texts:
            if text in self.held:
                self.held.move_to_end(text)
            else:
                self.held[text] = kept(answer([text])[text], self.dtype)
            found[text] = self.held[text]
            if len(self.held) > self.limit:
                self.held.popitem(last=False)
        return found


class Shards:
    """The answers to all captions of a data set, mapped from disk."""

    def __init__(self, folder: Path, dtype: torch.dtype):
        self.folder, self.dtype = folder, dtype
        self.files: list = []
        self.places: dict[str, tuple[int, int]] = {}  # text to (file, number in it)
        for path in sorted(folder.glob("shard-*.safetensors")):
            self._open(path)

    def get(self, texts: Sequence[str], answer: Answer) -> dict[str, Rows]:
        """The answers to ``texts``; those that are not of the data set are encoded alone."""
        return {text: self._read(*self.places[text]) if text in self.places else kept(answer([text])[text], self.dtype)
                for text in texts}

    def fill(self, texts: Iterable[str], answer: Answer, report: Callable[[str], None] = lambda _: None) -> int:
        """Write what is lacking of ``texts`` and say how many that was.  UserError when the disk refuses."""
        lacking = sorted(set(texts) - self.places.keys())
        for start in range(0, len(lacking), SHARD):
            some = lacking[start : start + SHARD]
            rows: list[Rows] = []
            for i in range(0, len(some), GROUP):
                group = some[i : i + GROUP]
                found = answer(group)
                rows += [kept(found[text], self.dtype) for text in group]
            path = self.folder / f"shard-{len(self.files):05d}.safetensors"
            with disk_errors(path), replacing(path) as temporary:
                save_file(_packed(rows), temporary, metadata={"texts": json.dumps(some)})
            self._open(path)
            report(f"Text encoded: {start + len(some)} of {len(lacking)} captions.")
        return len(lacking)

    def _open(self, path: Path) -> None:
        try:
            file = safe_open(path, "pt")
            texts = json.loads((file.metadata() or {})["texts"])
        except (SafetensorError, OSError, KeyError, ValueError):
            raise UserError(f"{path} is damaged: delete {self.folder}, and its captions are encoded again.") from None
        towers = sum(1 for key in file.keys() if key.endswith(".ends"))  # noqa: SIM118
        ends = [file.get_tensor(f"{i}.ends") for i in range(towers)]
        self.places |= {text: (len(self.files), n) for n, text in enumerate(texts)}
        self.files.append((file, set(file.keys()), ends))

    def _read(self, index: int, n: int) -> Rows:
        file, names, ends = self.files[index]

        def part(i: int, name: str) -> Tensor | None:
            column = ("text", "real", "pooled").index(name)
            start, end = (0 if n == 0 else int(ends[i][n - 1, column])), int(ends[i][n, column])
            return file.get_slice(f"{i}.{name}")[start:end] if f"{i}.{name}" in names else None

        def row(i: int) -> Row:
            pooled = part(i, "pooled")
            return Row(part(i, "text"), part(i, "real"), None if pooled is None else pooled[0])

        return tuple(row(i) for i in range(len(ends)))


def kept(rows: Rows, dtype: torch.dtype) -> Rows:
    """Answers on the CPU, in the numbers they are kept in."""
    def cast(part: Tensor | None) -> Tensor | None:
        return None if part is None else part.to("cpu", dtype).clone()

    return tuple(Row(cast(row.text), None if row.real is None else row.real.cpu().clone(), cast(row.pooled))
                 for row in rows)


def _packed(rows: Sequence[Rows]) -> dict[str, Tensor]:
    """Answers to many texts as few tensors: of each tower all rows after each other, and where each of them ends."""
    packed: dict[str, Tensor] = {}
    for i in range(len(rows[0])):
        own = [row[i] for row in rows]
        parts = {"text": [row.text for row in own], "real": [row.real for row in own],
                 "pooled": [None if row.pooled is None else row.pooled[None] for row in own]}
        lengths = torch.zeros(len(own), 3, dtype=torch.long)
        for column, (name, tensors) in enumerate(parts.items()):
            there = [tensor for tensor in tensors if tensor is not None]
            if there:
                packed[f"{i}.{name}"] = torch.cat(there)
                lengths[:, column] = torch.tensor([len(tensor) for tensor in there])
        packed[f"{i}.ends"] = lengths.cumsum(0)
    return packed
