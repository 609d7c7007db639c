"""Worlds that models dream: stepped frame by frame."""

from fromnoise.worlds.dream import Dream, State, Stepped

__all__ = ["Dream", "State", "Stepped"]
