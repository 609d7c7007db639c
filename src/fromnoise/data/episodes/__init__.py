"""Recorded episodes: frames and actions of real environments, collected, stored, read."""

from fromnoise.data.episodes.episode import About, Episode
from fromnoise.data.episodes.opening import open_recording
from fromnoise.data.episodes.source import Episodes, EpisodeSource
from fromnoise.data.episodes.world import World, environment

__all__ = ["About", "Episode", "EpisodeSource", "Episodes", "World", "environment", "open_recording"]
