"""Worlds: a model of the next frame, given what is done, as an environment that can be stepped and played.

    import fromnoise
    env = fromnoise.worlds.make("runs/pong")          # a gymnasium.Env
    envs = fromnoise.worlds.make_vec("runs/pong", 4)  # a gymnasium.vector.VectorEnv
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fromnoise.worlds.opening import make as make
    from fromnoise.worlds.opening import make_vec as make_vec

__all__ = ["make", "make_vec"]


def __getattr__(name: str):
    """Public names are imported when first used, so that ``import fromnoise.worlds`` costs nothing."""
    if name in __all__:
        from fromnoise.worlds import opening

        return getattr(opening, name)
    raise AttributeError(f"module 'fromnoise.worlds' has no attribute '{name}'")
