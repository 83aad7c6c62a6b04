"""A headless Chromium, driven through its DevTools protocol over a pipe: what it asks of the network, what it complains of."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from contextlib import contextmanager

SECONDS = 300  # on a machine that has much else to do
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--hide-scrollbars", "--force-color-profile=srgb", "--remote-debugging-pipe",
)  # fmt: skip
FOUND = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


class Browser:
    """One tab.

    Attributes:
        requests: URLs that were asked for since `open`.
        complaints: console errors and warnings, exceptions, refused loads.
    """

    def __init__(self, send, receive):
        self.send_to, self.receive_from, self.buffer = send, receive, b""
        self.ids, self.session, self.events = itertools.count(1), None, []
        self.requests, self.complaints = [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """One command; events that come before its answer are kept."""
        number = next(self.ids)
        message = {"id": number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.send_to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            self._note(answer)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def _next(self):
        deadline = time.monotonic() + SECONDS
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.receive_from], [], [], max(0, deadline - time.monotonic()))
            part = os.read(self.receive_from, 1 << 20) if ready else b""
            assert part, "Chromium says nothing more"
            self.buffer += part
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event):
        method, about = event["method"], event.get("params", {})
        self.events.append(method)
        if method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(about["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(about["args"]))
        elif method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.complaints.append(about["entry"]["text"])

    def open(self, path, width=1280, height=900, dark=False):
        """A file, in a window of this size and a system of this theme."""
        self.requests.clear(), self.complaints.clear(), self.events.clear()
        phone = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **phone)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[theme])
        self.call("Page.navigate", url=path.resolve().as_uri())
        while "Page.loadEventFired" not in self.events:
            self._note(self._next())

    def run(self, script):
        """The value of a script's last expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key):
        """A key, as a person presses it."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        code = {"Enter": 13, " ": 32, "Tab": 9, "ArrowRight": 39}[key]
        for kind in ("keyDown", "keyUp"):
            about = {
                "key": key,
                "windowsVirtualKeyCode": code,
                **({"text": text} if text and kind == "keyDown" else {}),
            }
            self.call("Input.dispatchKeyEvent", type=kind, **about)

    def screenshot(self, path, whole=True):
        """Save a screenshot of the whole page, or of the window."""
        picture = self.call(
            "Page.captureScreenshot", captureBeyondViewport=whole, **({"clip": self._page()} if whole else {})
        )
        path.write_bytes(base64.b64decode(picture["data"]))

    def _page(self):
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {**size, "scale": 1}


@contextmanager
def browser(profile):
    """Chromium, with a new profile in this folder."""
    (read_there, send), (receive, write_there) = os.pipe(), os.pipe()
    command = [FOUND, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    there = ["bash", "-c", 'exec "${@:3}" 3<&"$1" 4>&"$2"', "bash"]  # the protocol's own descriptors
    process = subprocess.Popen(
        [*there, str(read_there), str(write_there), *command], pass_fds=(read_there, write_there),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(read_there), os.close(write_there)
    try:
        one = Browser(send, receive)
        yield one
        one.session = None
        one.call("Browser.close")
        process.wait(SECONDS)
    finally:
        process.kill()
        process.wait()
        os.close(send), os.close(receive)
