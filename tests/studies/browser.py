"""Drive a headless Chromium over its debugging pipe: messages of JSON, each ended by a zero byte."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"),
    *("--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-dev-shm-usage"),
)


class Tab:
    """One page, and what it has reported since it was opened."""

    def __init__(self, sends: int, receives: int) -> None:
        self._sends, self._receives = os.fdopen(sends, "wb", 0), os.fdopen(receives, "rb", 0)
        self._rest, self._number, self._session = b"", 0, None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to a command of the DevTools protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._sends.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, path: Path, *, width: int = 1100, dark: bool = False) -> None:
        """Show a file at this width, and wait until it is loaded."""
        self.visit(path.as_uri(), width=width, dark=dark)

    def visit(self, url: str, *, width: int = 1100, dark: bool = False) -> None:
        """Show a page at this width, and wait until it is loaded."""
        self.resize(width)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._message()

    def resize(self, width: int) -> None:
        """Change the width of the window."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)

    def run(self, script: str) -> Any:
        """The value of a script, awaited."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key, such as Enter, where the focus is."""
        code = {"Enter": 13, " ": 32}[key]
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r" if key == "Enter" else key} if kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)

    def move(self, x: float, y: float) -> None:
        """Move the mouse to a place of the window."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, path: Path, *, top: float = 0, height: float | None = None) -> None:
        """Save the page, or a part of this height, as a PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": top, "width": size["width"], "height": height or size["height"], "scale": 1}
        data = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def problems(self) -> list[str]:
        """Errors and warnings of the console, and uncaught exceptions."""
        said: list[str] = []
        for event in self.events:
            of = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                said.append(json.dumps(of["exceptionDetails"])[:500])
            elif event["method"] == "Runtime.consoleAPICalled" and of["type"] in ("error", "warning", "assert"):
                said.append(json.dumps(of["args"])[:500])
            elif event["method"] == "Log.entryAdded":
                said.append(of["entry"]["text"])
        return said

    def requests(self) -> list[str]:
        """What the page has asked the network for, beside itself and data inside it."""
        asked = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            read = self._receives.read(1 << 20)
            assert read, "the browser has ended"
            self._rest += read
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message


@contextmanager
def browser() -> Iterator[Tab]:
    """A tab of a browser that ends with the block."""
    assert CHROMIUM is not None
    theirs, sends = os.pipe()
    receives, theirs_out = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = f'exec "$0" {" ".join(FLAGS)} --user-data-dir="$1" about:blank 3<&{theirs} 4>&{theirs_out}'
        process = subprocess.Popen(
            ["bash", "-c", command, CHROMIUM, profile],
            pass_fds=(theirs, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(theirs_out)
        try:
            yield Tab(sends, receives)
        finally:
            process.kill()
            process.wait()
