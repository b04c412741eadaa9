"""The model card of adapters: what is added to the one that peft writes."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from bcos_peft.models import put_eval_results


_MARK = "bcos_peft.load("
# The title, and the beginning of the first sentence.
_LORA = "LoRA adapter\n\nLoRA inside the layers of a B-cos model"
_METHOD = "adapter\n\nIt makes a B-cos model of the base, with gains of its own for layers and norms"


def _extend_card(
    folder: str | Path,
    name: str,
    base: str | None = None,
    eval_results: list[EvalResult] | None = None,
    *,
    about: str = _LORA,
) -> None:
    """Say in the model card that peft wrote, or in a new one, how a B-cos adapter is loaded, and what was measured.

    Args:
        folder: where the card is.
        name: what to load the adapter by.
        base: what its base was loaded by.
        eval_results: numbers in place of those on the card, which stay by default.
        about: what kind of adapter it is.
    """
    path = Path(folder) / "README.md"
    if path.exists():
        card = ModelCard.load(path, ignore_metadata_errors=True)
    else:  # transformers writes none
        data = ModelCardData(
            base_model=base, library_name="peft", tags=["lora", "bcos", "bcos-peft", "interpretability"]
        )
        card = ModelCard.from_template(data, template_str="---\n{{ card_data }}\n---\n")
    if _MARK in card.text and eval_results is None:
        return
    if _MARK not in card.text:
        card.text = (
            f"\n# B-cos {about}: every token's contribution to every "
            'logit is exact. It needs `pip install "bcos-peft[peft]"`.\n\n```python\nimport bcos_peft\n\n'
            f'model = bcos_peft.load("{name}")\n```\n{card.text}'
        )
    if eval_results is not None:
        put_eval_results(card, eval_results, Path(name).name or Path(folder).resolve().name)
    card.save(path)
