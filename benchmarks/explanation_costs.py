"""What an explanation costs, by method, length of the text and size of the model: the second part of `efficiency.py`.

Llama models of three sizes with random weights, which cost what trained ones do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from measure import clock, seconds
from studies import COLOURS, Study, draw, figure, table
from study_models import DEVICE
from transformers import LlamaConfig, LlamaForCausalLM

from bcos_peft import BcosConfig, attribute, get_bcos_model
from bcos_peft.evaluation import Metered, Question, get_method, logits


SIZES = {  # layers, width, heads, of these for keys and values, width inside
    "tiny": (2, 64, 4, 2, 192),
    "small": (6, 384, 6, 2, 1024),
    "SmolLM2-135M": (30, 576, 9, 3, 1536),
}
LENGTHS = (128, 256, 512, 1024, 2048, 4096)
VOCABULARY = 49_152
TARGET = 7
MANY = "bcos_in_batches"
# Forwards and backwards for a text of n tokens, the first of which is special.
METHODS: dict[str, tuple[dict, Callable[[int], tuple[int, int]]]] = {
    "bcos": ({}, lambda n: (1, 1)),
    MANY: ({}, lambda n: (1, 1)),
    "input_x_gradient": ({}, lambda n: (1, 1)),
    "integrated_gradients": ({"steps": 50}, lambda n: (50, 50)),
    "occlusion": ({}, lambda n: (n, 0)),
    "kernel_shap": ({"samples": 200}, lambda n: (200, 0)),
    "shapley_sampling": ({"samples": 25}, lambda n: (25 * (n - 1) + 1, 0)),
}


def llama(size: str):
    layers, width, heads, keys, inside = SIZES[size]
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        intermediate_size=inside,
        vocab_size=VOCABULARY,
        max_position_embeddings=LENGTHS[-1],
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).to(DEVICE).eval()


def explain(study: Study, models: dict, size: str, length: int, name: str, b: float, limit: float) -> dict:
    """Seconds and memory of one explanation, measured or estimated; `"forward"` is a pass without any.

    Methods that need many passes of one text have them in batches. `MANY` explains as many texts in one pass.
    """
    if models.get("size") != size:
        stock = llama(size)
        models.update(size=size, stock=stock, bcos=get_bcos_model(copy.deepcopy(stock), BcosConfig(b=b)))
    model = models["bcos" if name in ("bcos", MANY) else "stock"]
    rows = max(1, min(32, 4096 // length))  # in one pass
    texts = torch.randint(5, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(length))
    if name == MANY:
        spent = fewest(lambda: attribute(model, texts.to(DEVICE), target=TARGET), limit)
        return {"seconds_each": spent / rows, "passes": [1, 1], "rows": rows}
    question = Question(texts[0], target=TARGET, special=torch.arange(length) == 0)
    if name == "forward":
        return {"seconds_each": fewest(lambda: logits(model, [question]), limit), "passes": [1, 0]}
    given, count = METHODS[name]
    forwards, backwards = passes = count(length)
    before = study.cells["explanations"]
    once = before[f"{size}, {length}, forward"]["seconds_each"]
    if passes != (1, 1):
        both = before[f"{size}, {length}, input_x_gradient"]["seconds_each"]
        guess = backwards * both + (forwards - backwards) * once
        if guess > limit:
            return {"seconds_each": guess, "passes": list(passes), "estimated": True}
    extra = {"batch_size": rows} if passes != (1, 1) else {}
    method = Metered(get_method(name, **given, **extra), memory_examples=1 if passes == (1, 1) else 0)
    method(model, question)
    cost = method.cost
    spent = fewest(lambda: method.method(model, question), limit)
    measured = [cost.forward_rows, cost.backward_rows]
    return {"seconds_each": spent, "passes": measured, "peak_memory": cost.peak_memory}


def fewest(run: Callable[[], object], limit: float, rounds: int = 3) -> float:
    """The least time of a few runs: of one only, where that takes long, and of many that take milliseconds."""
    found = [seconds(run, DEVICE, clock(DEVICE))]
    while found[0] < limit / 10 and (len(found) < rounds or (sum(found) < 1 and len(found) < 50)):
        found.append(seconds(run, DEVICE, clock(DEVICE)))
    return min(found)


def explanations(study: Study, cells: dict) -> list[str]:
    found = {tuple(name.split(", ")): cell for name, cell in cells.items()}
    sizes = list(dict.fromkeys(size for size, _, _ in found))
    names = list(dict.fromkeys(method for *_, method in found))
    parts, (drawn, ((*panels,),)) = [], figure(len(sizes))
    for size, panel in zip(sizes, panels, strict=True):
        lengths = sorted({int(length) for one, length, _ in found if one == size})
        lines = []
        for length in lengths:
            cell = {name: found.get((size, str(length), name)) for name in names}
            times = [_seconds(cell[name]) for name in names]
            ratios = [_ratio(cell.get("integrated_gradients"), cell.get(ours)) for ours in ("bcos", MANY)]
            peaks = [cell.get(name, {}).get("peak_memory") for name in ("bcos", "input_x_gradient")]
            lines.append([str(length), *times, *ratios, *("–" if p is None else f"{p / 2**20:.0f}" for p in peaks)])
        ratios = [f"integrated gradients / {ours}" for ours in ("bcos", MANY)]
        header = ["Tokens", *names, *ratios, "MiB, bcos", "MiB, input_x_gradient"]
        parts += [f"### {size}", table([title.replace("_", " ") for title in header], lines, left=1)]
        for name, colour in zip(names, COLOURS, strict=False):
            points = [(n, found[size, str(n), name]["seconds_each"]) for n in lengths if (size, str(n), name) in found]
            panel.plot(
                *zip(*points, strict=True), marker="o", markersize=3, color=colour, label=name.replace("_", " ")
            )
        panel.set(xscale="log", yscale="log", title=size, xlabel="tokens", ylabel="seconds")
        panel.set_xticks(lengths, [str(length) for length in lengths], fontsize=7)
        panel.minorticks_off()
    size = next(iter(cells.values()))["settings"]
    parts.append(
        f"Seconds for one explanation of the next token ({size['clock']} time, least of three runs and more); ≈ is an "
        "estimate from the measured time of a pass. Integrated gradients with 50 steps, KernelSHAP with 200 samples, "
        "Shapley sampling with 25 permutations. In batches: as many texts are explained in one pass as integrated "
        "gradients has steps in one, which is 32 for 128 tokens and one for 4,096; seconds for each of them. MiB: all "
        "tensors alive at a time, beyond the model."
    )
    return [*parts, draw(drawn, study.folder / "explanations.svg", legend=panels[0])]


def _ratio(theirs: dict | None, ours: dict | None) -> str:
    if not theirs or not ours or ("rows" in ours and theirs.get("estimated")):  # estimates are made from single texts
        return "–"
    return f"{theirs['seconds_each'] / ours['seconds_each']:.1f}"


def _seconds(cell: dict | None) -> str:
    if cell is None:
        return "–"
    return f"{'≈ ' if cell.get('estimated') else ''}{cell['seconds_each']:.3g}"
