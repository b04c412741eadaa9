"""Saving with faults: what is read afterwards are the old files or the new ones, never half of them."""

import json
import os
import tempfile
import threading
from pathlib import Path

import pytest
from helpers.faults import FAILED
from helpers.launching import HUGGING_FACE, start
from helpers.paths import ROOT, TESTS

from bcos_peft._utils.files import write_text
from bcos_peft._utils.staging import settle, staged


pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are forked and killed")

GROUPS = {
    "folder": ("folder",),
    "files": ("explanation", "checkpoint", "kit", "result"),
    "models": ("model over shards", "model over a stock model", "first model"),
    "adapter": ("adapter",),
}
FRESH = ("first model", "kit")  # where nothing was before
AT_ONCE = ("explanation", "checkpoint")  # one file, which needs no folder of its own


@pytest.fixture
def in_memory(tmp_path):
    """A folder in memory, where there is such a thing: a thousand saves wait for a disk longer than for all else."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_the_old_or_the_new_is_read(group, in_memory):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(ROOT)])
    command = [TESTS / "helpers" / "faulty_saves.py", in_memory, *GROUPS[group]]
    run = start(command, environment, imported=() if group == "folder" else HUGGING_FACE)
    assert run.returncode == 0, run.stderr[-6000:]
    for kind, found in json.loads(run.stdout.splitlines()[-1]).items():
        check(kind, found)


def check(kind, found):
    before, faults = "nothing" if kind in FRESH else "old", found["faults"]
    assert found["steps"] >= (3 if kind in AT_ONCE else 30)
    assert {"kill", "read-only", "killed within", "full within"} <= {entry["fault"] for entry in faults}
    for entry in faults:
        fault, code = entry["fault"], entry["code"]
        saved, killed, failed = code == 0, code < 0, code == FAILED
        assert saved or killed or failed, entry
        assert killed or "kill" not in fault or saved and fault == "killed within", entry
        assert failed or "read-only" not in fault or saved and fault == "read-only again", entry
        if failed and not (kind == "checkpoint" and fault.startswith("full") or "again" in fault):
            assert entry["intact"], "an error, and the files are not those of before"
        # Without this package, too: nothing is read while it is half done.
        assert entry["stock"] in (before, "nothing"), entry
        if entry["repeated"]:
            continue
        assert entry["found"] in (before, "new"), entry
        assert entry["found"] == "new" or not saved, entry
        assert entry["found"] == before or not failed, entry
        assert entry["again"] == ["new", found["files"]], "no litter is left by the next save"
    read = [entry["found"] for entry in faults if not entry["repeated"]]
    assert {before, "new"} == set(read)


# ---- Several at once ------------------------------------------------------------------------------------------------


def save(folder, text, wait=lambda: None):
    with staged(folder, gates={"first": None}) as new:
        for name in ("first", "second"):
            (new / name).write_text(text)
        wait()


def test_who_saves_at_the_same_time_is_let_be(tmp_path):
    begun, go_on = threading.Event(), threading.Event()
    slow = threading.Thread(target=save, args=(tmp_path, "slow", lambda: (begun.set(), go_on.wait(20))))
    slow.start()
    assert begun.wait(20)
    save(tmp_path, "quick")
    assert (tmp_path / "second").read_text() == "quick"
    assert not settle(tmp_path), "nothing was moved yet"
    go_on.set()
    slow.join()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"first": "slow", "second": "slow"}


def test_a_folder_that_another_changes_is_not_read(tmp_path):
    save(tmp_path, "old")
    with staged(tmp_path, gates={"first": None}) as new:
        (new / "second").write_text("new")
        (new.parent / "moves.json").write_text("{}")  # as in the midst of moving
        with pytest.raises(OSError, match=r"Another process is saving into .* Wait"):
            settle(tmp_path)
        with pytest.raises(OSError, match="Another process is saving into"):
            save(tmp_path, "new")
        (new.parent / "moves.json").unlink()
    assert (tmp_path / "second").read_text() == "new"


def test_a_folder_below_is_put_right_too(tmp_path, monkeypatch):
    def save(text):
        with staged(tmp_path, gates={"first": None}) as new:
            (new / "below").mkdir()
            for name in ("below/first", "below/second"):
                (new / name).write_text(text)

    save("old")
    with monkeypatch.context() as patch:
        replace, moved = os.replace, []

        def fail(source, target):
            moved.append(source)
            if len(moved) > 1:
                raise OSError("gone")
            replace(source, target)

        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="gone"):
            save("new")
        with pytest.raises(
            OSError, match=r"A save into .* was interrupted, and its files cannot be put back \(gone\)"
        ):
            settle(tmp_path / "below")
    assert settle(tmp_path, "below")
    assert [(tmp_path / "below" / name).read_text() for name in ("first", "second")] == ["old", "old"]
    assert os.listdir(tmp_path) == ["below"]


def test_a_text_leaves_what_others_write_beside_it(tmp_path):
    write_text(tmp_path / "a[1]", "one")
    for name in (".a[1].0123456789ab.tmp", ".a1.0123456789ab.tmp"):
        Path(tmp_path, name).write_text("half")
    write_text(tmp_path / "a[1]", "two")
    assert sorted(os.listdir(tmp_path)) == [".a1.0123456789ab.tmp", "a[1]"]
