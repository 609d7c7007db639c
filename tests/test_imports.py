"""The floors hold, and importing is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "fromnoise"
FLOORS = {
    "types": 0, "config": 0, "random": 0, "media": 0, "files": 0, "folders": 0, "weights": 0, "figures": 0, "films": 0,
    "machine": 0,
    "process": 1, "blocks": 1, "perception": 1,
    "data": 2, "text": 2, "latents": 2, "nets": 2, "terms": 2,
    "analytic": 2, "denoise": 3, "sample": 4, "settings": 5, "recipe": 5, "system": 5, "given": 5, "actions": 5,
    "windows": 5,
    "train": 6, "output": 5, "evaluate": 6, "generate": 6, "codec": 6, "interop": 7, "opening": 7,
    "worlds": 7, "sharing": 7, "recipes": 7, "studio": 7, "showing": 7, "workflow": 7, "compare": 7, "demo": 7,
    "cli": 7, "__main__": 7,
}
# On these floors rooms are stacked: a later one may use an earlier one.
STACKED = ["types", "config", "random", "files", "folders", "media", "films", "weights", "settings", "recipe", "system",
           "given", "actions", "windows", "output", "interop", "opening",
           "recipes", "studio", "worlds", "showing", "sharing", "workflow", "compare", "demo", "cli", "__main__"]
FILES = sorted(ROOT.rglob("*.py"))


def imports(code: str) -> set[str]:
    """Rooms of fromnoise that a module imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "rooms are imported by their full name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    rooms = {name.split(".")[1] for name in found if name.startswith("fromnoise.")}
    return rooms & FLOORS.keys()


def allowed(room: str, other: str) -> bool:
    """Whether ``room`` may import ``other``."""
    stacked = room in STACKED and other in STACKED and STACKED.index(other) < STACKED.index(room)
    return room == other or FLOORS[other] < FLOORS[room] or stacked


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_only_from_lower_floors(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if room == "__init__":
        return
    assert room in FLOORS, f"{room} has no floor: give it one"
    high = [other for other in imports(path.read_text(encoding="utf-8")) if not allowed(room, other)]
    assert not high, f"{room} (floor {FLOORS[room]}) imports {', '.join(high)}"


@pytest.mark.parametrize(("room", "code"), [
    ("process", "from fromnoise.nets import UNet"),
    ("nets", "import fromnoise.data.digits"),
    ("train", "def f():\n    from fromnoise import generate"),
    ("recipe", "from fromnoise.system import System"),
    ("types", "from fromnoise.config import spec"),
])
def test_an_import_from_above_or_beside_is_seen(room, code):
    assert not all(allowed(room, other) for other in imports(code))


def test_every_floor_has_its_room():
    there = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in FILES}
    assert there - {"__init__"} == FLOORS.keys()


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running ``code``."""
    command = [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {name.split(".")[0] for name in out.split()}


def test_import_fromnoise_is_light():
    heavy = {"torch", "numpy", "pydantic", "matplotlib", "sklearn", "scipy", "tokenizers", "jinja2", "rich", "PIL",
             "tyro"}
    assert not loaded_by("import fromnoise") & heavy


def test_loading_and_training_import_no_plotting_learning_or_web_libraries():
    heavy = {"matplotlib", "sklearn", "scipy", "tokenizers", "jinja2", "fastapi", "gradio", "tensorboard", "diffusers",
             "transformers", "tyro"}
    assert not loaded_by("import fromnoise, fromnoise.recipes, fromnoise.workflow; fromnoise.load") & heavy


def test_help_needs_neither_torch_nor_tyro():
    assert not loaded_by("from fromnoise.cli import main; main(['--help'])") & {"torch", "tyro", "pydantic", "rich"}


def test_public_names_exist():
    import fromnoise

    for name in fromnoise.__all__:
        assert getattr(fromnoise, name) is not None
    with pytest.raises(AttributeError):
        fromnoise.nothing  # noqa: B018
