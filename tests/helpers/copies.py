"""A process that has imported packages, and makes copies of itself, which run scripts: `copies.py torch pandas`.

Each line that it reads is a task in JSON: `command`, `environments` (one for each copy), `cwd`, `folder` (where the
files out and err are written) and `seconds`. Its answer is a line with an exit code: 0, or that of the first copy that
failed.
"""

import faulthandler
import importlib
import json
import os
import runpy
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path


def wait_for(copies: set[int], seconds: float) -> int:
    """Until all have ended. If one fails, the others are ended; if they take too long, each says where it is."""
    end, code = time.monotonic() + seconds, 0
    while copies:
        for copy in sorted(copies):
            found, status = os.waitpid(copy, os.WNOHANG)
            if found:
                copies.remove(copy)
                code = code or os.waitstatus_to_exitcode(status)
        if copies and (code or time.monotonic() > end):
            for copy in copies:
                os.kill(copy, signal.SIGABRT)
            time.sleep(2)
            for copy in copies:
                with suppress(ProcessLookupError):
                    os.killpg(copy, signal.SIGKILL)
                code = code or os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1])
            break
        time.sleep(0.02)
    return code


def become(task: dict, environment: dict[str, str]) -> None:
    """Turn this copy into the process that a shell would have started."""
    os.setsid()
    files = [os.open(os.devnull, os.O_RDONLY)]
    files += [os.open(Path(task["folder"], name), os.O_WRONLY | os.O_CREAT | os.O_APPEND) for name in ("out", "err")]
    for number, file in enumerate(files):
        os.dup2(file, number)
    faulthandler.enable()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(task["cwd"])
    command = task["command"]
    named = command[0] in ("-m", "-c")
    asked = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [task["cwd"] if named else str(Path(command[0]).parent), *asked, *sys.path[1:]]
    sys.argv[:] = [command[0], *command[2:]] if named else command


def serve() -> list[str]:
    """Make copies until there are no more tasks. In a copy: the command that it should run."""
    # Answers go to a pipe of their own, and what is imported may print.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in sys.argv[1:]:
        with suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        task, copies = json.loads(line), set()
        for environment in task["environments"]:
            copy = os.fork()
            if not copy:
                answers.close()
                become(task, environment)
                return task["command"]
            copies.add(copy)
        print(wait_for(copies, task["seconds"]), file=answers, flush=True)
    return []


if __name__ == "__main__":
    match serve():
        case ["-m", module, *_]:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", code, *_]:
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        case [script, *_]:
            runpy.run_path(script, run_name="__main__")
