"""A headless Chromium, spoken to by the DevTools protocol over a pair of pipes; nothing to install
but the browser.

Only `make test-browser` collects these tests: a browser is no dependency of the package.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

import pytest

if os.environ.get("FLOWCLF_BROWSER") != "1":
    collect_ignore_glob = ["test_*.py"]

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless", "--disable-gpu", "--no-sandbox", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--remote-debugging-pipe", "about:blank",
)  # fmt: skip
PATIENCE = 60.0


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Start one browser for all tests; they are skipped where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(NAMES)} is installed")
    with Browser.started(program) as started:
        yield started


class Browser:
    """One page of a browser; `events` holds all that it reported, in order."""

    def __init__(self, to: IO[bytes], from_: IO[bytes]) -> None:
        self._to, self._from = to, from_
        self._buffer, self._number = b"", 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        found = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    @classmethod
    @contextmanager
    def started(cls, program: str) -> Iterator[Self]:
        """Start a browser until the end of the block."""
        # Descriptors 3 and 4 are where the browser looks.
        theirs_in, to = _high(os.pipe())
        from_, theirs_out = _high(os.pipe())
        actions = [(os.POSIX_SPAWN_DUP2, theirs_in, 3), (os.POSIX_SPAWN_DUP2, theirs_out, 4)]
        null = (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            arguments = [program, f"--user-data-dir={profile}", *OPTIONS]
            pid = os.posix_spawn(program, arguments, os.environ, file_actions=[*actions, null])
            for each in (theirs_in, theirs_out):
                os.close(each)
            try:
                with os.fdopen(to, "wb", 0) as sink, os.fdopen(from_, "rb", 0) as source:
                    yield cls(sink, source)
            finally:
                os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the result of a command."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                found: dict[str, Any] = answer["result"]
                return found
            self.events.append(answer)

    def open(self, page: Path | str, fragment: str = "") -> None:
        """Load a file or an address, and wait until it has been loaded."""
        address = page.as_uri() if isinstance(page, Path) else page
        # From a blank page: within a page a fragment alone loads nothing.
        for url in ("about:blank", address + fragment):
            self.events.clear()
            self.call("Page.navigate", url=url)
            while not any(event["method"] == "Page.loadEventFired" for event in self.events):
                self.events.append(self._read())

    def show(self, width: int, scheme: str, height: int = 1000) -> None:
        """Emulate a screen of that width, with that colour scheme."""
        size: dict[str, Any] = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.call("Emulation.setDeviceMetricsOverride", mobile=width < 600, **size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def run(self, expression: str, **options: Any) -> Any:
        """Return the value of a JavaScript expression in the page."""
        options = {"returnByValue": True} | options
        found = self.call("Runtime.evaluate", expression=expression, **options)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, promise: str) -> None:
        """Wait until a JavaScript promise is kept."""
        self.run(promise, returnByValue=False, awaitPromise=True)

    def press(self, key: str) -> None:
        """Press a key, where the focus is."""
        text = {"text": "\r"} if key == "Enter" else {}
        code = {"Enter": 13, "Tab": 9}[key]
        options = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **options, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **options)

    def drag(self, *places: tuple[float, float]) -> None:
        """Press the mouse at the first place of the page, move it along, and let go at the last."""
        kinds = ["mousePressed", *["mouseMoved"] * (len(places) - 1), "mouseReleased"]
        for kind, (x, y) in zip(kinds, [*places, places[-1]], strict=True):
            button = {"button": "left", "buttons": 1, "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def until(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        tries = "let n = 0; (function again() {{ if ({0}) done(); else if (++n > 600) fail({1}); "
        script = tries + "else setTimeout(again, 50); }})()"
        script = script.format(condition, json.dumps(condition))
        self.wait(f"new Promise((done, fail) => {{ {script} }})")

    def screenshot(self, file: Path) -> None:
        """Write a .png of the whole page."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(found["data"]))

    def complaints(self) -> list[str]:
        """Return errors and warnings of the console, and exceptions."""
        self.run("0")
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [json.dumps(e["params"]) for e in self.events if e["method"] in kinds]

    def requests(self) -> list[str]:
        """Return addresses that were asked for."""
        sent = [e for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def _read(self) -> dict[str, Any]:
        """Read the next message; they end with a zero byte."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], PATIENCE)
            part = self._from.read(1 << 16) if ready else b""
            assert part, "the browser is gone, or does not answer"
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(text)
        return found


def _high(pipe: tuple[int, int]) -> tuple[int, int]:
    """Move a pipe clear of the descriptors 3 and 4."""
    ends = []
    for end in pipe:
        ends.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10))
        os.close(end)
    return ends[0], ends[1]
