"""Copies of a process behave like processes that a shell has started."""

import functools
import time

import pytest
from helpers import launching


# Copies of a process that has imported next to nothing.
start = functools.partial(launching.start, imported=("csv",))


def test_a_script_has_its_arguments_folder_and_environment(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import atexit, os, sys\n"
        "atexit.register(print, 'at exit')\n"
        "print(__name__, sys.argv[1:], os.getcwd(), 'csv' in sys.modules)\n"
        "print(os.environ['WORD'], 'HOME' in os.environ)\n"
        "print(sys.path[0], sys.stdin.read() == '', file=sys.stderr)\n"
        "sys.exit(3)\n"
    )
    (tmp_path / "work").mkdir()
    run = start([script, "one", 2], {"WORD": "film"}, tmp_path / "work")
    assert run.returncode == 3
    assert run.stdout == f"__main__ ['one', '2'] {tmp_path / 'work'} True\nfilm False\nat exit\n"
    assert run.stderr == f"{tmp_path} True\n"


def test_modules_and_code(tmp_path):
    (tmp_path / "spoken.py").write_text("import sys; print(__name__, sys.argv[1:])")
    assert start(["-m", "spoken", "word"], cwd=tmp_path).stdout == "__main__ ['word']\n"
    run = start(["-c", "import sys, spoken; print(sys.argv); raise ValueError('no')", "word"], cwd=tmp_path)
    assert run.stdout == "spoken ['word']\n['-c', 'word']\n"
    assert run.returncode == 1
    assert run.stderr.endswith("ValueError: no\n")


def test_several_processes_know_their_places():
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")
    code = f"import os; print(' '.join(map(os.environ.get, {names})) + chr(10), end='')"  # in one piece
    run = start(["-c", code], processes=2)
    assert sorted(run.stdout.splitlines()) == ["0 0 2 127.0.0.1", "1 1 2 127.0.0.1"]


def test_one_that_fails_ends_the_others():
    code = "import os, sys, time; time.sleep(60) if os.environ['RANK'] == '0' else sys.exit('broken')"
    began = time.monotonic()
    run = start(["-c", code], processes=2)
    assert run.returncode == 1
    assert "broken" in run.stderr
    assert time.monotonic() - began < 30


def test_one_that_hangs_says_where_it_is(tmp_path):
    (tmp_path / "script.py").write_text("import time\n\ndef for_ever():\n    time.sleep(60)\n\nfor_ever()\n")
    run = start([tmp_path / "script.py"], seconds=0.5)
    assert run.returncode < 0
    assert 'script.py", line 4 in for_ever' in run.stderr


def test_a_task_that_was_given_up_does_not_answer_the_next(monkeypatch):
    class GivenUp(Exception):
        pass

    def readline(_):
        raise GivenUp

    copies = launching._copies(("csv",), ())
    with monkeypatch.context() as patched:
        patched.setattr(copies, "stdout", type("Stream", (), {"readline": readline})())
        with pytest.raises(GivenUp):
            start(["-c", "raise SystemExit(5)"])
    assert start(["-c", "print('well')"]).stdout == "well\n"
    assert copies.wait(10) != 0
