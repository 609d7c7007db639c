"""Every example runs and ends in a picture."""

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

STEPS = {"discriminator": "80", "real_clip": "20"}  # of those that train, for minutes otherwise
EXAMPLES = [pytest.param(path, id=path.stem, marks=[pytest.mark.long] if path.stem in STEPS else [])
            for path in sorted((Path(__file__).parent.parent / "examples").glob("*.py"))]


@pytest.mark.parametrize("path", EXAMPLES)
def test_an_example_ends_in_a_picture(path, tmp_path, monkeypatch):
    steps = [STEPS[path.stem]] if path.stem in STEPS else []
    monkeypatch.setattr(sys, "argv", [str(path), str(tmp_path / "picture.png"), *steps])
    monkeypatch.syspath_prepend(str(path.parent))
    runpy.run_path(str(path), run_name="__main__")
    with Image.open(tmp_path / "picture.png") as picture:
        assert min(picture.size) >= 400
        assert len(picture.convert("RGB").resize((64, 64)).getcolors(4096) or []) > 50
