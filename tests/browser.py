"""Chromium without a window, driven through its DevTools protocol."""

import base64
import contextlib
import json
import shutil
import subprocess
import time
from threading import Thread
from urllib.request import urlopen

import uvicorn
from websockets.sync.client import connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CODES = {"ArrowUp": 38, "ArrowDown": 40, "ArrowLeft": 37, "ArrowRight": 39, "Space": 32, "KeyN": 78, "KeyP": 80,
         "KeyB": 66, "KeyR": 82, "Enter": 13}


class Tab:
    """One page."""

    def __init__(self, socket):
        self.socket, self.count, self.errors = socket, 0, []

    def ask(self, method, **parameters):
        """What the browser answers to a command; exceptions of the page are kept in ``errors``."""
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv(timeout=30))
            told = answer.get("params", {})
            if "exceptionDetails" in told or told.get("entry", {}).get("level") == "error":
                self.errors.append(json.dumps(told))
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]

    def run(self, code):
        """The value of JavaScript."""
        answer = self.ask("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, code, seconds=20):
        """Wait until JavaScript says something true."""
        end = time.monotonic() + seconds
        while not (value := self.run(code)):
            assert time.monotonic() < end, f"{code} did not come true; {self.errors}"
            time.sleep(0.02)
        return value

    def key(self, code, kind):
        """A key goes down or up."""
        letter = code.removeprefix("Key").lower() if code.startswith("Key") else code
        self.ask("Input.dispatchKeyEvent", type=kind, code=code, key=letter, windowsVirtualKeyCode=CODES[code])

    def tap(self, code):
        self.key(code, "rawKeyDown")
        self.key(code, "keyUp")

    def shoot(self, path):
        """A picture of the page."""
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def browser(folder):
    """A running Chromium; yields a function from an address to a ``Tab``."""
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
               "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        told, end = folder / "DevToolsActivePort", time.monotonic() + 30
        while not (told.exists() and "\n" in told.read_text()):
            assert process.poll() is None, "Chromium ended"
            assert time.monotonic() < end, "Chromium says no port"
            time.sleep(0.05)
        with urlopen(f"http://127.0.0.1:{told.read_text().split()[0]}/json") as answer:
            target = next(page for page in json.load(answer) if page["type"] == "page")
        with connect(target["webSocketDebuggerUrl"], max_size=None, ping_interval=None) as socket:
            tab = Tab(socket)
            for domain in ("Page", "Runtime", "Log"):
                tab.ask(f"{domain}.enable")
            yield tab
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def served(app):
    """The app at a free port, in a thread; yields its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="websockets-sansio"))
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(20)
