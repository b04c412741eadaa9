"""Tries pages of explained similarities in headless Chromium: pointer, touch, keys, narrow windows.

python tests/helpers/similarity_check.py

It is a script, and no test, because not every machine that tests has a browser; `tests/similarity/test_views_page.py`
tests the pages' structure everywhere. `helpers/browser_check.py` does the same for explained generations.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parent.parent))
from helpers.browser_check import run, with_script


TOOLS = """
  const failures = [];
  const check = (name, holds) => { if (!holds) failures.push(name); };
  const unit = (text, i, stage = 0) => document.querySelectorAll(".bcosx-stage")[stage]
    .querySelectorAll(".bcosx-text")[text].querySelectorAll(".bcosx-unit")[i];
  const share = (one) => parseFloat(one.style.getPropertyValue("--s"));
  const readout = (stage = 0) => document.querySelectorAll(".bcosx-readout")[stage].textContent;
  const colours = () => [...document.querySelectorAll(".bcosx-unit")]
    .map((one) => one.className + one.style.cssText + one.dataset.score).join();
  const fire = (one, kind) => one.dispatchEvent(new MouseEvent(kind, {bubbles: kind === "click"}));
  const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
  const whole = colours();
"""

PAIR = """
  check("the hint is there", readout().includes("Point at a word"));
  check("a stop of the tabulator for each text",
    document.querySelectorAll('.bcosx-unit[tabindex="0"]').length === 2);
  fire(unit(0, 2), "mouseenter");
  check("pointing names the word, its sum and its matches", readout().includes("gripping: +0.312") &&
    readout().includes("movie, +0.375") && readout().includes("seat −0.062"));
  check("the match has the full colour", share(unit(1, 2)) === 1 && unit(1, 2).classList.contains("bcosx-for"));
  check("in proportion", Math.abs(share(unit(1, 3)) - 0.0625 / 0.375) < 0.002);
  check("and its side", unit(1, 3).classList.contains("bcosx-against"));
  check("others have none", share(unit(1, 1)) === 0 && share(unit(0, 3)) === 0);
  check("the number is below it", unit(1, 2).dataset.score === "+0.375");
  fire(document.querySelector(".bcosx-text"), "mouseleave");
  check("leaving brings the sums back", colours() === whole);
  fire(unit(1, 2), "mouseenter");
  check("the other way", Math.abs(share(unit(0, 3)) - 0.5) < 0.002 && readout().includes("movie,: +0.594"));
  unit(1, 2).click();
  check("a click holds", unit(1, 2).getAttribute("aria-pressed") === "true");
  fire(unit(0, 2), "mouseenter");
  check("what is held stays", readout().includes("movie,: +0.594"));
  document.body.click();
  check("a click elsewhere lets go", colours() === whole);
  unit(0, 0).focus();
  press("ArrowRight"); press("ArrowRight");
  check("arrows move and light up", document.activeElement === unit(0, 2) && share(unit(1, 2)) === 1);
  press("Enter");
  check("enter holds", unit(0, 2).getAttribute("aria-pressed") === "true");
  press("ArrowRight");
  check("what is held moves with the keys", unit(0, 3).getAttribute("aria-pressed") === "true");
  press("Escape");
  check("escape lets go", colours() === whole && document.activeElement === document.body);
  const row = document.querySelector("tr[data-place]");
  fire(row, "mouseenter");
  check("a line of the table lights up its pair", readout().includes("gripping with movie,: +0.375") &&
    document.querySelectorAll(".bcosx-unit.bcosx-chosen").length === 2);
  fire(row, "mouseleave");
  check("no numbers but those of python", unit(0, 2).getAttribute("aria-label") === "gripping, +0.312");
  document.querySelector("details").open = true;
  setTimeout(() => {
    const cells = document.querySelectorAll(".bcosx-map rect:not(.bcosx-ground)");
    check("the map has each pair", cells.length === 6 * 5);
    check("cells have titles", [...cells].some((cell) => cell.textContent === "gripping · movie,: +0.375"));
    finish();
  }, 200);
"""

DIFFERENCE = """
  fire(unit(0, 2), "mouseenter");
  check("a word of the query lights up both", readout().includes("first document: movie, +0.375") &&
    readout().includes("second document: Salty +0.125") && readout().includes("gripping: +0.188"));
  fire(unit(2, 1), "mouseenter");
  check("a word of a document lights up the query", share(unit(0, 2)) > 0.3 && share(unit(0, 3)) === 0);
  check("and not the other document", document.querySelectorAll(".bcosx-text")[1].className.includes("aside"));
  fire(document.querySelectorAll(".bcosx-text")[2], "mouseleave");
  check("leaving brings the sums back", colours() === whole);
  finish();
"""

RANKING = """
  fire(unit(0, 2, 1), "mouseenter");
  check("each document for itself", readout(1).includes("Salty +0.125") && readout(0).includes("Point at a word"));
  finish();
"""

END = """
  function finish() {
    check("no sideways scrolling", document.documentElement.scrollWidth <= innerWidth);
    const result = document.createElement("p");
    result.id = "result";
    result.textContent = failures.length ? failures.join("; ") : "all checks hold";
    document.body.append(result);
  }
"""


def main() -> None:
    from bcos_peft.similarity import render_ranking
    from helpers.similarities import far, near

    pages = {
        "pair": (near().to_html(title="A title"), PAIR),
        "difference": ((near() - far()).to_html(), DIFFERENCE),
        "ranking": (render_ranking([far(), near()]), RANKING),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, (page, checks) in pages.items():
            path = with_script(page, f"<script>(() => {{{TOOLS}{END}{checks}}})();</script>", folder)
            for size in ("1280,900", "500,900"):
                out = run(path, "--dump-dom", f"--window-size={size}")
                found = re.search(r'<p id="result">(.*?)</p>', out)
                if found is None or found[1] != "all checks hold":
                    raise SystemExit(f"{name} {size}: {found[1] if found else 'the script did not run'}")
    print("all checks hold")


if __name__ == "__main__":
    main()
