"""Saves with faults, in a process that has no other tests: `faulty_saves.py FOLDER KIND…`.

For each fault, something new is saved over a copy of old files. Printed is, as JSON, of each
    code    0 (saved), `FAILED`, or less than 0 (killed)
    intact  whether all files are those of before
    stock   what transformers reads there without this package: "old", "new", "nothing" (it refuses), or what it is
    found   what is read there with this package
    again   what is read after a second save, and what lies in the folder then
Faults that leave the same files are looked at once.
"""

import json
import os
import shutil
import sys
import types
from functools import partial
from pathlib import Path

from helpers import faults
from helpers.paths import ROOT
from helpers.saves import KINDS


# Of what else goes wrong at every step.
ALSO = {"folder": ["error"], "model over shards": ["full"]} | dict.fromkeys(
    ("explanation", "checkpoint"), ["full", "error"]
)


def main(root: str, *kinds: str) -> None:
    cases = {kind: (KINDS[kind](), Path(root, kind)) for kind in kinds}
    if kinds == ("folder",):
        _without_the_rest()
    else:
        import transformers

        transformers.utils.logging.disable_progress_bar()  # bars have a thread and a lock: no good in forks
    pid = os.fork()  # in which this package is imported, as it is not here
    if not pid:
        code = 1
        try:
            for kind, (case, folder) in cases.items():
                folder.mkdir()
                _save_all(case, folder, ["kill", *ALSO.get(kind, [])], kind == "folder")
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert not hasattr(sys.modules.get("bcos_peft"), "__version__")
    stock = {
        str(folder): _read(case.read, folder)
        for case, root in cases.values()
        if case.stock
        for folder in [root / "old", *root.glob("[0-9]*")]
    }
    import bcos_peft  # noqa: F401

    print(json.dumps({kind: _read_all(case, folder, stock) for kind, (case, folder) in cases.items()}))


def _without_the_rest() -> None:
    """Let `bcos_peft._utils` be imported alone: without torch in memory, a fork is made 20 times as quickly."""
    package = types.ModuleType("bcos_peft")
    package.__path__ = [str(ROOT / "bcos_peft")]
    sys.modules["bcos_peft"] = package


def _save_all(case, root: Path, faulty: list[str], twice: bool) -> None:
    import bcos_peft  # noqa: F401

    (root / "old").mkdir()
    case.prepare(root / "old")
    shutil.copytree(root / "old", root / "new")
    case.save(root / "new")
    known = {"faults": {}, "files": sorted(os.listdir(root / "new"))}  # nothing is read here, which may start threads
    shutil.copytree(root / "old", root / "counted")
    known["steps"] = steps = faults.count_steps(root / "counted", partial(case.save, root / "counted"))
    runs = [(fault, at) for fault in faulty for at in range(1, steps + 1)] + [("read-only", 1)]
    runs += [(fault, size) for fault in ("killed within", "full within") for size in (1, 300, 1000, 5000, 9000)]
    seen = set()
    for number, (fault, at) in enumerate(runs):
        folder = root / f"{number:04}"
        shutil.copytree(root / "old", folder)
        before, save = _contents(folder), partial(case.save, folder)
        if fault.endswith("within"):
            code = faults.save_within(at, save, killed=fault.startswith("killed"))
        else:
            code = faults.save_with(folder, save, at, fault)
        entry = {"fault": fault, "at": at, "code": code, "intact": _contents(folder) == before}
        known["faults"][folder.name] = entry | {"repeated": _state(folder) in seen}
        seen.add(_state(folder))
        if twice and fault == "kill" and any(folder.glob(".saving-*/moves.json")):
            known["faults"] |= _killed_again(case, folder)
    (root / "known.json").write_text(json.dumps(known))


def _killed_again(case, folder: Path) -> dict[str, dict]:
    """Kill what puts a folder right, at each of its steps; or it cannot change anything."""
    shutil.copytree(folder, counted := folder.parent / f"{folder.name} counted")
    again = {"fault": "kill again", "intact": False, "repeated": False}
    shutil.copytree(folder, closed := folder.parent / f"{folder.name} closed")
    code = faults.save_with(closed, partial(case.read, closed), 1, "read-only")
    found = {closed.name: again | {"fault": "read-only again", "at": 1, "code": code}}
    for at in range(1, faults.count_steps(counted, partial(case.read, counted)) + 1):
        shutil.copytree(folder, copy := folder.parent / f"{folder.name} {at:02}")
        code = faults.save_with(copy, partial(case.read, copy), at, "kill")
        found[copy.name] = again | {"at": at, "code": code}
        if not any(copy.glob(".saving-*/moves.json")):
            break  # what is left is rubbish
    return found


def _read_all(case, root: Path, stock: dict) -> dict:
    known = json.loads((root / "known.json").read_text())
    known |= {name: _read(case.read, root / name) for name in ("old", "new")}
    assert not case.stock or known["old"] == stock[str(root / "old")]
    for name, entry in known["faults"].items():
        folder = root / name
        entry["stock"] = _called(stock.get(str(folder)), known)
        if not entry["repeated"]:
            entry["found"] = _called(_read(case.read, folder), known)
            case.save(folder)
            entry["again"] = [_called(_read(case.read, folder), known), sorted(os.listdir(folder))]
    return {"faults": list(known["faults"].values()), "files": known["files"], "steps": known["steps"]}


def _contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_bytes().hex() for path in folder.rglob("*") if path.is_file()}


def _state(folder: Path) -> str:
    """What is read in a folder depends on: its files, and what was moved."""
    moving = any(folder.glob(".saving-*/moves.json"))
    found = {name: text for name, text in _contents(folder).items() if moving or not name.startswith(".saving-")}
    return json.dumps(
        sorted((name.partition("/")[2] if name[0] == "." else name, text) for name, text in found.items())
    )


def _read(read, folder: Path):
    try:
        return json.loads(json.dumps(read(folder)))
    except (OSError, ValueError) as error:
        return {"refused": f"{type(error).__name__}: {error}"}


def _called(found, known: dict):
    """Old, new, nothing, or what it is."""
    for name in ("old", "new"):
        if found == known[name] and not _refused(found):
            return name
    return "nothing" if found is None or _refused(found) else found


def _refused(found) -> bool:
    return isinstance(found, dict) and "refused" in found


if __name__ == "__main__":
    main(*sys.argv[1:])
