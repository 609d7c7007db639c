"""What towers answer to one text, so that it can be kept, and answers laid together again as a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.text.towers import Reading, Tower


@dataclass(frozen=True)
class Row:
    """One tower's answer to one text.

    text: ``[n, D]``, the tokens that count;  real: ``[L]``, where among all places of a tower that fills them they
    stand, None where they come first;  pooled: ``[P]``.
    """

    text: Tensor | None = None
    real: Tensor | None = None
    pooled: Tensor | None = None


Rows = tuple[Row, ...]  # of every tower


def rows_of(readings: Sequence[Reading], towers: Sequence[Tower]) -> list[Rows]:
    """The answers of a batch, by text: what a text had to be padded with beside longer ones is no part of them."""
    size = next(len(part) for r in readings for part in (r.text, r.pooled) if part is not None)
    pairs = list(zip(readings, towers, strict=True))
    return [tuple(_row(reading, i, tower) for reading, tower in pairs) for i in range(size)]


def _row(reading: Reading, i: int, tower: Tower) -> Row:
    text, real = (None if part is None else part[i] for part in (reading.text, reading.mask))
    if text is not None and real is not None:
        text = text[real]
        real = real if tower.fill and tower.padding == "masked" else None
    return Row(text, real, None if reading.pooled is None else reading.pooled[i])


def laid(rows: Sequence[Row], device: torch.device) -> Reading:
    """One tower's answers as a batch in float32; places that are not real hold zeros."""
    pooled = [row.pooled for row in rows if row.pooled is not None]
    texts = [row.text for row in rows if row.text is not None]
    told = torch.stack(pooled).to(device, torch.float32) if pooled else None
    if not texts:
        return Reading(pooled=told)
    reals = [torch.ones(len(text), dtype=torch.bool) if row.real is None else row.real.cpu()
             for row, text in zip(rows, texts, strict=True)]
    mask = torch.nn.utils.rnn.pad_sequence(reals, batch_first=True)
    text = torch.zeros(*mask.shape, texts[0].shape[-1], dtype=torch.float32, device=device)
    text[mask.to(device)] = torch.cat(texts).to(device, torch.float32)
    return Reading(text, None if bool(mask.all()) else mask.to(device), told)
