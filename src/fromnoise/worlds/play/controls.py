"""Keys for actions: from what the actions are called to buttons, and from the buttons that are pressed to an action."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fromnoise.data.episodes.actions import Actions, Continuous

# Keys as a browser calls them (KeyboardEvent.code).  Those of the page itself are kept free.
ARROWS = {"up": ("ArrowUp", "KeyW"), "left": ("ArrowLeft", "KeyA"), "down": ("ArrowDown", "KeyS"),
          "right": ("ArrowRight", "KeyD")}
USUAL = ARROWS | {"fire": ("Space",)}
PAGE = {"KeyP": "pause", "KeyN": "step", "KeyR": "rewind", "KeyB": "branch", "Enter": "reset"}
SAME = {"forward": "up", "l": "left", "u": "up", "r": "right", "d": "down", "f": "fire", "jump": "fire"}
NOTHING = {"noop", "n", "none", "nothing", "stay", "still"}


@dataclass(frozen=True)
class Button:
    """Something to press: its name, what it is called on the page, and its keys."""

    name: str
    label: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Controls:
    """The buttons of a world.

    needs: for each choice, switch or end of a range the buttons that ask for it;  idle: the action while nothing is
    pressed, None where there is none: such a world waits for the player.
    """

    actions: Actions
    buttons: tuple[Button, ...]
    needs: tuple[frozenset[str], ...]
    idle: np.ndarray | None

    def action(self, pressed: Sequence[str]) -> np.ndarray | None:
        """The action of the buttons that are pressed, in the order in which they were; None to wait.

        Of choices the one that takes most of the buttons, and among equals that of the newest.
        """
        held = set(pressed)
        asked = [i for i, need in enumerate(self.needs) if need and need <= held]
        if self.actions.kind == "discrete":
            def rank(i: int) -> tuple[int, int]:
                return len(self.needs[i]), max(list(pressed).index(name) for name in self.needs[i])
            return np.array(max(asked, key=rank)) if asked else self.idle
        assert self.idle is not None
        action = self.idle.copy()
        for i in asked:
            if self.actions.kind == "multi_binary":
                action[i] = 1
            else:
                action[i // 2] = (self.actions.low, self.actions.high)[i % 2][i // 2]
        return action


def controls_of(actions: Actions) -> Controls:
    """Buttons for what can be done: arrows and WASD, space, and for the rest a letter of its name, or digits."""
    if isinstance(actions, Continuous):
        return _of_numbers(actions)
    meanings = [meaning.lower() for meaning in actions.meanings]
    needs = [_needs(meaning) for meaning in meanings] or [frozenset({str(i)}) for i in range(actions.n)]
    if actions.kind == "multi_binary":
        idle = np.zeros(actions.n, np.float32)
    elif not meanings:
        needs[0], idle = frozenset(), np.array(0)  # as a rule the choice to do nothing
    else:
        still = [i for i, need in enumerate(needs) if not need]
        idle = np.array(still[0]) if still else None
    labels = {name: meaning for meaning, need in zip(meanings, needs, strict=False) if len(need) == 1 < len(meaning)
              for name in need}
    return Controls(actions, _buttons(needs, labels), tuple(needs), idle)


def _needs(meaning: str) -> frozenset[str]:
    """The buttons of one meaning: up and right and fire of UPRIGHTFIRE."""
    if meaning in NOTHING:
        return frozenset()
    parts = re.findall(r"up|down|left|right|fire", meaning)
    if parts and "".join(parts) == meaning:
        return frozenset(parts)
    return frozenset({SAME.get(meaning, meaning)})


def _buttons(needs: Sequence[frozenset[str]], labels: Mapping[str, str]) -> tuple[Button, ...]:
    """A button for each name, those with usual keys first, called as the action that it is alone."""
    names = list(dict.fromkeys([*(name for name in USUAL if any(name in need for need in needs)),
                                *(name for need in needs for name in sorted(need))]))
    taken, found, usual = set(PAGE), [], dict(USUAL)
    if not {"up", "down"} & set(names):  # in Pong the paddle goes up when told right
        usual |= {"left": ARROWS["left"] + ARROWS["down"], "right": ARROWS["right"] + ARROWS["up"]}
    for name in names:
        keys = usual.get(name) or tuple(key for key in _own_keys(name) if key not in taken)[:1]
        taken |= set(keys)
        found.append(Button(name, labels.get(name, name), keys))
    return tuple(found)


def _own_keys(name: str) -> list[str]:
    """Keys that a name could have: its digit, or its letters, those of the arrows left out, and then any letter."""
    if name.isdigit():
        return [f"Digit{name}"] if int(name) < 10 else []
    letters = [c for c in name if "a" <= c <= "z"] + list("zxcvfgqeyuiohjklmt")
    return [f"Key{c.upper()}" for c in letters if c not in "wasd"]


def _of_numbers(actions: Continuous) -> Controls:
    """Two buttons for each number, to its low and its high; in the middle while none is pressed."""
    low, high = np.array(actions.low, np.float32), np.array(actions.high, np.float32)
    idle = np.where((low <= 0) & (high >= 0), np.float32(0), (low + high) / 2)
    pairs = [(ARROWS["left"], ARROWS["right"]), (ARROWS["down"], ARROWS["up"]),
             *(((f"Digit{2 * i + 1}",), (f"Digit{2 * i + 2}",)) for i in range(4))]
    buttons = []
    for i in range(len(low)):
        keys = pairs[i] if i < len(pairs) else ((), ())
        names = (("left", "right"), ("down", "up"))[i] if i < 2 else (f"{i + 1} less", f"{i + 1} more")
        buttons += [Button(name, name, key) for name, key in zip(names, keys, strict=True)]
    return Controls(actions, tuple(buttons), tuple(frozenset({button.name}) for button in buttons), idle)
