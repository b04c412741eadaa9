"""Answers a human-evaluation kit in headless Chromium, with real keys and a real download, and draws it.

python tests/human_kit_check.py                    # goes through a small kit, and reads the file that it downloads
python tests/human_kit_check.py --page page.html --draw page.png [--dark] [--size 1240,900]

It is a script, and no test, because not every machine that tests has a browser; `tests/test_evaluation_human.py` tests
the page's structure everywhere.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from helpers.browser_check import browser


class Chromium:
    """A headless browser with one page, spoken to over pipes in the protocol of its developer tools."""

    def __init__(self, folder: Path, size: str = "1240,900"):
        down, self.write = os.pipe()
        self.read, up = os.pipe()
        self.size = [int(number) for number in size.split(",")]
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]
        command = [browser(), *options, f"--user-data-dir={folder / 'profile'}", "about:blank"]

        def descriptors() -> None:
            # The browser reads commands from 3 and answers on 4.
            one, two = os.dup(down), os.dup(up)
            os.dup2(one, 3)
            os.dup2(two, 4)

        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, preexec_fn=descriptors, close_fds=False)
        os.close(down)
        os.close(up)
        self.count, self.rest = 0, b""
        self.call("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)}, session=None)
        targets = self.call("Target.getTargets", session=None)["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self.session = self.call("Target.attachToTarget", {"targetId": page, "flatten": True}, session=None)[
            "sessionId"
        ]
        width, height = self.size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", metrics)

    def call(self, method: str, arguments: dict | None = None, session: str | None = "own") -> dict:
        """One command and its answer; events in between are passed over."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": arguments or {}}
        if session is not None:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                self.rest += os.read(self.read, 1 << 20)
            line, self.rest = self.rest.split(b"\0", 1)
            answer = json.loads(line)
            if answer.get("id") == self.count:
                if "error" in answer:
                    raise SystemExit(f"{method}: {answer['error']}")
                return answer["result"]

    def open(self, page: Path) -> None:
        self.call("Page.navigate", {"url": page.resolve().as_uri()})
        deadline = time.monotonic() + 20
        while self.ask("document.readyState + location.protocol") != "completefile:":
            if time.monotonic() > deadline:
                raise SystemExit("The page did not load.")
            time.sleep(0.05)

    def ask(self, script: str):
        """The value of an expression inside the page."""
        result = self.call("Runtime.evaluate", {"expression": script, "returnByValue": True, "userGesture": True})
        if "exceptionDetails" in result:
            raise SystemExit(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def press(self, key: str, code: int = 0) -> None:
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        code = code or (ord(key.upper()) if len(key) == 1 else {"Enter": 13, "Tab": 9}[key])
        for kind in ("keyDown", "keyUp"):
            data = {"type": kind, "key": key, "windowsVirtualKeyCode": code} | (text if kind == "keyDown" else {})
            self.call("Input.dispatchKeyEvent", data)

    def draw(self, picture: Path, dark: bool) -> None:
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", {"features": scheme})
        picture.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)


def check(folder: Path) -> None:
    """Answer with keys, go away and come back, download, and read the file as the analysis does."""
    from bcos_peft.evaluation import HumanKit, analyse_answers
    from helpers.human_kits import kit_of

    kit = kit_of(texts=3)
    page, key = kit.save(folder / "kit")
    for size in ("1240,900", "400,800"):
        downloads = folder / size
        downloads.mkdir()
        found = answer(Chromium(downloads, size), page, kit.kit, downloads)
        result = analyse_answers(HumanKit.load(key), [found])
        held("the analysis reads it", result.readers == 1 and result.judgements == 3)
    print("all checks hold")


def held(name: str, holds: bool) -> None:
    if not holds:
        raise SystemExit(f"Does not hold: {name}")


def answer(chromium: Chromium, page: Path, kit: str, downloads: Path) -> Path:
    """One reader; the file that was downloaded."""
    title = "document.getElementById('bcosx-step').textContent"
    checked = "(document.querySelector('input[name=choice]:checked') || {value: null}).value"
    chromium.open(page)
    held("the start is shown", chromium.ask("!document.getElementById('bcosx-start').hidden"))
    for _ in range(2):
        chromium.press("Tab")
    held("tab reaches the button", chromium.ask("document.activeElement.id") == "bcosx-begin")
    chromium.press("Enter")
    held("the first pair", chromium.ask(title) == "Pair 1 of 3")
    held("focus is on the heading", chromium.ask("document.activeElement.id") == "bcosx-step")
    held("no choice is made", chromium.ask(checked) is None)
    chromium.press("N")
    held("no way on without a choice", chromium.ask(title) == "Pair 1 of 3")
    held("colours", chromium.ask("document.querySelectorAll('.bcosx-w').length") > 3)
    held("nothing sideways", chromium.ask("document.documentElement.scrollWidth <= innerWidth"))
    keys = "document.getElementById('bcosx-keys')"
    chromium.ask(f"{keys}.click()")
    chromium.press("1")
    held("keys can be switched off", chromium.ask(checked) is None)
    chromium.ask(f"{keys}.click()")
    chromium.press("1")
    held("1 chooses A", chromium.ask(checked) == "left")
    chromium.press("N")
    held("n goes on", chromium.ask(title) == "Pair 2 of 3" and chromium.ask(checked) is None)
    chromium.press("2")
    chromium.press("P")
    held("p goes back", chromium.ask(title) == "Pair 1 of 3" and chromium.ask(checked) == "left")
    reader = chromium.ask(f"JSON.parse(localStorage.getItem('bcos_peft.human_kit.{kit}')).reader")
    chromium.open(page)
    held("choices were kept", chromium.ask("document.getElementById('bcosx-begin').textContent") == "Go on")
    chromium.ask("document.getElementById('bcosx-begin').click()")
    held("goes on where it stopped", chromium.ask(title) == "Pair 3 of 3")
    chromium.ask("document.querySelector('input[value=tie]').click()")
    held("a click chooses", chromium.ask(checked) == "tie")
    chromium.ask("document.getElementById('bcosx-next').click()")
    held("the end", "all pairs" in chromium.ask("document.getElementById('bcosx-done').textContent"))
    chromium.ask("document.getElementById('bcosx-download').click()")
    deadline = time.monotonic() + 20
    while not (found := list(downloads.glob("answers-*.json"))):
        held("the download came", time.monotonic() < deadline)
        time.sleep(0.1)
    answers = json.loads(found[0].read_text(encoding="utf-8"))
    held("the reader is the same", answers["reader"] == reader)
    held("the choices", [one["choice"] for one in answers["answers"]] == ["left", "right", "tie"])
    held("the text to copy", chromium.ask("document.getElementById('bcosx-copy').value").startswith("{"))
    chromium.close()
    return found[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=Path, help="a page that HumanKit.save has written")
    parser.add_argument("--draw", type=Path, help="where to draw its first pair")
    parser.add_argument("--size", default="1240,900", help="of the window (default: %(default)s)")
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if options.page is None:
            check(Path(folder))
            return
        chromium = Chromium(Path(folder), options.size)
        chromium.open(options.page)
        if options.draw is not None:
            chromium.ask("document.getElementById('bcosx-begin').click()")
            chromium.press("1")
            chromium.draw(options.draw, options.dark)
        chromium.close()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
