"""The floors hold, and importing is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "fromnoise"
FLOORS = {
    "types": 0, "config": 0, "random": 0, "media": 0, "files": 0, "weights": 0,
    "process": 1, "blocks": 1,
    "data": 2, "text": 2, "latents": 2, "nets": 2,
    "denoise": 3, "sample": 4, "recipe": 5, "system": 5,
    "train": 6, "evaluate": 6, "generate": 6,
    "recipes": 7, "studio": 7, "workflow": 7, "demo": 7, "cli": 7, "__main__": 7,
}
# On these floors rooms are stacked: a later one may use an earlier one.
STACKED = ["types", "config", "random", "files", "media", "weights", "recipe", "system",
           "recipes", "studio", "workflow", "demo", "cli", "__main__"]


def imports(path: Path) -> set[str]:
    """Rooms of fromnoise that a file imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        found |= {name.split(".")[1] for name in names if name.startswith("fromnoise.")}
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_only_from_lower_floors(path):
    relative = path.relative_to(ROOT)
    room = relative.parts[0].removesuffix(".py")
    if room == "__init__":
        return
    assert room in FLOORS, f"{room} has no floor: give it one"
    for other in imports(path) - {room}:
        lower = FLOORS[other] < FLOORS[room]
        stacked = room in STACKED and other in STACKED and STACKED.index(other) < STACKED.index(room)
        assert lower or stacked, f"{relative} (floor {FLOORS[room]}) imports {other} (floor {FLOORS[other]})"


def loaded_by(code: str) -> set[str]:
    out = subprocess.run([sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], check=True,
                         capture_output=True, text=True).stdout
    return {name.split(".")[0] for name in out.split()}


def test_import_fromnoise_is_light():
    heavy = {"torch", "numpy", "pydantic", "matplotlib", "sklearn", "scipy", "tokenizers", "jinja2", "rich", "PIL"}
    assert not loaded_by("import fromnoise") & heavy


def test_loading_a_model_needs_no_plotting_learning_or_web_libraries():
    heavy = {"matplotlib", "sklearn", "jinja2", "fastapi", "gradio", "tensorboard", "diffusers", "transformers"}
    assert not loaded_by("import fromnoise; fromnoise.load") & heavy


def test_help_needs_no_torch():
    assert "torch" not in loaded_by("from fromnoise.cli import main; main(['--help'])")


def test_public_names_exist():
    import fromnoise

    for name in fromnoise.__all__:
        assert getattr(fromnoise, name) is not None
    with pytest.raises(AttributeError):
        fromnoise.nothing  # noqa: B018
