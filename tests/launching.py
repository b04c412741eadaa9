"""Starting scripts, on one or several processes, as a user does from a shell.

Most of their time would go into importing torch and what it brings. So they start in copies of a process that has done
it: of large packages only, which do nothing else when they are imported, and none of Hugging Face's, which read the
environment then.
"""

import faulthandler
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory


TESTS = Path(__file__).parent
LARGE = ["torch", "torch._dynamo", "pandas", "sklearn.metrics"]

_copies = multiprocessing.get_context("forkserver")
_copies.set_forkserver_preload(LARGE)


def launch(*command, processes: int = 2, cwd=None, seconds: float = 280) -> str:
    """What a script or module prints. One that fails or hangs fails the test, with what it wrote and where it was."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    run = start(command, environment, cwd, processes, seconds)
    assert run.returncode == 0, f"{run.stdout[-3000:]}\n{run.stderr[-12000:]}"
    return run.stdout


def start(
    command, environment: dict[str, str] | None = None, cwd=None, processes: int = 1, seconds: float = 280
) -> subprocess.CompletedProcess:
    """Run `script arguments…`, `-m module arguments…` or `-c code arguments…` in new processes, and wait for them.

    They have nothing to read, and what they write is kept. The environment is that of the tests if none is given.
    Several processes get the variables that torchrun would give them. If one fails, the others are ended; if they take
    too long, each says where it is, and `returncode` is that of a process that was aborted.
    """
    command = [str(part) for part in command]
    environment = dict(os.environ if environment is None else environment)
    ranks = [{}] if processes == 1 else _ranks(processes)
    with TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        place = str(os.getcwd() if cwd is None else cwd)
        made = [_copies.Process(target=_run, args=(command, environment | r, place, out, err)) for r in ranks]
        for process in made:
            process.start()
        end, running = time.monotonic() + seconds, made
        while running and all(process.exitcode in (None, 0) for process in made):
            if not wait([process.sentinel for process in running], max(0, end - time.monotonic())):
                break
            running = [process for process in running if process.is_alive()]
        for process in running:
            os.kill(process.pid, signal.SIGABRT)
        for process in made:
            process.join(20)
            if process.is_alive():
                process.kill()
        code = next((process.exitcode for process in made if process.exitcode), 0)
        said = [path.read_text() if path.exists() else "" for path in (out, err)]
    return subprocess.CompletedProcess(command, code, *said)


def _ranks(processes: int) -> list[dict[str, str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def _run(command: list[str], environment: dict[str, str], cwd: str, out: Path, err: Path) -> None:
    """What a copy does: become the process that a shell would have started."""
    os.setsid()
    for path, number in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    faulthandler.enable()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    # The tests' own folders are no longer found, unless they are asked for.
    installed = [path for path in sys.path if path and Path(path).parent != TESTS.parent]
    asked = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [cwd if command[0] in ("-m", "-c") else str(Path(command[0]).parent), *asked, *installed]
    sys.argv[:] = [command[0], *command[2:]] if command[0] in ("-m", "-c") else command
    if command[0] == "-m":
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    elif command[0] == "-c":
        exec(compile(command[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_path(command[0], run_name="__main__")
