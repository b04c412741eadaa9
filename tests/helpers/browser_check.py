"""Tries the page of an explained generation in headless Chromium, and draws it.

python tests/browser_check.py                      # checks, on a small explanation
python tests/browser_check.py --page answer.html --draw answer.png --step 7 [--dark]

It is a script, and no test, because not every machine that tests has a browser; `tests/test_generation_views.py` tests
the page's structure everywhere.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


NAMES = ("chromium", "chromium-browser", "google-chrome")

# Runs inside the page; what it finds comes back as the text of an element.
CHECKS = """
<script>
  const failures = [];
  const check = (name, holds) => { if (!holds) failures.push(name); };
  const tokens = [...document.querySelectorAll(".bcosx-step")];
  const units = [...document.querySelectorAll(".bcosx-text .bcosx-w")];
  const label = () => document.getElementById("bcosx-label").textContent;
  const colour = (unit) => parseFloat(unit.style.getPropertyValue("--s")) + "" + unit.classList.contains("bcosx-for");
  const colours = () => units.map(colour).join();
  const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
  const whole = colours(), table = document.querySelector("details");
  check("all answers start whole", label() === "the whole answer");
  check("one stop of the tabulator", tokens.filter((token) => token.tabIndex === 0).length === 1);
  check("the table is closed", !table.open && table.querySelectorAll("tbody tr").length === tokens.length);
  tokens[1].dispatchEvent(new MouseEvent("mouseenter"));
  check("pointing names the token", label() === "it is" || label() === "␣it is");
  check("pointing colours its sources", colours() !== whole);
  check("what comes later is faint", tokens[2].classList.contains("bcosx-later"));
  check("passages follow", document.querySelector("#bcosx-passages .bcosx-number").textContent === "+1.75");
  document.getElementById("bcosx-answer").dispatchEvent(new MouseEvent("mouseleave"));
  check("leaving shows the whole answer", label() === "the whole answer" && colours() === whole);
  tokens[0].focus();
  press("ArrowRight");
  check("arrows move", document.activeElement === tokens[1] && tokens[1].tabIndex === 0);
  press("Enter");
  check("enter holds", tokens[1].getAttribute("aria-pressed") === "true");
  tokens[0].dispatchEvent(new MouseEvent("mouseenter"));
  check("what is held stays", label() !== "Rome");
  press("End");
  check("what is held moves with the keys", tokens[2].getAttribute("aria-pressed") === "true");
  press("Escape");
  check("escape lets go", label() === "the whole answer" && tokens[2].getAttribute("aria-pressed") === "false");
  check("no sideways scrolling", document.documentElement.scrollWidth <= innerWidth);
  const result = document.createElement("p");
  result.id = "result";
  result.textContent = failures.length ? failures.join("; ") : "all checks hold";
  document.body.append(result);
</script>
"""


def browser() -> str:
    """The browser, or an exit that says what is missing."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise SystemExit(f"No browser: install one of {', '.join(NAMES)}.")
    return found


def run(page: Path, *arguments: str) -> str:
    """What Chromium prints about a page."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=2000"]
    command = [browser(), *options, *arguments, page.resolve().as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def with_script(page: str, script: str, folder: str) -> Path:
    """A copy of the page that ends with a script."""
    path = Path(folder) / "page.html"
    path.write_text(page.replace("</body>", script + "</body>"), encoding="utf-8")
    return path


def check(folder: str) -> None:
    """Point, press keys and look, on a page as wide as a desk's and on one as wide as a phone's."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from helpers.generations import make

    page = with_script(make().to_html(title="A title"), CHECKS, folder)
    for size in ("1280,900", "500,900"):
        out = run(page, "--dump-dom", f"--window-size={size}")
        found = re.search(r'<p id="result">(.*?)</p>', out)
        if found is None or found[1] != "all checks hold":
            raise SystemExit(f"{size}: {found[1] if found else 'the script did not run'}")
    print("all checks hold")


def draw(page: Path, picture: Path, step: int, size: str, dark: bool, folder: str) -> None:
    """The page as a picture, one of its tokens held."""
    click = f"<script>document.querySelectorAll('.bcosx-step')[{step}].click()</script>"
    text = page.read_text(encoding="utf-8")
    if dark:
        text = text.replace('<html lang="en">', '<html lang="en" theme="dark">')
    copy = with_script(text, click if step >= 0 else "", folder)
    run(copy, f"--window-size={size}", f"--screenshot={picture.resolve()}", "--force-device-scale-factor=2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=Path, help="a page that GenerationExplanation.to_html has written")
    parser.add_argument("--draw", type=Path, help="where to draw it")
    parser.add_argument("--step", type=int, default=-1, help="the generated token to hold")
    parser.add_argument("--size", default="1240,820", help="of the window (default: %(default)s)")
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.page is None:
            check(folder)
        else:
            draw(options.page, options.draw, options.step, options.size, options.dark, folder)


if __name__ == "__main__":
    main()
