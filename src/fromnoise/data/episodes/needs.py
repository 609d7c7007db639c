"""Libraries that only recordings and real environments need."""

from __future__ import annotations

import importlib
from types import ModuleType

from fromnoise.types import UserError


def need(module: str, what: str, package: str = "") -> ModuleType:
    """The module, imported; UserError naming the extra where it is not installed.

    what: "Atari games need", the start of that sentence;  package: what is installed, where it is called otherwise.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{what} {package or module} ({error}): pip install 'fromnoise[worlds]'.") from None
