"""Who plays: a policy is a function ``(observation, info, rng) -> action``.

observation: what the environment itself observes;  info: what it says beside, with ``info["frame"]`` the picture that
is recorded;  rng: a NumPy generator of this episode, from which alone a policy may draw.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from fromnoise.config import nearest
from fromnoise.data.episodes.actions import Actions, Continuous, Discrete
from fromnoise.data.episodes.world import CALLED
from fromnoise.types import UserError

Policy = Callable[[Any, dict[str, Any], np.random.Generator], Any]


def find(name: str, actions: Actions) -> Policy:
    """A policy by its name here, or module:function.  UserError where it is not there or does not fit."""
    if name in POLICIES:
        return POLICIES[name](actions)
    module, colon, function = name.partition(":")
    if not colon:
        raise UserError(f'There is no policy "{name}". {nearest(name, POLICIES)} A function of yours is '
                        "module:function.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a module beside which the command is called
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"The policy {name} cannot be imported: {error}.") from None
    if not callable(found):
        raise UserError(f"The policy {name} is no function: it must answer (observation, info, rng) with an action.")
    return found


def at_random(actions: Actions) -> Policy:
    """Any action, all alike."""
    return lambda observation, info, rng: actions.draw(rng)


def wander(actions: Actions) -> Policy:
    """Through a grid: half the steps go forward, a quarter turns, the rest is anything else."""
    if not isinstance(actions, Discrete) or "forward" not in actions.meanings:
        raise UserError("The policy wander is for MiniGrid's worlds, whose actions include forward.")
    shares = np.ones(actions.n) * 0.25 / max(1, actions.n - 3)
    for name, share in (("forward", 0.5), ("left", 0.125), ("right", 0.125)):
        shares[actions.meanings.index(name)] = share
    return lambda observation, info, rng: rng.choice(actions.n, p=shares / shares.sum())


def rally(actions: Actions) -> Policy:
    """Pong and MinAtar's Breakout: the racket follows the ball, so that it is played back and forth."""
    if isinstance(actions, Discrete) and actions.meanings == ("n", "l", "r"):
        return under_ball
    if not isinstance(actions, Discrete) or not {"NOOP", "FIRE", "RIGHT", "LEFT"} <= set(actions.meanings):
        raise UserError("The policy rally is for ALE/Pong-v5 and MinAtar/Breakout-v1.")
    up, down, stay = (actions.meanings.index(name) for name in ("RIGHT", "LEFT", "NOOP"))

    def follow(observation: np.ndarray, info: dict[str, Any], rng: np.random.Generator) -> int:
        court = observation[34:194]  # below the score, above the lower border
        ball, _ = np.nonzero(court[:, 20:140, 2] == 236)
        racket, _ = np.nonzero(court[:, 140:144, 0] == 92)
        if not len(ball) or not len(racket):
            return stay
        away = ball.mean() - racket.mean()
        return stay if abs(away) < 4 else down if away > 0 else up

    return follow


def under_ball(observation: np.ndarray, info: dict[str, Any], rng: np.random.Generator) -> int:
    """Of MinAtar's Breakout: as it pleases while there is time, then to where the ball comes down."""
    stay, left, right = range(3)
    paddle = int(observation[9, :, 0].argmax())
    (y, x), (was_y, was_x) = (divmod(int(observation[..., channel].argmax()), 10) for channel in (1, 2))
    falls, drift = y > was_y or (y == was_y and y < 8), np.sign(x - was_x) or (-1 if x == 9 else 1)
    steps = 9 - y if falls else y + 2  # until it is down, at once again from the lowest bricks
    lands = (x + drift * steps) % 20  # walls are mirrors
    away = (lands if lands < 10 else 19 - lands) - paddle
    if steps > abs(away) + 2:
        return int(rng.integers(3))
    return left if away < 0 else right if away > 0 else stay


def defend(actions: Actions) -> Policy:
    """MinAtar's Space Invaders: out of the way of bullets, under the nearest column of aliens, and fire."""
    if not isinstance(actions, Discrete) or actions.meanings != ("n", "l", "r", "f"):
        raise UserError("The policy defend is for MinAtar/SpaceInvaders-v1.")
    stay, left, right, fire = range(4)

    def shoot(observation: np.ndarray, info: dict[str, Any], rng: np.random.Generator) -> int:
        cannon, alien, leftwards, _, _, bullet = observation.transpose(2, 0, 1)
        at = int(cannon[9].argmax())
        near = [column for column in (at - 1, at, at + 1) if 0 <= column < 10]
        threat = {column: bullet[5:9, column].sum() for column in near}  # here within four steps
        if threat[at]:
            ways = [column for column in near if threat[column] == min(threat.values())]
            return (left, stay, right)[int(rng.choice(ways)) - at + 1]
        columns = np.flatnonzero(alien.any(0))
        if not len(columns):
            return stay
        rows = 9 - np.array([np.flatnonzero(alien[:, column]).max() for column in columns])
        moves = np.round(rows / min(alien.sum(), 12)).astype(int)  # they go on while the shot is on its way
        aims = np.clip(columns + np.where(leftwards.any(), -moves, moves), 0, 9)
        aim = aims[np.abs(aims - at).argmin()]
        return fire if aim == at else left if aim < at and not threat[at - 1] else \
            right if aim > at and not threat[at + 1] else stay

    return shoot


# Steering, gas and brake of CarRacing for each of its choices: nothing, right, left, gas, brake.
WHEEL = np.array([(0, 0, 0), (0.6, 0, 0), (-0.6, 0, 0), (0, 0.2, 0), (0, 0, 0.8)], dtype=np.float32)


def drive(actions: Actions) -> Policy:
    """CarRacing: along the road, slower where less of it can be seen ahead."""
    steered = isinstance(actions, Continuous) and (actions.low, actions.high) == ((-1, 0, 0), (1, 1, 1))
    if not steered and not (isinstance(actions, Discrete) and actions.meanings == CALLED["CarRacing"]):
        raise UserError("The policy drive is for CarRacing-v3.")

    def follow(observation: np.ndarray, info: dict[str, Any], rng: np.random.Generator) -> Any:
        view = observation[:84].astype(int)  # above the instruments
        road = (np.ptp(view, axis=2) < 12) & (view.mean(2) > 60)
        speed = (observation[85:, 12:16].max(2) > 128).any(1).sum()  # how high its bar is, 11 at most
        seen = next((found for row in (max(20, 60 - 2 * speed), 62) if len(found := np.flatnonzero(road[row]))), None)
        if seen is None:  # off the road: slowly round
            choice = 3 if speed < 2 else rng.choice([0, 1, 2, 4])
        elif abs(away := seen.mean() - 47.5) > 3 + 4 * rng.random():
            choice = 1 if away > 0 else 2
        else:
            choice = 3 if speed < 4 else 0
        return WHEEL[choice] if steered else int(choice)

    return follow


POLICIES: dict[str, Callable[[Actions], Policy]] = {
    "random": at_random, "wander": wander, "rally": rally, "defend": defend, "drive": drive}
