"""The example of guidance draws its figure, and its two densities are one where they should be."""

import importlib.util
from pathlib import Path

import pytest
from PIL import Image

FILE = Path(__file__).parent.parent / "examples" / "guidance_sharpening.py"


@pytest.fixture
def example(monkeypatch):
    spec = importlib.util.spec_from_file_location("guidance_sharpening", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "CELLS", 40)
    return module


def test_at_scale_one_guidance_draws_from_the_class(example):
    whole, points = example.world(), example.grid()
    inside = whole.of_label(1)
    got, want = (f(whole, inside, points, 1.0) for f in (example.guided, example.tempered))
    assert float(got.sum()) == pytest.approx(1, abs=0.01)
    assert float((got - want).abs().sum()) / 2 < 0.03  # by the differences between cells
    apart = (example.guided(whole, inside, points, 4.0) - example.tempered(whole, inside, points, 4.0)).abs().sum() / 2
    assert float(apart) > 0.4


def test_the_figure_is_drawn(example, tmp_path, capsys):
    example.main(str(tmp_path / "figure.png"))
    assert Image.open(tmp_path / "figure.png").width > 1000
    assert capsys.readouterr().out.count("total variation") == 3
