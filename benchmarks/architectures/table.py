"""The page in the docs: one table, and the reasons for what fails in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


_LIMITS = {"float64": 1e-10, "float32": 1e-4}
_STEPS = {
    "float64": "explained in float64",
    "float32": "explained in float32",
    "saved": "saved and loaded",
    "calibrated": "calibrated",
    "generated": "generates",
    "control": "control",
}
_LONGEST = 180  # characters of a reason


def page(versions: dict[str, str], results: list[dict[str, Any]]) -> str:
    """The page, in Markdown."""
    lines = [
        "# Architectures",
        "",
        f"Every text architecture of transformers {versions['transformers']} (with torch {versions['torch']}), as a "
        "tiny random model, converted **without a table** at B = 1.5. `make architectures` makes this page.",
        "",
        *_summary(results),
        "",
        "## The table",
        "",
        "A residual is what contributions miss of the logit, as a share of their absolute sum. *Saved*: the loaded "
        "model gives the same logits and contributions. *Calibrated*: on 16 lists of token ids, and explained exactly "
        "afterwards. *Writes*: `generate` works. A dash: not meant for it, or not reached. "
        "*Experimental*: state-space and linear-attention layers, whose contributions depend on how products are "
        "shared. *Own inputs*: learned inputs that belong to no token, which get a term of their own.",
        "",
        "| `model_type` | | class | float64 | float32 | saved | calibrated | writes |",
        "|---|---|---|---|---|---|---|---|",
        *map(_row, results),
    ]
    reasons = list(_reasons(results))
    if reasons:
        lines += ["", "## What fails, and why", "", "| `model_type` | what | reason |", "|---|---|---|", *reasons]
    return "\n".join(lines) + "\n"


def _summary(results: list[dict[str, Any]]) -> list[str]:
    def count(found: Iterable[dict[str, Any]], what: str) -> int:
        return sum(bool(result[what]) for result in found)

    pairs = [result for result in results if result["kind"] == "encoder-decoder"]
    writing = [result for result in results if result["kind"] != "encoder"]
    total = len(results)
    return [
        f"- **{count(results, 'certified')} of {total}** convert, and contributions sum to the logit: to 1e-10 in "
        "float64, or to 1e-4 in float32 where code mixes precisions in float64.",
        f"- **{count(results, 'saves')} of {total}** are the same after saving and loading.",
        f"- **{count(results, 'calibrated')} of {total}** are calibrated.",
        f"- **{count(writing, 'generated')} of {len(writing)}** decoders and encoder-decoders write.",
        f"- **{count(pairs, 'certified')} of {len(pairs)}** encoder-decoders are explained.",
        f"- The control, plain gradients of the same models with nothing held, fails for "
        f"**{sum(_control_fails(result) for result in results)} of {count(results, 'certified')}**, as it should.",
    ]


def _control_fails(result: dict[str, Any]) -> bool:
    """Plain gradients that miss the logit, are no numbers or cannot be taken at all."""
    value = result["control"]
    return result["certified"] and not (value is not None and value <= 1e-3)


def _row(result: dict[str, Any]) -> str:
    kind = result["kind"] + ", experimental" * bool(result["note"]) + ", own inputs" * result["constants"]
    cells = [
        f"`{result['model_type']}`",
        kind,
        f"`{result['model_class']}`" if result["model_class"] else "–",
        *(_number(result, name) for name in _LIMITS),
        _yes(result["saves"] if result["certified"] else None),
        _yes(result["calibrated"]),
        _yes(result["generated"]),
    ]
    return f"| {' | '.join(cells)} |"


def _number(result: dict[str, Any], name: str) -> str:
    value = result[name]
    if value is None:
        return "no" if name in result["reasons"] else "–"
    return f"{value:.0e}" if value <= _LIMITS[name] else f"**{value:.0e}**"


def _yes(value: bool | None) -> str:
    return {None: "–", True: "yes", False: "**no**"}[value]


def _reasons(results: list[dict[str, Any]]) -> Iterable[str]:
    for result in results:
        for what, reason in result["reasons"].items():
            if what == "control":
                continue
            reason = reason if len(reason) <= _LONGEST else reason[:_LONGEST].rsplit(" ", 1)[0] + " …"
            reason = reason.replace("|", "\\|").replace("`", "")
            yield f"| `{result['model_type']}` | {_STEPS[what]} | `{reason}` |"
        if result["saved"] is not None and not result["saves"]:
            yield f"| `{result['model_type']}` | {_STEPS['saved']} | changed by {result['saved']:.1e} |"
