"""Worlds that models dream: a model of the next frame, given what is done, stepped, played and used as an environment.

    import fromnoise
    env = fromnoise.worlds.make("runs/pong")          # a gymnasium.Env
    envs = fromnoise.worlds.make_vec("runs/pong", 4)  # a gymnasium.vector.VectorEnv
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fromnoise.worlds.dream import Dream as Dream
    from fromnoise.worlds.dream import State as State
    from fromnoise.worlds.dream import Stepped as Stepped
    from fromnoise.worlds.opening import make as make
    from fromnoise.worlds.opening import make_vec as make_vec
    from fromnoise.worlds.tuning import tune as tune

_PUBLIC = {"Dream": "dream", "State": "dream", "Stepped": "dream", "make": "opening", "make_vec": "opening",
           "tune": "tuning"}

__all__ = ["Dream", "State", "Stepped", "make", "make_vec", "tune"]


def __getattr__(name: str):
    """Public names are imported when first used, so that ``import fromnoise.worlds`` costs nothing."""
    if name in _PUBLIC:
        import importlib

        return getattr(importlib.import_module(f"fromnoise.worlds.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'fromnoise.worlds' has no attribute '{name}'")
