"""`python benchmarks/architectures`: check every text architecture, and write the table in the docs.

Each is checked in a process of its own, so that one that fails, hangs or takes all memory does not stop the rest.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parents[2]
SECONDS = 180  # for one architecture


def _run(model_type: str, pipe) -> None:
    # What stock code prints of itself is no part of the answer.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    from architectures.check import as_dict, check

    pipe.send(as_dict(check(model_type)))


def _failed(model_type: str, reason: str) -> dict[str, Any]:
    from architectures.check import Result, as_dict, kind_of

    return as_dict(Result(model_type, kind_of(model_type), reasons={"float64": reason}))


def run_all(types: list[str], processes: int) -> dict[str, dict[str, Any]]:
    """The results by type, each from a process of its own, so many at a time."""
    context = multiprocessing.get_context("fork")  # with everything imported
    waiting, running, found = list(reversed(types)), {}, {}
    while waiting or running:
        while waiting and len(running) < processes:
            model_type = waiting.pop()
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_run, args=(model_type, theirs), daemon=True)
            process.start()
            theirs.close()
            running[model_type] = process, ours, time.monotonic()
        for model_type, (process, pipe, began) in list(running.items()):
            if pipe.poll():
                try:
                    found[model_type] = pipe.recv()
                except EOFError:
                    found[model_type] = _failed(model_type, f"its process ended with {process.exitcode}")
            elif time.monotonic() - began > SECONDS:
                process.kill()
                found[model_type] = _failed(model_type, f"it took more than {SECONDS} seconds")
            else:
                continue
            process.join()
            del running[model_type]
            _tell(len(found), len(types), found[model_type])
        time.sleep(0.02)
    return found


def _tell(number: int, count: int, result: dict[str, Any]) -> None:
    passed = "certified" if result["certified"] else "NOT certified"
    passed += "" if result["saves"] else ", NOT saved"
    print(f"{number}/{count} {result['model_type']}: {passed}, {result['seconds']} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", help="model types; default: all, and the page is written")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "architectures.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "architectures.md")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.path.insert(0, str(ROOT / "benchmarks"))

    import torch
    import transformers

    import architectures.check  # noqa: F401  (which each process needs)
    from architectures.configs import text_types
    from architectures.table import page

    torch.set_num_threads(1)  # the processes share the cores; and a fork with more would hang
    found = run_all(arguments.types or text_types(), arguments.processes)
    results = [found[model_type] for model_type in sorted(found)]
    if arguments.types:
        print(json.dumps(results, indent=1))
        return
    versions = {"transformers": transformers.__version__, "torch": torch.__version__.partition("+")[0]}
    arguments.output.write_text(json.dumps({"versions": versions, "results": results}, indent=1) + "\n")
    arguments.page.write_text(page(versions, results))


if __name__ == "__main__":
    main()
