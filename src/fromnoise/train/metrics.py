"""metrics.jsonl, and trackers beside it."""

from __future__ import annotations

import json
from pathlib import Path

from fromnoise.files import disk_errors, write_text
from fromnoise.types import UserError


class MetricsLog:
    """One JSON object a line, appended as training goes; TensorBoard as well where it is asked for."""

    def __init__(self, run: Path, tracker: str = "none"):
        self.path = run / "metrics.jsonl"
        self.run, self.writer = run, None
        self.summary_writer = _tensorboard() if tracker == "tensorboard" else None

    def cut(self, step: int) -> None:
        """Forget what lies beyond ``step``, written by a killed run after its last checkpoint; open the tracker."""
        if self.path.exists():
            lines = read_metrics(self.path)
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines if line["step"] <= step))
        if self.summary_writer is not None:
            self.writer = self.summary_writer(str(self.run / "tensorboard"), purge_step=step + 1)

    def write(self, line: dict) -> None:
        with disk_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.writer is not None:
            for name in line.keys() - {"step", "seconds", "core_seconds"}:
                self.writer.add_scalar(name, line[name], line["step"])

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def read_metrics(path: Path) -> list[dict]:
    """The lines of a metrics.jsonl; damaged ones, such as a half-written last line, are left out."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if _whole(line):
            lines.append(line)
    return lines


def _whole(line: object) -> bool:
    """Whether a line has a step and a loss, and every number in it is one."""
    if not isinstance(line, dict) or not {"step", "loss"} <= line.keys() or not isinstance(line["step"], int):
        return False
    numbers = [line[name] for name in ("loss", "lr", "seconds", "core_seconds") if name in line]
    return all(isinstance(number, int | float) for number in numbers)


def _tensorboard():
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("The tensorboard tracker needs an extra: pip install 'fromnoise[track]'.") from None
    return SummaryWriter
