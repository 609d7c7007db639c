"""The documents are right: links lead somewhere, commands are understood, code compiles and names what is there."""

import ast
import contextlib
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fromnoise
from fromnoise.cli import (
    COMMANDS,
    bench,
    demo,
    encode,
    evaluate,
    measure_worlds,
    play,
    presets,
    sample,
    train,
    tune,
    worlds,
)
from fromnoise.cli.options import parse
from fromnoise.data.episodes import Episodes
from fromnoise.latents import KL
from fromnoise.recipe import Recipe
from fromnoise.types import Acts

ROOT = Path(__file__).parent.parent
DOCUMENTS = [p for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")] if p.stat().st_size]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")


def blocks(language: str) -> list:
    """Every code block of a language, with the document it is in as its id."""
    return [pytest.param(code, id=f"{p.relative_to(ROOT)}-{i}") for p in DOCUMENTS
            for i, (name, code) in enumerate(BLOCK.findall(p.read_text(encoding="utf-8"))) if name == language]


def commands(program: str) -> list[str]:
    """Command lines of a program in shell blocks, once each, without comments."""
    lines = (line for block in blocks("sh") for line in block.values[0].splitlines())
    return sorted({line.split("#")[0].strip() for line in lines if line.startswith(program + " ")})


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    for link in LINK.findall(document.read_text(encoding="utf-8")):
        assert "://" in link or (document.parent / link).exists(), f"{document.name} links to {link}"


def test_documents_show_commands():
    assert commands("fromnoise")
    assert commands("make")


@pytest.mark.parametrize("line", commands("fromnoise"))
def test_commands_are_understood(line, capsys, monkeypatch):
    # The folders that documents name are not here.
    monkeypatch.setattr(train, "with_autoencoder", lambda recipe, source: replace(recipe, latents=KL()))
    _, name, *args = shlex.split(line)
    assert name in COMMANDS
    module = {"bench": bench, "demo": demo, "evaluate": evaluate, "play": play, "sample": sample,
              "tune": tune}.get(name)
    with pytest.raises(SystemExit) if "--help" in args else contextlib.nullcontext():
        if name == "train":
            recipe, *_ = train.resolve(args)
            if isinstance(recipe, Recipe):
                with torch.device("meta"):
                    acts = Acts(choices=3) if isinstance(recipe.data, Episodes) else None  # a recording tells which
                    recipe.net.build(4, 8, 8, acts)  # which refuses what does not go together
        elif name == "encode":
            train.resolve(args, "encode", {"diffusion": encode.Arguments})
        elif name == "presets":
            assert presets.main(args) == 0
        elif name == "worlds" and args[0] == "measure":
            parse(measure_worlds.Arguments, args[1:], "fromnoise worlds measure")
        elif name == "worlds":
            worlds.play_of(args[1], parse(worlds.Arguments, args[2:], "fromnoise worlds collect"))
        elif module is not None:
            sample.read(args) if module is sample else parse(module.Arguments, args, f"fromnoise {name}")


@pytest.mark.parametrize("line", commands("make"))
def test_make_targets_exist(line):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [word for word in shlex.split(line)[1:] if "=" not in word]
    assert targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_compiles_and_names_what_is_there(code):
    tree = ast.parse(code)
    used = {node.attr for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "fn"}
    assert all(getattr(fromnoise, name) is not None for name in used)
