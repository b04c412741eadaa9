"""Starting scripts, on one or several processes, as a user does from a shell."""

import os
import signal
import subprocess
import sys
from pathlib import Path


TESTS = Path(__file__).parent


def launch(*command, processes: int = 2, cwd=None, seconds: float = 280) -> str:
    """What a script or module prints. One that fails or hangs fails the test, with what it wrote and where it was."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]), "PYTHONFAULTHANDLER": "1"}
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    run = subprocess.Popen([*start, *map(str, command)], env=environment, cwd=cwd, start_new_session=True, **pipes)
    try:
        out, err = run.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        for process in _started(run.pid):
            os.kill(process, signal.SIGABRT)  # each says where it is
        out, err = run.communicate()
        raise AssertionError(f"Still running after {seconds:g} s.\n{out[-3000:]}\n{err[-12000:]}") from None
    assert run.returncode == 0, f"{out[-3000:]}\n{err[-6000:]}"
    return out


def _started(process: int) -> list[int]:
    """A process and all that it has started, the last first: torchrun gives each worker a session of its own."""
    children = Path(f"/proc/{process}/task/{process}/children")
    found = children.read_text().split() if children.exists() else []
    return [*(pid for child in found for pid in _started(int(child))), process]
