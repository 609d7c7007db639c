"""The page in a browser: keys are pressed, and the frame that is drawn is the one of that key."""

import numpy as np
import pytest
from browser import CHROMIUM, browser, served
from dot_world import SIDE, Dot, Kept

from fromnoise.worlds.env import WorldEnv
from fromnoise.worlds.play.server import Serving, app_of
from fromnoise.worlds.play.session import Session

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
PIXELS = """Array.from(document.querySelector("#world canvas").getContext("2d").getImageData(0, 0, 16, 16).data)"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("browser")) as tab:
        yield tab


def drawn(tab, number):
    """What the canvas shows once frame ``number`` is there."""
    tab.until(f'document.body?.dataset.number === "{number}"')
    return np.array(tab.run(PIXELS), np.uint8).reshape(SIDE, SIDE, 4)[..., :3]


def test_a_key_moves_what_is_drawn_in_the_very_next_frame(tab):
    env = WorldEnv(Dot(), Kept())
    with served(app_of(Serving(lambda: Session(Dot(), Kept()), "runs/dot"))) as address:
        tab.ask("Page.navigate", url=f"{address}?seed=3")
        assert np.array_equal(drawn(tab, 0), env.reset(seed=3)[0])
        tab.tap("KeyN")  # a step, and it is paused
        assert np.array_equal(drawn(tab, 1), env.step(0)[0])
        for number, (key, action) in enumerate((("ArrowRight", 4), ("ArrowDown", 2), ("ArrowLeft", 3)), 2):
            tab.key(key, "rawKeyDown")
            assert tab.run('document.querySelector("#legend .down dt").textContent') == key[5:].lower()
            tab.tap("KeyN")
            assert np.array_equal(drawn(tab, number), env.step(action)[0])
            tab.key(key, "keyUp")
        tab.tap("KeyB")
        assert tab.until('document.querySelectorAll("#branches li").length') == 1
        tab.run('document.querySelector("#scrub").value = 2')
        tab.run('document.querySelector("#scrub").dispatchEvent(new Event("input"))')
        before = drawn(tab, 2)
        tab.run('document.querySelector("#scrub").dispatchEvent(new Event("change"))')
        tab.until("facts.number === 2")
        assert np.array_equal(before, drawn(tab, 2))
        tab.run('document.querySelector("#branches .go").click()')
        drawn(tab, 4)
        tab.tap("KeyP")  # on it goes, in its own time
        tab.key("ArrowUp", "rawKeyDown")
        tab.until("Number(document.body.dataset.number) > 30")
        assert drawn_top(tab)
        tab.key("ArrowUp", "keyUp")
        assert tab.until('document.querySelector("#median").textContent.endsWith(" ms")')
        assert not tab.errors


def drawn_top(tab):
    """Whether the dot is in the first row."""
    frame = np.array(tab.run(PIXELS), np.uint8).reshape(SIDE, SIDE, 4)[..., :3]
    return int(frame.mean(-1).argmax()) < SIDE


def test_touch_buttons_play_and_a_full_house_is_told(tab):
    tab.ask("Emulation.setTouchEmulationEnabled", enabled=True)
    tab.ask("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True)
    with served(app_of(Serving(lambda: Session(Dot(), Kept()), "runs/dot", sessions=1))) as address:
        tab.ask("Page.navigate", url=f"{address}?seed=0")
        drawn(tab, 0)
        x, y = tab.run("""(() => { const box = document.querySelector('[data-button="up"].up').getBoundingClientRect();
                                  return [box.x + box.width / 2, box.y + box.height / 2]; })()""")
        tab.ask("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        tab.until("Number(document.body.dataset.number) > 20")
        assert drawn_top(tab)
        tab.ask("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        tab.until("pressed.length === 0")
        assert tab.run("document.documentElement.scrollWidth <= innerWidth")
        tab.run("""new Promise((done) => { const other = new WebSocket(`ws://${location.host}/socket`);
                                           other.onmessage = ({ data }) => { window.full = data; done(); }; })""")
        assert "All 1 places are taken" in tab.run("window.full")
        assert not tab.errors
    tab.until('document.querySelector("#over").textContent.startsWith("The connection has ended")')
