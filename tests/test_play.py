"""Playing: keys to actions, a session that goes back, and a server that junk, floods and crowds do not trouble."""

import json
import time

import numpy as np
import pytest
from dot_world import ARROWS, SIDE, Dot, Kept
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from fromnoise.data.episodes.actions import Continuous, Discrete, MultiBinary
from fromnoise.types import UserError
from fromnoise.worlds.env import WorldEnv
from fromnoise.worlds.play.controls import PAGE, controls_of
from fromnoise.worlds.play.mailbox import ROOM, Mailbox
from fromnoise.worlds.play.messages import LARGEST, Press, Step, unpacked
from fromnoise.worlds.play.server import Serving, app_of
from fromnoise.worlds.play.session import EVERY, MOMENTS, Session

ATARI = Discrete(n=6, meanings=("NOOP", "FIRE", "UP", "RIGHT", "UPRIGHT", "UPRIGHTFIRE"))
GRID = Discrete(n=7, meanings=("left", "right", "forward", "pickup", "drop", "toggle", "done"))
MINATAR = Discrete(n=4, meanings=("n", "l", "r", "f"))
CAR = Continuous(low=(-1.0, 0.0, 0.5), high=(1.0, 1.0, 1.0))


# ---- keys ----


@pytest.mark.parametrize(("actions", "pressed", "action"), [
    (ATARI, [], 0), (ATARI, ["up"], 2), (ATARI, ["up", "right"], 4), (ATARI, ["right", "fire", "up"], 5),
    (ATARI, ["fire", "right"], 3), (ATARI, ["right", "fire"], 1), (ATARI, ["elsewhere"], 0),
    (GRID, [], None), (GRID, ["up"], 2), (GRID, ["toggle"], 5), (MINATAR, ["left"], 1), (MINATAR, [], 0),
    (Discrete(n=3), [], 0), (Discrete(n=3), ["2"], 2),
    (MultiBinary(n=3), ["0", "2"], [1, 0, 1]), (MultiBinary(n=2, meanings=("left", "jump")), ["fire"], [0, 1]),
    (CAR, [], [0, 0, 0.75]), (CAR, ["left", "up", "3 more"], [-1, 1, 1]),
])
def test_buttons_are_actions(actions, pressed, action):
    done = controls_of(actions).action(pressed)
    assert (done is None) if action is None else np.array_equal(done, np.float32(action))
    assert done is None or actions.holds(done)


@pytest.mark.parametrize("actions", [ATARI, GRID, MINATAR, CAR, Discrete(n=12), MultiBinary(n=3)])
def test_no_key_has_two_buttons(actions):
    keys = [key for button in controls_of(actions).buttons for key in button.keys]
    assert len(keys) == len(set(keys)) > 2
    assert not set(keys) & PAGE.keys()


def test_arrows_up_and_down_are_right_and_left_where_nothing_else_is():
    """As in Pong."""
    pong = controls_of(Discrete(n=3, meanings=("NOOP", "RIGHT", "LEFT")))
    assert {key: button.name for button in pong.buttons for key in button.keys}["ArrowUp"] == "right"


def test_buttons_are_called_as_the_actions_are():
    assert [button.label for button in controls_of(GRID).buttons] == [
        "forward", "left", "right", "pickup", "drop", "toggle", "done"]
    assert [button.label for button in controls_of(MINATAR).buttons] == ["left", "right", "fire"]
    assert [button.label for button in controls_of(ATARI).buttons] == ["up", "right", "fire"]


def test_every_choice_can_be_asked_for():
    for actions in (ATARI, GRID, MINATAR, Discrete(n=12)):
        controls = controls_of(actions)
        assert [int(controls.action(sorted(need))) for need in controls.needs if need] == [
            i for i, need in enumerate(controls.needs) if need]
        named = {button.name for button in controls.buttons}
        assert named == {name for need in controls.needs for name in need}


# ---- a session ----


def session(fps=0.0, **dot):
    return Session(Dot(**dot), Kept(), fps=fps)


def test_a_session_is_the_environment_of_its_seed():
    env, played = WorldEnv(Dot(), Kept()), session()
    for seed in (0, 5):
        assert np.array_equal(env.reset(seed=seed)[0], played.reset(seed).world.frame)
        for action, name in ((1, "up"), (4, "right"), (4, "right")):
            frame, reward, *_ = env.step(action)
            seen = played.step([name])
            assert np.array_equal(frame, seen.world.frame)
            assert seen.world.reward == reward


def test_what_was_passed_can_be_gone_back_to_and_comes_again():
    played, moves = session(), np.random.default_rng(0).choice(["up", "down", "right"], size=60)
    seen = [played.reset(3), *(played.step([move]) for move in moves)]
    for number in (57, 40, EVERY, EVERY - 1, 1):
        again = played.rewind(number)
        assert (again.number, again.world.score) == (number, seen[number].world.score)
        assert np.array_equal(again.world.frame, seen[number].world.frame)
    for move, before in zip(moves[1:], seen[2:], strict=True):
        assert np.array_equal(played.step([move]).world.frame, before.world.frame)


def test_what_is_kept_is_bounded():
    played = session()
    played.reset(0)
    for _ in range(EVERY * (MOMENTS + 10)):
        played.step([])
    assert len(played.past) == MOMENTS
    assert len(played.done) <= EVERY * MOMENTS
    assert played.rewind(0).number == played.oldest == EVERY * 11
    for _ in range(12):
        played.branch()
    with pytest.raises(UserError, match="12 branches are kept already"):
        played.branch()


def test_branches_are_independent():
    played = session()
    played.reset(0)
    played.step(["right"])
    branch = played.branch()
    one = [played.step(["right"]).world.frame for _ in range(3)]
    assert played.go(branch).number == 1
    other = [played.step(["down"]).world.frame for _ in range(3)]
    played.go(branch)
    assert all(np.array_equal(a, played.step(["right"]).world.frame) for a in one)
    assert not any(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    played.forget(branch)
    with pytest.raises(UserError, match="no branch 1 any more"):
        played.go(branch)


def test_an_ended_world_stands_still_and_can_be_gone_back_in():
    played = session()
    played.reset(0)
    while not played.step(["left"]).world.ended:
        pass
    last = played.seen.number
    assert played.step(["right"]).number == last
    assert not played.rewind(last - 1).world.ended
    assert played.step(["right"]).number == last


@pytest.mark.parametrize("fps", [0.0, 25.0])
def test_a_recording_is_a_film_as_it_was_played(tmp_path, fps):
    from fromnoise.films import read_film

    played = session(fps)
    played.reset(0)
    played.record()
    for _ in range(9):
        played.step(["right"])
    (tmp_path / "film.mp4").write_bytes(played.film())
    film = read_film(tmp_path / "film.mp4")
    assert film.media.shape[0] == 10
    assert film.fps == (fps or Dot().fps)
    with pytest.raises(UserError, match="Nothing is being recorded"):
        played.film()


def test_the_real_environment_begins_with_the_same_frames_and_is_told_the_same():
    """Breakout: what is seen beside is what the environment shows by itself."""
    from fromnoise.data.episodes import World
    from fromnoise.data.episodes.world import actions_of, environment, settled
    from fromnoise.worlds.play.beside import Beside

    world = settled(World(id="MinAtar/Breakout-v1", height=SIDE, width=SIDE))
    actions = actions_of(environment(world))
    played = Session(Dot(actions=actions), Kept(actions), Beside(world, actions))
    begun = played.reset(4)
    assert np.array_equal(begun.world.frame, begun.real.frame)
    moment = played.branch()
    seen = [played.step([name]).real.frame for name in ("left", "right", "right") * 4]
    assert len({frame.tobytes() for frame in seen}) > 6
    played.go(moment)
    assert all(np.array_equal(frame, played.step([name]).real.frame)
               for frame, name in zip(seen, ("left", "right", "right") * 4, strict=True))
    assert np.array_equal(played.rewind(5).real.frame, seen[4])
    assert not np.array_equal(begun.real.frame, played.reset(5).real.frame)


def test_a_world_that_begins_anew_goes_on_and_the_real_one_with_it():
    from fromnoise.data.episodes import World
    from fromnoise.data.episodes.world import actions_of, environment, settled
    from fromnoise.worlds.play.beside import Beside

    world = settled(World(id="MinAtar/Breakout-v1", height=SIDE, width=SIDE))
    actions = actions_of(environment(world))
    played = Session(Dot(actions=actions), Kept(actions), Beside(world, actions, anew=True), anew=True)
    played.reset(4)
    seen = [played.step(["left"]) for _ in range(60)]
    ends = [i for i, each in enumerate(seen[:-1]) if each.real.ended]
    assert len(ends) > 2
    assert seen[-1].number == 60
    assert all(not seen[i + 1].real.ended and seen[i + 1].real.reward == 0 for i in ends)
    back = played.rewind(20)
    assert np.array_equal(back.real.frame, seen[19].real.frame)
    assert all(np.array_equal(each.real.frame, played.step(["left"]).real.frame) for each in seen[20:])


# ---- the server ----


def serving(fps=0.0, **choices):
    return Serving(lambda: session(fps), "runs/dot", **choices)


class Page:
    """A page without a browser: what it sends, and the facts and frames that come."""

    def __init__(self, client, query="?seed=0", **headers):
        self.context = client.websocket_connect(f"/socket{query}", headers=headers)

    def __enter__(self):
        self.socket = self.context.__enter__()
        self.hello = self.socket.receive_json()
        return self

    def __exit__(self, *error):
        return self.context.__exit__(*error)

    def send(self, type, **rest):
        self.socket.send_text(json.dumps({"type": type, **rest}))

    def next(self):
        """(facts, frame), or a message and None."""
        got = self.socket.receive()
        if got["type"] == "websocket.close":
            raise WebSocketDisconnect(got["code"])
        if got.get("text") is not None:
            return json.loads(got["text"]), None
        facts, pixels = unpacked(got["bytes"])
        return facts, np.frombuffer(pixels, np.uint8).reshape(SIDE, SIDE, 3)

    def until(self, fits):
        """The first answer that fits."""
        for _ in range(400):
            facts, frame = self.next()
            if fits(facts):
                return facts, frame
        raise AssertionError("nothing came that fits")


def eventually(true):
    """Wait for what comes after a socket has closed."""
    for _ in range(500):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come true")


@pytest.fixture
def client():
    with TestClient(app_of(serving(fps=100))) as client:
        yield client


def test_the_page_and_all_that_it_loads_is_there(client):
    page = client.get("/")
    assert page.status_code == 200
    assert "'self'" in page.headers["content-security-policy"]
    for name in ("look.css", "play.css", "play.js"):
        assert name in page.text
        assert client.get(f"/{name}").status_code == 200
    assert "http://" not in page.text.replace("http://www.w3.org/2000/svg", "")
    assert client.get("/film/other.mp4").status_code == 404


def test_a_key_is_in_the_very_next_frame(client):
    env = WorldEnv(Dot(), Kept())
    with Page(client) as page:
        assert {button["name"] for button in page.hello["buttons"]} == {"up", "down", "left", "right"}
        facts, frame = page.next()
        assert facts["fresh"]
        assert np.array_equal(frame, env.reset(seed=0)[0])
        page.send("pause", on=True)
        for action, name in enumerate(("up", "down", "left", "right"), 1):
            page.send("press", buttons=[name])
            page.send("step")
            facts, frame = page.until(lambda facts, action=action: facts["number"] == action)
            assert np.array_equal(frame, env.step(action)[0])


def test_a_fresh_world_waits_for_a_key_and_a_tap_between_frames_counts(client):
    with Page(client) as page:
        page.next()
        page.send("press", buttons=["right"])
        page.send("press", buttons=[])
        assert page.until(lambda facts: facts["number"] == 3)[0]["fresh"] is False
        page.send("pause", on=True)
        page.until(lambda facts: facts["paused"])
        page.send("rewind", to=1)
        _, frame = page.until(lambda facts: facts["number"] == 1)
    env = WorldEnv(Dot(), Kept())
    env.reset(seed=0)
    assert np.array_equal(frame, env.step(4)[0])


def test_a_key_that_was_let_go_in_the_world_before_is_not_the_first_of_the_next(client):
    with Page(client) as page:
        page.next()
        page.send("pause", on=True)
        page.send("press", buttons=["right"])
        page.send("press", buttons=[])
        page.send("reset", seed=1)
        page.send("pause", on=True)
        page.until(lambda facts: facts.get("seed") == 1 and facts["paused"])
        page.send("step")
        _, frame = page.until(lambda facts: facts["number"] == 1)
    env = WorldEnv(Dot(), Kept())
    env.reset(seed=1)
    assert np.array_equal(frame, env.step(0)[0])


def test_a_key_begins_a_new_world_also_where_the_one_before_was_paused(client):
    with Page(client) as page:
        page.next()
        page.send("step")
        assert page.until(lambda facts: facts["number"] == 1)[0]["paused"]
        page.send("reset", seed=1)
        facts, _ = page.until(lambda facts: facts["number"] == 0)
        assert (facts["fresh"], facts["paused"]) == (True, False)
        page.send("press", buttons=["right"])
        page.until(lambda facts: facts["number"] == 2)


def test_the_page_is_told_how_fast_it_is_played(client):
    with Page(client) as page:
        assert page.hello["fps"] == 100
    with TestClient(app_of(serving())) as slower, Page(slower) as page:
        assert page.hello["fps"] == Dot().fps


def test_the_time_of_a_frame_is_also_that_of_keeping_it(monkeypatch):
    ticks = iter(range(1000))
    played = session()
    played.reset(0)
    monkeypatch.setattr("fromnoise.worlds.play.session.time.perf_counter", lambda: next(ticks))
    mark = played._mark
    monkeypatch.setattr(played, "_mark", lambda: next(ticks) and mark())
    took = [played.step([]) and played.ms for _ in range(2 * EVERY)]
    assert took == 2 * ([1000] * (EVERY - 1) + [2000])


def test_branches_resets_and_films_over_the_socket(client):
    with Page(client) as page:
        page.next()
        page.send("record", on=True)
        assert page.next()[0]["recording"]
        page.send("step")
        page.send("branch", do="keep")
        facts, _ = page.until(lambda facts: facts["branches"])
        page.send("step")
        page.send("branch", do="go", branch=facts["branches"][0]["id"])
        page.until(lambda facts: facts["number"] == 2)
        page.until(lambda facts: facts["number"] == 1)
        page.send("record", on=False)
        film, _ = page.until(lambda facts: facts.get("type") == "film")
        assert client.get(film["at"]).content[4:8] == b"ftyp"
        page.send("branch", do="go", branch=77)
        assert "no branch 77" in page.until(lambda facts: facts.get("type") == "error")[0]["what"]
        page.send("reset", seed=11)
        assert page.until(lambda facts: facts.get("number") == 0)[0]["seed"] == 11
    eventually(lambda: client.get(film["at"]).status_code == 404)


JUNK = ["", "{", "null", "[]", '"press"', "{}", '{"type": "fly"}', '{"type": "press"}', '{"type": "rewind", "to": -1}',
        '{"type": "press", "buttons": "up"}', '{"type": "press", "buttons": [1]}', '{"type": "reset", "seed": 1e99}',
        '{"type": "press", "buttons": [], "more": 1}', '{"type": "step"' + "[" * 900, "\x00", "é" * 300,
        json.dumps({"type": "press", "buttons": ["up"] * 17})]


@pytest.mark.parametrize("junk", JUNK)
def test_junk_is_answered_in_a_sentence(client, junk):
    with Page(client) as page:
        page.next()
        page.socket.send_text(junk)
        facts, _ = page.until(lambda facts: facts.get("type") == "error")
        assert facts["what"].startswith("That message was not understood")
        assert facts["what"].endswith(".")
        assert facts["what"].count("\n") == 0
        page.socket.send_bytes(b"\x01")
        assert "no text" in page.until(lambda facts: facts.get("type") == "error")[0]["what"]
        page.send("step")
        assert page.until(lambda facts: facts.get("number") == 1)


def test_a_message_that_is_too_large_ends_its_session_alone(client):
    with Page(client) as page, Page(client) as other:
        page.next()
        other.next()
        page.socket.send_text(" " * (LARGEST + 1))
        facts, _ = page.next()
        assert facts["type"] == "end"
        assert "more than 2048" in facts["why"]
        with pytest.raises(WebSocketDisconnect) as closed:
            page.next()
        assert closed.value.code == 1009
        other.send("step")
        assert other.until(lambda facts: facts.get("number") == 1)


def test_two_sessions_do_not_know_of_each_other(client):
    with Page(client) as one, Page(client) as two:
        for page, name in ((one, "right"), (two, "down")):
            page.next()
            page.send("pause", on=True)
            page.send("press", buttons=[name])
        for _ in range(3):
            for page in (one, two):
                page.send("step")
        seen = [page.until(lambda facts: facts.get("number") == 3)[1] for page in (one, two)]
    for frame, name in zip(seen, ("right", "down"), strict=True):
        alone = session()
        alone.reset(0)
        assert np.array_equal(frame, [alone.step([name]).world.frame for _ in range(3)][-1])


def test_of_presses_the_newest_wins_and_what_waits_is_bounded():
    mailbox = Mailbox()
    for i in range(1000):
        mailbox.put(Press(buttons=("left",) if i % 2 else ("up", "right")))
        mailbox.put(Step())
    assert mailbox.take(once=False) == mailbox.pressed == ("left",)
    assert len(mailbox.commands) == ROOM
    assert "commands are waiting" in mailbox.fault
    mailbox.put(Press(buttons=()))
    mailbox.put(Press(buttons=("up",)))
    mailbox.put(Press(buttons=()))
    assert mailbox.take(once=False) == ("up",)  # it was let go before its frame
    assert mailbox.take(once=False) == ()
    mailbox.put(Press(buttons=("up",)))
    assert (mailbox.take(once=True), mailbox.take(once=True)) == (("up",), ())  # a world that waits makes one step


def test_a_flood_keeps_nobody_from_playing(client):
    """Thousands of presses, commands and junk on one socket: the other session plays on."""
    with Page(client) as flood, Page(client) as other:
        flood.next()
        other.next()
        for i in range(1500):
            flood.send("press", buttons=["left" if i % 2 else "up"])
            flood.send("branch", do="forget", branch=i)
            flood.socket.send_text("junk")
        other.send("press", buttons=["right"])
        assert other.until(lambda facts: facts.get("number") == 30)
        assert "commands are waiting" in flood.until(lambda facts: "waiting" in facts.get("what", ""))[0]["what"]


def test_places_are_limited_and_free_again():
    app = app_of(serving(sessions=2))
    with TestClient(app) as client:
        with Page(client), Page(client), Page(client) as third:
            assert third.hello == {"type": "end", "why": "All 2 places are taken: try again when someone has left."}
        eventually(lambda: app.state.server.playing == 0)
        with Page(client) as page:
            assert page.hello["type"] == "hello"


def test_a_session_that_nobody_plays_is_dropped():
    with TestClient(app_of(serving(idle=0.2, sessions=1))) as client:
        with Page(client) as page:
            page.next()
            page.socket.send_text("junk is no play")
            facts, _ = page.until(lambda facts: facts.get("type") == "end")
            assert "Nobody has played for 0.2 seconds" in facts["why"]
        with Page(client) as page:
            assert page.hello["type"] == "hello"


def test_other_sites_may_not_play_through_a_visitor(client):
    with pytest.raises(WebSocketDisconnect), Page(client, origin="http://elsewhere.example"):
        pass
    with Page(client, origin="http://testserver") as page:
        assert page.hello["type"] == "hello"


def test_a_world_that_breaks_ends_in_a_sentence_and_others_play_on():
    class Broken(Session):
        def step(self, pressed):
            if "up" in pressed:
                raise RuntimeError("a bug")
            return super().step(pressed)

    app = app_of(Serving(lambda: Broken(Dot(), Kept()), "runs/dot"))
    with TestClient(app) as client, Page(client) as page, Page(client) as other:
        page.next()
        page.send("press", buttons=["up"])
        assert "Something went wrong" in page.until(lambda facts: facts.get("type") == "end")[0]["why"]
        other.send("step")
        assert other.until(lambda facts: facts.get("number") == 1)


def test_a_port_that_is_taken_is_told_in_a_sentence():
    from fromnoise.worlds.play.serving import address, listening

    with listening("127.0.0.1", 0) as (taken,):
        port = taken.getsockname()[1]
        assert address(taken) == f"http://127.0.0.1:{port}/"
        with pytest.raises(UserError, match="choose another --port"), listening("127.0.0.1", port):
            pass


def test_what_is_not_there_to_play_is_told_in_a_sentence(tmp_path, monkeypatch, capsys):
    from fromnoise.cli import main
    from fromnoise.worlds import opening
    from fromnoise.worlds.play import serving as module

    monkeypatch.setattr(opening, "SHIPPED", tmp_path / "none")
    assert main(["play"]) == 2
    assert "No world comes with this installation" in capsys.readouterr().err
    assert main(["play", str(tmp_path)]) == 2
    assert "recipe.json" in capsys.readouterr().err

    def missing(name):
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(module, "import_module", missing)
    assert main(["play", str(tmp_path)]) == 2
    assert "pip install 'fromnoise[play]'" in capsys.readouterr().err


def test_arrows_are_the_dot():
    assert controls_of(ARROWS).action(["left"]) == 3
