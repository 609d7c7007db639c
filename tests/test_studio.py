"""What a person sees: the page and the model card, from real scans noised by hand."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from fromnoise.random import generator
from fromnoise.studio import FilmFrame, Showcase, render_page, write_card, write_page
from fromnoise.studio.card import recipe_in_words, render_card
from fromnoise.studio.page import report_rows
from fromnoise.studio.pictures import data_uris, shown_width
from fromnoise.studio.plots import POINTS, Weightings, envelope, loss_points, loss_svg, parts_svg, smooth, weighting_svg
from fromnoise.types import UserError

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def noised(x0: torch.Tensor, t: float, key: int) -> torch.Tensor:
    return (1 - t) * x0 + t * torch.randn(x0.shape, generator=generator(7, key))


def curve(steps: int) -> list[dict]:
    wiggle = torch.rand(steps, generator=generator(3)).tolist()
    return [
        {
            "step": i,
            "loss": (0.12 + 0.9 / (1 + i / 60)) * (0.8 + 0.4 * w),
            "seconds": 0.02 * i,
            "lr": 2e-3,
            "examples_per_s": 3100.0,
        }
        for i, w in enumerate(wiggle, 1)
    ]


def film_of(x0: torch.Tensor, frames: int) -> list[FilmFrame]:
    """A made-up film: the same noise fading, and a prediction that sharpens."""
    film = []
    for i in range(frames):
        t = 1 - i / (frames - 1)
        film.append(FilmFrame(t, noised(x0, t, 0), (1 - t**2) * x0 + t**2 * x0.mean()))
    return film


def digits_showcase() -> Showcase:
    from sklearn.datasets import load_digits

    data = load_digits()
    scans = torch.from_numpy(data.images).float().div(8).sub(1)[:, None, None]
    of = [scans[data.target == d] for d in range(10)]
    grid = torch.stack([noised(of[d][:8], 0.06, d) for d in range(10)])
    prompts = [f"a handwritten {w}" if d % 2 else f"the digit {d}" for d, w in enumerate(WORDS)]
    return Showcase(
        name="digits",
        headline="Handwritten digits, from a sentence",
        description="A text-to-image model trained on 1,437 real scans in under a minute, on this machine. "
        "It starts from noise and follows the words.",
        prompts=prompts,
        grid=grid,
        real=torch.stack([of[d][20] for d in range(10)]),
        real_captions=[f"a handwritten {w}" for w in WORDS],
        film=film_of(of[7][3], 13),
        film_prompt="a handwritten seven",
        previews=[
            (s, torch.stack([noised(of[d][3], 0.9 * 0.5**i, d) for d in (0, 2, 3, 5, 7, 9)]))
            for i, s in enumerate((150, 300, 450, 600, 750, 900))
        ],
        preview_prompts=[prompts[d] for d in (0, 2, 3, 5, 7, 9)],
        metrics=curve(900),
        report=[
            {
                "name": "Caption accuracy",
                "value": 0.984,
                "real": 0.986,
                "better": "higher",
                "format": "{:.1%}",
                "note": "Samples that a classifier fitted on real digits reads as the digit asked for.",
            },
            {
                "name": "Fréchet distance",
                "value": 2.31,
                "real": 1.98,
                "better": "lower",
                "format": ".2f",
                "note": "Between features of samples and of real digits; beside it, real halves.",
            },
            {
                "name": "Least covered class",
                "value": 0.93,
                "real": None,
                "better": "higher",
                "format": ".2f",
                "note": "",
            },
            {
                "name": "Nearest-neighbour ratio",
                "value": 1.04,
                "real": 1.0,
                "better": "",
                "format": ".2f",
                "note": "Distance to the closest training scan; far below 1 is copying.",
            },
        ],
        facts={
            "parameters": "0.94 M",
            "training time": "38 s",
            "caption accuracy": "98.4 %",
            "peak memory": "412 MB",
            "core-seconds": "49",
            "machine": "4 cores, x86_64",
            "torch": "2.13.0",
            "steps": "900",
        },
        recipe={
            "format": 1,
            "name": "digits",
            "data": {"kind": "digits"},
            "net": {"kind": "trunk", "width": 96, "single": 4},
            "path": {"kind": "flow"},
            "sample": {"solver": "dpmpp_2m", "steps": 20, "guidance": 1.5},
        },
        command="fromnoise train digits --out runs/digits --train.steps 900 --seed 0",
    )


def colour_showcase() -> Showcase:
    """32-pixel coloured discs with soft edges, longer prompts and fewer samples."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    colours = {
        "red": (0.7, -0.6, -0.6),
        "green": (-0.6, 0.4, -0.5),
        "blue": (-0.6, -0.4, 0.8),
        "yellow": (0.9, 0.7, -0.7),
        "purple": (0.2, -0.6, 0.6),
    }

    def scene(first: str, second: str, key: int) -> torch.Tensor:
        u = torch.rand(4, generator=generator(key)).mul(4).tolist()
        picture = torch.full((3, 32, 32), 0.92)
        for colour, cx, cy, r in ((first, 10 + u[0], 8 + u[1], 4.0), (second, 14 + u[2], 20 + u[3], 6.0)):
            inside = (r + 0.5 - ((x - cx) ** 2 + (y - cy) ** 2).sqrt()).clamp(0, 1)
            picture = picture * (1 - inside) + torch.tensor(colours[colour])[:, None, None] * inside
        return picture[None]

    names = list(colours)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]][:6]
    prompts = [f"a small {a} circle above a large {b} circle" for a, b in pairs]
    grid = torch.stack(
        [torch.stack([scene(a, b, 10 * i + j) for j in range(6)]) for i, (a, b) in enumerate(pairs)]
    )
    return Showcase(
        name="shapes",
        headline="Sentences it never saw",
        description="Every prompt here was held out of training: the model combines words it knows.",
        prompts=prompts,
        grid=grid,
        real=torch.stack([scene(a, b, 900 + i) for i, (a, b) in enumerate(pairs)]),
        real_captions=prompts,
        film=film_of(grid[0, 0], 21),
        film_prompt=prompts[0],
        previews=[
            (s, noised(grid[:, 0], 0.8 * 0.6**i, i)) for i, s in enumerate((400, 800, 1200, 1600, 2000, 2400))
        ],
        metrics=curve(600),
        report=[
            {
                "name": "Everything right",
                "value": 0.943,
                "real": 0.999,
                "better": "higher",
                "format": ".1%",
                "note": "Count, colours, shapes, sizes and the relation, read back by an exact oracle.",
            }
        ],
        facts={"parameters": "0.74 M", "training time": "81 s", "prompts followed": "94.3 %"},
        command="fromnoise train shapes --out runs/shapes",
    )


@pytest.fixture(scope="module")
def page() -> str:
    return render_page("fromnoise demo", [digits_showcase(), colour_showcase()])


class Reader(HTMLParser):
    """Collects a page and checks that every element is closed in order."""

    VOID = frozenset({"meta", "link", "img", "input", "br"})

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    @property
    def text(self) -> str:
        return "".join(data for tag, data in self.texts if tag not in ("script", "style"))

    def values(self, name: str) -> list[str]:
        return [attrs[name] for _, attrs in self.tags if name in attrs]


def test_page_loads_nothing(page):
    reader = Reader(page)
    for name in ("src", "href", "xlink:href", "action", "poster", "data", "srcset"):
        for value in reader.values(name):
            assert value.startswith(("data:image/", "#")), f"{name}={value[:60]}"
    assert not re.findall(
        r"(?:https?:)?//[a-z]|@import|url\((?!#)", re.sub(r"data:[^\"]*", "", page).replace("</", "")
    )
    policy = next(a["content"] for t, a in reader.tags if t == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy


def test_page_policy_names_the_script_it_carries(page):
    import base64
    import hashlib

    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"'sha256-{digest}'" in page


def test_page_says_everything(page):
    reader = Reader(page)
    for showcase in (digits_showcase(), colour_showcase()):
        for words in (
            showcase.headline,
            showcase.description,
            showcase.command,
            *showcase.prompts,
            *showcase.real_captions,
            *showcase.facts,
            *showcase.facts.values(),
        ):
            assert words in reader.text, words
        for row in report_rows(showcase.report):
            assert row["value"] in reader.text
            assert row["real"] in reader.text
        for frame in showcase.film:
            assert f"{frame.t:.2f}" in reader.text
        for step, _ in showcase.previews:
            assert f"{step:,}" in reader.text
    assert '"width": 96' in reader.text


def test_every_picture_has_words_and_ids_are_unique(page):
    reader = Reader(page)
    alts = [a["alt"] for t, a in reader.tags if t == "img"]
    assert "a handwritten seven, sample 8" in alts
    # Without words: for each model the two pictures of the player, which the script fills in, and the
    # four of the hero, which are decoration and hidden from screen readers.
    assert sum(not alt for alt in alts) == 2 * (2 + 4)
    idents = reader.values("id")
    assert len(idents) == len(set(idents))


def test_page_is_small(page):
    assert len(page.encode()) < 1_500_000


def test_pictures_are_the_samples_themselves():
    import base64
    import io

    from PIL import Image

    from fromnoise.media import from_uint8

    media = digits_showcase().grid[3]  # type: ignore[index]
    uri = data_uris(media)[2]
    image = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    assert image.size == (8, 8)
    back = from_uint8(np.array(image)[..., None])
    torch.testing.assert_close(back, media[2, 0].clamp(-1, 1), atol=1 / 255 + 1e-6, rtol=0)


def test_hostile_text_is_shown_not_run():
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'{{ 7*7 }}"
    showcase = digits_showcase()
    showcase.prompts[0] = showcase.film_prompt = showcase.description = showcase.headline = evil
    showcase.name = showcase.command = showcase.real_captions[0] = evil
    showcase.preview_prompts = [evil]
    showcase.recipe, showcase.facts = {evil: evil}, {evil: evil}
    showcase.report = [{"name": evil, "value": 1, "real": None, "better": evil, "format": "", "note": evil}]
    reader = Reader(render_page(evil, [showcase, showcase]))
    assert [t for t, _ in reader.tags].count("script") == 1
    assert not reader.values("onerror")
    assert f"“{evil}”" in reader.text
    assert evil in next(data for tag, data in reader.texts if tag == "title")


@pytest.mark.parametrize(
    "missing", ["grid", "real", "film", "previews", "metrics", "report", "facts", "recipe", "command"]
)
def test_any_part_may_be_missing(missing):
    showcase = digits_showcase()
    titles = {
        "real": "Real pictures",
        "film": "From noise to picture",
        "report": "How good",
        "recipe": "The whole recipe",
    }
    if missing == "grid":
        showcase.prompts = []
    setattr(
        showcase,
        missing,
        None if missing in ("grid", "real", "report") else type(getattr(showcase, missing))(),
    )
    text = Reader(render_page("x", [showcase])).text
    assert titles.get(missing, "no such title") not in text
    assert showcase.headline in text


def test_a_name_alone_is_a_page():
    assert "mine" in Reader(render_page("x", [Showcase(name="mine")])).text


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 48), (1, 40, 12), (3, 64, 64), (3, 160, 120)])
def test_any_shape_of_picture(shape):
    media = torch.rand(2, 3, 1, *shape, generator=generator(1)) * 2 - 1
    showcase = Showcase(
        "any",
        prompts=["", ""],
        grid=media,
        real=media[0],
        film=[FilmFrame(1.0, media[0, 0], media[0, 1])],
        previews=[(10, media[1])],
    )
    reader = Reader(render_page("x", [showcase]))
    images = [a for t, a in reader.tags if t == "img" and "width" in a]
    assert len(images) == 6 + 3 + 2 + 2 + 3
    assert {(a["width"], a["height"]) for a in images} == {(str(shape[2]), str(shape[1]))}


def test_small_pictures_grow_by_whole_factors():
    assert shown_width(8, 8, 73) == 72
    assert shown_width(32, 32, 72) == 64
    assert shown_width(12, 40, 72, tall=144) == 36
    assert shown_width(300, 150, 75) == 75


def test_loss_curve_skips_lines_without_a_loss():
    lines = [
        {"step": 2, "loss": 0.5},
        {"step": 1, "loss": 1.0},
        {"step": 3, "loss": float("nan")},
        {"step": 4, "accuracy": 1.0},
        {"step": 5, "loss": None},
    ]
    steps, losses = loss_points(lines)
    assert steps.tolist() == [1, 2]
    assert losses.tolist() == [1.0, 0.5]
    svg = loss_svg(lines)
    assert svg is not None
    assert "from 1 at step 1 to 0.5 at step 2" in svg
    assert loss_svg(lines[:1]) is None


def test_loss_curve_leaves_matplotlib_alone():
    import matplotlib
    from matplotlib import _pylab_helpers

    before = dict(matplotlib.rcParams)
    first, second = loss_svg(curve(50), "a"), loss_svg(curve(50), "b")
    assert dict(matplotlib.rcParams) == before
    assert not _pylab_helpers.Gcf.figs
    assert first != second
    assert first == loss_svg(curve(50), "a")
    assert "var(--accent)" in str(first)
    assert "#0" not in str(first)


def test_smooth_is_a_running_mean():
    values = torch.arange(100.0).numpy()
    assert smooth(values, 0.1)[50] == pytest.approx(50)
    assert smooth(values, 0.1)[0] == pytest.approx(2.5)
    assert smooth(values[:1]).tolist() == [0.0]


def test_a_long_run_makes_no_larger_plot():
    steps = np.arange(50_000)
    values = np.random.default_rng(0).random(50_000)
    thin_steps, thin_values = envelope(steps, values)
    assert len(thin_steps) <= 2 * POINTS
    assert (np.diff(thin_steps) > 0).all()
    assert thin_values.min() == values.min()
    assert thin_values.max() == values.max()
    assert len(str(loss_svg([{"step": i, "loss": float(v)} for i, v in enumerate(values)]))) < 150_000


def test_parts_of_the_loss_have_a_plot_of_their_own():
    lines = [{"step": i, "loss": 1.0, "lr": 0.1, "seconds": 1.0, "core_seconds": 1.0} for i in range(1, 9)]
    assert parts_svg(lines) is None
    parts = [line | {"denoising": 2.0, "repa": -i / 10} for i, line in enumerate(lines)]
    svg = parts_svg(parts, "p")
    assert ">denoising</text>" in svg
    assert ">repa</text>" in svg
    assert "lr" not in re.findall(r">([a-z_]+)</text>", svg)
    assert parts_svg([*parts, {"step": 9, "loss": 1.0, "repa": "damaged"}], "p") == svg


def test_report_rows_of_mappings_and_objects():
    from types import SimpleNamespace

    row = {"name": "a", "value": 0.5, "real": None, "better": "higher", "format": ".0%", "note": None}
    expected = [{"name": "a", "value": "50%", "real": "", "better": "higher", "note": ""}]
    assert report_rows([row]) == expected
    assert report_rows([SimpleNamespace(**row)]) == expected
    assert report_rows(SimpleNamespace(rows=[SimpleNamespace(**row)])) == expected
    assert report_rows(None) == []


def test_shapes_of_a_showcase_are_checked():
    with pytest.raises(ValueError, match="1 prompts for a grid of 2 rows"):
        Showcase("x", prompts=["a"], grid=torch.zeros(2, 1, 1, 1, 8, 8))


def test_write_page_is_atomic_and_says_why_not(tmp_path):
    path = write_page(tmp_path / "run" / "index.html", "x", [Showcase("x")])
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"index\.html"):
        write_page(tmp_path / "file" / "index.html", "x", [Showcase("x")])


def test_card(tmp_path):
    showcase = digits_showcase()
    text = write_card(tmp_path / "README.md", showcase, run="runs/digits").read_text(encoding="utf-8")
    assert "| Caption accuracy | 98.4% | 98.6% | higher |" in text
    assert 'fn.load("runs/digits")' in text
    assert "steps=20, guidance=1.5" in text
    assert "fromnoise sample runs/digits 'the digit 0'" in text
    assert "transformer over patches and words; width 96, single 4." in text
    assert "CC BY 4.0" in text
    assert all(f"| {k} | {v} |" in text for k, v in {"torch": "2.13.0", "peak memory": "412 MB"}.items())
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    compile(code[1], "card", "exec")


def test_the_card_of_glyphs_names_the_typefaces_that_are_used():
    from fromnoise.data.glyphs import FILES

    assert all(name.startswith("DejaVu") for names in FILES.values() for name in names)
    text = render_card(Showcase("glyphs", recipe={"data": {"kind": "glyphs"}}), run="runs/glyphs")
    assert "DejaVu typefaces (Sans, Serif and Sans Mono)" in text
    assert "STIX" not in text
    assert "Computer Modern" not in text


def test_recipe_in_words():
    recipe = {
        "net": {"kind": "unet", "width": 32, "multipliers": [1, 2]},
        "objective": {"loss": "x0", "stratified": False, "times": {"kind": "lognormal", "mean": 0.0}},
        "seed": 1,
    }
    assert recipe_in_words(recipe) == [
        ("Network", "U-Net; width 32, multipliers 1 2"),
        ("Objective", "loss x0, stratified off; times (lognormal, mean 0)"),
    ]


def test_card_escapes_and_does_without():
    showcase = Showcase(
        "bare",
        description="<script>x</script> | *a*",
        prompts=['say "hi"\n`$(rm)`'],
        grid=torch.zeros(1, 1, 1, 1, 8, 8),
    )
    text = render_card(showcase, run="runs/my run", licence="CC0")
    assert "&lt;script&gt;x&lt;/script&gt; \\| \\*a\\*" in text
    assert "<script" not in text
    assert "'runs/my run'" in text
    assert "CC0" in text
    assert "How good" not in text
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    compile(code[1], "card", "exec")


# ---- the weighting ----------------------------------------------------------------------------------------


def bell(middle: float) -> np.ndarray:
    return np.exp(-((np.linspace(-10, 10, 101) - middle) ** 2))


def test_the_weighting_of_a_run_stands_beside_the_named_ones():
    curves = Weightings(np.linspace(-10, 10, 101), bell(2), {"simple": bell(0), "elbo": bell(-3)}, "peak at 2.0")
    svg = weighting_svg(curves, "a")
    assert 'aria-label="Effective weighting over log-SNR: peak at 2.0"' in svg
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert [t for t in texts if t in ("this run", "simple", "elbo")] == ["this run", "simple", "elbo"]
    assert "var(--accent)" in svg
    showcase = digits_showcase()
    assert "What the loss pays attention to" not in render_page("x", [showcase])
    showcase.weighting = curves
    page = render_page("x", [showcase, showcase])
    Reader(page)
    assert page.count("What the loss pays attention to") == 2
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_the_curve_peaks_where_the_weighting_does():
    """The highest point drawn of this run's line, as a share of the width from clean (10) to noise (-10)."""
    svg = weighting_svg(Weightings(np.linspace(-10, 10, 101), bell(5), {}), "a")
    line = max(re.findall(r'<path d="([^"]+)"[^>]*stroke: var\(--accent\)', svg.replace("\n", " ")), key=len)
    x, y = np.array([[float(v) for v in pair] for pair in re.findall(r"[ML] ([\d.-]+) ([\d.-]+)", line)]).T
    assert (x[y.argmin()] - x.min()) / (x.max() - x.min()) == pytest.approx(0.25, abs=0.02)
