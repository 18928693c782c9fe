"""A headless Chromium over its debugging pipe: just enough to open a page, ask it things, and look at it."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BINARY = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 120.0  # seconds; a busy machine takes long to start one
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class Page:
    """One page. Every call waits for Chromium's answer; an error in a script is an AssertionError."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = os.fdopen(read, "rb"), os.fdopen(write, "wb")
        self._number, self._session, self._rest = 0, "", b""
        self.requested: list[str] = []  # the address of everything that the page asked for
        self.complaints: list[str] = []  # what the console said
        self._loaded = False

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a method of the debugging protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while (answer := self._next()).get("id") != self._number:
            pass
        assert "error" not in answer, answer["error"]
        result: dict[str, Any] = answer["result"]
        return result

    def open(
        self, path: Path, width: int = 1280, height: int = 900, *, dark: bool = False, fragment: str = ""
    ) -> None:
        """Open a file in a new tab of so many pixels, and wait until it is loaded."""
        self._session, self._loaded = "", False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._loaded = False
        self.call("Page.navigate", url=path.as_uri() + fragment)
        while not self._loaded:
            self._next()

    def ask(self, script: str) -> Any:
        """The value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def picture(self, path: Path) -> None:
        """Write what the window shows as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def printed(self, path: Path) -> None:
        """Write the page as it is printed, a PDF."""
        path.write_bytes(base64.b64decode(self.call("Page.printToPDF", printBackground=False)["data"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._read], [], [], PATIENCE)[0], "Chromium says nothing"
            piece = os.read(self._read.fileno(), 1 << 16)
            assert piece, "Chromium has gone"
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        said: dict[str, Any] = json.loads(message)
        params = said.get("params", {})
        if said.get("method") == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        elif said.get("method") == "Page.loadEventFired":
            self._loaded = True
        elif said.get("method") == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
        elif said.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(params["exceptionDetails"]["text"])
        return said


@contextmanager
def chromium() -> Iterator[Page]:
    """A Chromium of our own with an empty profile, which ends with the block."""
    assert BINARY
    (in_, to), (from_, out) = os.pipe(), os.pipe()

    def pass_pipes() -> None:
        # Chromium reads file descriptor 3 and writes 4; the copies must not land on each other.
        ends = os.dup(in_), os.dup(out)
        safe = [os.dup2(end, 20 + i) for i, end in enumerate(ends)]
        for number, end in zip((3, 4), safe, strict=True):
            os.dup2(end, number)

    with tempfile.TemporaryDirectory(prefix="monitorgen-", ignore_cleanup_errors=True) as profile:
        child = subprocess.Popen(
            [BINARY, *FLAGS, f"--user-data-dir={profile}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=pass_pipes,
        )
        os.close(in_)
        os.close(out)
        try:
            yield Page(from_, to)
        finally:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
