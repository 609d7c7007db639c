"""The page of a run: one HTML file that holds everything it shows and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from torch import Tensor

from fromnoise.files import write_text
from fromnoise.films import PLAYED
from fromnoise.studio.pictures import data_uris, shown_width
from fromnoise.studio.plots import Weightings, loss_points, loss_svg, parts_svg, weighting_svg

FRAMES = 16  # of a film that are shown one beside the other, at most
DIFFERENCE = 4  # how many times larger differences are shown than they are


@dataclass
class FilmFrame:
    """One moment of sampling at noise level ``t``: the noisy picture and the clean one predicted from it.

    x_t, x0: ``[T, C, H, W]``, frames x channels x height x width, in [-1, 1].
    """

    t: float
    x_t: Tensor
    x0: Tensor


@dataclass
class Showcase:
    """What there is to show of one model.  Every part but the name may be missing, and is then left out.

    prompts, grid: P prompts and ``[P, S, T, C, H, W]`` in [-1, 1], S samples of each;  fps: frames a second of
    films, of which T is above 1.
    originals, reconstructions: ``[R, T, C, H, W]``, pictures or films before and after they went through an
    autoencoder; with ``small``, as large as these, they are true pictures and what was made of the small ones.
    real, real_captions: ``[R, T, C, H, W]``, true pictures of the data and what they show.
    film, film_prompt: one sample from noise (first) to picture (last).
    previews, preview_prompts: (step, ``[n, T, C, H, W]``), the same n prompts and seeds as training went on.
    metrics: lines of ``metrics.jsonl``; those with a finite ``loss`` make the curve, and what they say of its parts
    one of its own.
    weighting: the effective weighting of the recipe over log-SNR, beside those of the literature.
    report: rows of the evaluation, or a report with ``rows`` (name, value, real, format, better, note) and
    ``how``, one line on what they were measured.
    facts: time, memory, size, machine, as words; the first four are shown large.
    recipe, command: the resolved recipe as JSON types, and the exact command that repeats the run.
    """

    name: str
    headline: str = ""
    description: str = ""
    prompts: list[str] = field(default_factory=list)
    grid: Tensor | None = None
    fps: float = 0.0
    originals: Tensor | None = None
    reconstructions: Tensor | None = None
    small: Tensor | None = None
    real: Tensor | None = None
    real_captions: list[str] = field(default_factory=list)
    film: list[FilmFrame] = field(default_factory=list)
    film_prompt: str = ""
    previews: list[tuple[int, Tensor]] = field(default_factory=list)
    preview_prompts: list[str] = field(default_factory=list)
    metrics: list[dict] = field(default_factory=list)
    weighting: Weightings | None = None
    report: Any = None
    facts: dict[str, str] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    command: str = ""

    def __post_init__(self) -> None:
        if self.grid is not None and len(self.prompts) != self.grid.shape[0]:
            raise ValueError(f"{len(self.prompts)} prompts for a grid of {self.grid.shape[0]} rows")
        if self.real is not None and len(self.real_captions) not in (0, self.real.shape[0]):
            raise ValueError(f"{len(self.real_captions)} captions for {self.real.shape[0]} real pictures")


def write_page(path: str | Path, title: str, showcases: Sequence[Showcase]) -> Path:
    """Write the page, whole or not at all, and return its path.  UserError when it cannot be written."""
    write_text(Path(path), render_page(title, showcases))
    return Path(path)


def render_page(title: str, showcases: Sequence[Showcase]) -> str:
    """The page as HTML.  All text is escaped, and the page's own policy forbids any other script or load."""
    script = _template("page.js")
    models = [_view(showcase, f"m{i}") for i, showcase in enumerate(showcases, 1)]
    icons = [m["grid"]["rows"][0]["uris"] if m["grid"] else m["through"]["strips"][0][0]["uris"][1:]
             for m in models if m["grid"] or m["through"]]
    icon = icons[0][0] if icons else None
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            models=models,
            icon=icon,
            style=_template("page.css"),
            script=script,
            script_digest=digest,
        )
    )


def page_style() -> str:
    """The style sheet, for other pages that look alike."""
    return _template("page.css")


def environment(autoescape: bool = True):
    """The studio's templates; a name that a template lacks is an error, never an empty string."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def report_rows(report: Any) -> list[dict[str, str]]:
    """Rows of an evaluation as words: name, value, real, better ("higher", "lower" or ""), note.

    A row is a mapping or an object; ``real`` and ``note`` may be None.
    """
    rows = []
    for row in getattr(report, "rows", report) or []:
        get = (
            row.get
            if isinstance(row, dict)
            else lambda key, default=None, row=row: getattr(row, key, default)
        )
        form = get("format") or ""
        better = {"up": "higher", "down": "lower"}.get(get("better") or "", get("better") or "")
        rows.append(
            {
                "name": str(get("name")),
                "value": _number(get("value"), form),
                "real": _number(get("real"), form),
                "better": better,
                "note": str(get("note") or ""),
            }
        )
    return rows


def report_how(report: Any) -> str:
    """What the rows were measured on, on one line; "" where the report does not say."""
    return str(getattr(report, "how", ""))


def _number(value: Any, form: str) -> str:
    """A number by a format ("{:.1%}" or ".1%"), four significant digits without one; "" for None."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not form:
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return form.format(value) if "{" in form else format(value, form)


def _view(s: Showcase, ident: str) -> dict[str, Any]:
    """A showcase as the strings and sizes that the template lays out."""
    facts = list(s.facts.items())
    grid = _grid(s)
    return {
        "id": ident,
        "name": s.name,
        "headline": s.headline or s.name,
        "description": s.description,
        "grid": grid,
        "through": _through(s),
        "strips": _strips(s),
        "real": _real(s, grid),
        "film": _film(s),
        "stair": _stair(s),
        "previews": _previews(s),
        "loss": loss_svg(s.metrics, ident),
        "loss_words": _loss_words(s.metrics),
        "parts": parts_svg(s.metrics, f"{ident}p"),
        "weighting": weighting_svg(s.weighting, f"{ident}w") if s.weighting else None,
        "weighting_words": s.weighting.words if s.weighting else "",
        "report": report_rows(s.report),
        "report_how": report_how(s.report),
        "highlights": facts[:4],
        "facts": facts[4:],
        "recipe": json.dumps(s.recipe, indent=2, ensure_ascii=False) if s.recipe else "",
        "command": s.command,
    }


def _sizes(height: int, width: int, across: float) -> dict[str, Any]:
    """Native and shown sizes of pictures, and whether they are enlarged (then without blur)."""
    shown = shown_width(width, height, across)
    return {"w": width, "h": height, "shown": shown, "crisp": shown >= width}


def _grid(s: Showcase) -> dict[str, Any] | None:
    if s.grid is None or s.grid.numel() == 0:
        return None
    samples, height, width = s.grid.shape[1], s.grid.shape[-2], s.grid.shape[-1]
    across = min(112.0, max(56.0, (632 - 8 * (samples - 1)) / samples))
    rows = [{"prompt": p, "uris": data_uris(media, s.fps)} for p, media in zip(s.prompts, s.grid, strict=True)]
    return {
        "rows": rows,
        "across": min(samples, 8),
        "prompted": any(s.prompts),
        "thing": "picture" if s.grid.shape[2] == 1 else "film",
        **_sizes(height, width, across),
    }


def _strips(s: Showcase) -> dict[str, Any] | None:
    """The first film of each prompt, frame by frame: a column for each time."""
    if s.grid is None or s.grid.shape[2] == 1 or s.grid.numel() == 0:
        return None
    films, (height, width) = s.grid[:, 0], s.grid.shape[-2:]
    shown = _spread(films.shape[1])
    columns = [{"time": f"{i / (s.fps or PLAYED):.2f}", "uris": data_uris(films[:, i : i + 1])} for i in shown]
    return {"columns": columns, "prompts": s.prompts, **_sizes(height, width, _across(len(shown)))}


def _spread(count: int) -> list[int]:
    """The frames of so many that are shown: all, or ``FRAMES`` from the first to the last."""
    return sorted({round(i * (count - 1) / (FRAMES - 1)) for i in range(FRAMES)})


def _through(s: Showcase) -> dict[str, Any] | None:
    """Pictures before and after an autoencoder, and how they differ; or small ones, what is made of them, true ones."""
    if s.originals is None or s.reconstructions is None:
        return None
    films = s.originals.shape[1] > 1
    if s.small is not None:
        words = {"title": "Enlarged", "again": "enlarged",
                 "about": "Pictures that it was not trained on, brought down; what it makes of them; the true ones."}
        rows = {"given": s.small, "made of it": s.reconstructions, "true": s.originals}
    else:
        about = (f"{'Films' if films else 'Pictures'} that it was not trained on, what comes back of them, and how the "
                 "two differ: grey is no difference.")
        words = {"title": "Through the autoencoder", "again": "brought back", "about": about + (
            " A strip for each film, and above each column the number of its frame." if films else "")}
        difference = ((s.reconstructions - s.originals) * DIFFERENCE).clamp(-1, 1)
        rows = {"original": s.originals, "comes back as": s.reconstructions,
                f"difference, {DIFFERENCE}-fold": difference}
    strips = _film_strips(list(rows.values())) if films else [_columns(list(rows.values()), range(len(s.originals)), 1)]
    height, width = s.originals.shape[-2:]
    return {"strips": strips, "rows": list(rows), "thing": "film" if films else "picture", **words,
            **_sizes(height, width, _across(len(strips[0])) if films else 72)}


def _film_strips(rows: Sequence[Tensor]) -> list[list[dict[str, Any]]]:
    """A strip for each film of rows ``[R, T, C, H, W]``, of frames that count from 0."""
    shown = _spread(rows[0].shape[1])
    return [_columns([media[:, None] for media in films], shown, 0) for films in zip(*rows, strict=True)]


def _columns(rows: Sequence[Tensor], shown: Sequence[int], first: int) -> list[dict[str, Any]]:
    """Some of the pictures ``[n, 1, C, H, W]`` of every row, below each other; ``first``: the number of the first."""
    return [{"number": i + first, "uris": [uri for media in rows for uri in data_uris(media[i : i + 1])]}
            for i in shown]


def _across(count: int) -> float:
    """CSS pixels for each of so many frames beside each other."""
    return min(112.0, max(56.0, (1080 - 8 * (count - 1)) / count))


def _real(s: Showcase, grid: dict[str, Any] | None) -> dict[str, Any] | None:
    """Real pictures, as large as the samples beside them where they stand beside them."""
    if s.real is None or s.real.numel() == 0:
        return None
    height, width = s.real.shape[-2:]
    captions = s.real_captions or [""] * s.real.shape[0]
    beside = grid is not None and len(captions) <= len(s.prompts) + 2
    across = min(96, grid["shown"]) if grid is not None and beside else 72
    return {
        "pairs": list(zip(captions, data_uris(s.real, s.fps), strict=True)),
        "thing": "picture" if s.real.shape[1] == 1 else "film",
        "beside": beside,
        "wordy": max(map(len, captions)) > 30,
        **_sizes(height, width, across),
    }


def _film(s: Showcase) -> dict[str, Any] | None:
    if not s.film:
        return None
    height, width = s.film[0].x_t.shape[-2:]
    frames = [
        {"t": f"{f.t:.2f}", "x_t": data_uris(f.x_t[None], s.fps)[0], "x0": data_uris(f.x0[None], s.fps)[0]}
        for f in s.film
    ]
    large = shown_width(width, height, 256, 256)
    thing = "picture" if s.film[0].x_t.shape[0] == 1 else "film"
    return {"frames": frames, "prompt": s.film_prompt, "large": large, "thing": thing, **_sizes(height, width, 72)}


def _stair(s: Showcase) -> list[tuple[str, int]]:
    """Four moments of the film, each shown larger than the one before: (uri, width)."""
    if not s.film:
        return []
    height, width = s.film[0].x_t.shape[-2:]
    sizes = (40, 64, 104, 168)
    moments = [s.film[round(i * (len(s.film) - 1) / 3)] for i in range(4)]
    return [
        (data_uris(f.x_t[None], s.fps)[0], shown_width(width, height, size, size))
        for f, size in zip(moments, sizes, strict=True)
    ]


def _previews(s: Showcase) -> dict[str, Any] | None:
    if not s.previews:
        return None
    height, width = s.previews[0][1].shape[-2:]
    count = s.previews[0][1].shape[0]
    prompts = (s.preview_prompts + [""] * count)[:count]
    steps = [{"step": f"{step:,}", "uris": data_uris(media, s.fps)} for step, media in s.previews]
    return {"steps": steps, "prompts": prompts, **_sizes(height, width, 64)}


def _loss_words(metrics: Sequence[dict]) -> str:
    """What the curve does not say: how many steps, how long, how fast."""
    steps, _ = loss_points(metrics)
    if not len(steps):
        return ""
    last = next(m for m in reversed(metrics) if "loss" in m)
    words = [f"{int(steps[-1]):,} steps"]
    if isinstance(last.get("seconds"), int | float):
        words.append(f"{last['seconds']:,.0f} s")
    if isinstance(last.get("examples_per_s"), int | float):
        words.append(f"{last['examples_per_s']:,.0f} examples/s")
    return " · ".join(words)


def _template(name: str) -> str:
    return resources.files("fromnoise.studio").joinpath("templates", name).read_text(encoding="utf-8")
