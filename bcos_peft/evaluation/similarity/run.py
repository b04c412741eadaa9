"""`evaluate_similarity`: methods and metrics over pairs of texts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from torch import nn
from tqdm.auto import tqdm

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft._utils.digest import digest
from bcos_peft._utils.imports import import_extra
from bcos_peft.evaluation.methods import Cost
from bcos_peft.evaluation.results import EvaluationResult, Record
from bcos_peft.evaluation.similarity.names import get_similarity_method
from bcos_peft.evaluation.similarity.perturbation import SimilarityComprehensiveness, SimilaritySufficiency
from bcos_peft.evaluation.similarity.pointing import JoinedDocument, SimilarityPointingGame
from bcos_peft.evaluation.similarity.reader import WordReader
from bcos_peft.models import BcosModel


@checked_arguments
def evaluate_similarity(
    model: nn.Module,
    pairs: Sequence[tuple[str, str] | JoinedDocument],
    methods: Sequence | None = None,
    metrics: Sequence | None = None,
    *,
    tokenizer: Any = None,
    pooling: str | None = None,
    label: str | None = None,
    batch_size: int = 32,
    confidence: float = 0.95,
    progress: bool | None = None,
) -> EvaluationResult:
    """Run methods and metrics over pairs of texts, or over documents made of two halves.

    Args:
        model (`torch.nn.Module`): a `SentenceTransformer`; or a model without a head, with its tokenizer and
            `pooling`. Converted or not.
        pairs: pairs of texts that are close; or all of them [`JoinedDocument`]s.
        methods (`Sequence`, *optional*): names as of [`get_similarity_method`], or callables `(reader, a, b) ->
            PairScores` with a `name`. Default: exact contributions (of a model that was not converted:
            `"detached"`), occlusion, and random scores.
        metrics (`Sequence`, *optional*): default: comprehensiveness and sufficiency of pairs, the pointing game of
            documents.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*): of a model without a head.
        pooling (`"mean"`, `"cls"` or `"last"`, *optional*): of a model without a head.
        label (`str`, *optional*): what tables call the model. Default: "B-cos" or "conventional".
        batch_size (`int`, defaults to 32): texts in one pass.
        confidence (`float`, defaults to 0.95): of the intervals.
        progress (`bool`, *optional*): show a progress bar. Default: in a terminal.

    Returns:
        [`EvaluationResult`]: its tables, intervals, paired tests and costs are those of [`evaluate`].

    Raises:
        TypeError: a pair is none, or there are pairs and documents; or the model is of the wrong kind.
        ValueError: there are no pairs, two methods have one name, or there is no such method.
        ImportError: scipy is not installed.

    Example:
        >>> from sentence_transformers import SentenceTransformer
        >>> from bcos_peft.evaluation import evaluate_similarity
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> pairs = [("A gripping film.", "This movie kept me on edge."), ("It rains.", "Rain until noon.")]
        >>> evaluate_similarity(model, pairs, ["occlusion", "random"]).rows
        [('conventional', 'occlusion'), ('conventional', 'random')]
    """
    import_extra("scipy.stats", "Intervals need")
    pairs = list(pairs)
    documents = _are_documents(pairs)
    converted = isinstance(model, nn.Module) and any(isinstance(module, BcosModel) for module in model.modules())
    label = label or ("B-cos" if converted else "conventional")
    if methods is None:
        methods = ["bcos" if converted else "detached", "occlusion", "random"]
    methods = [get_similarity_method(one) if isinstance(one, str) else one for one in methods]
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"Two methods are called {twice!r}; give one another name: get_similarity_method(..., label=...)."
        )
    if metrics is None:
        metrics = [SimilarityPointingGame()] if documents else [SimilarityComprehensiveness(), SimilaritySufficiency()]
    reader = WordReader(model, tokenizer, pooling, batch_size)
    texts = [(one.query, one.text) if documents else tuple(one) for one in pairs]
    keys = [digest(list(text))[:12] for text in texts]
    result = EvaluationResult(
        records=[],
        values={name: value for metric in metrics for name, value in metric.values.items()},
        texts={key: f"{a} | {b}" for key, (a, b) in zip(keys, texts, strict=True)},
        settings=[
            {
                "model": label,
                "pairs": len(pairs),
                "methods": {method.name: getattr(method, "settings", {}) for method in methods},
                "metrics": {metric.name: metric.settings() for metric in metrics},
            }
        ],
        confidence=confidence,
    )
    hidden = None if progress is None else not progress
    for method in methods:
        cost = Cost()
        rows = zip(pairs, texts, keys, strict=True)
        for one, text, key in tqdm(
            rows, desc=f"{label}: {method.name}", total=len(pairs), disable=hidden, leave=False
        ):
            reader.cost = Cost()
            began = time.perf_counter()
            scores = method(reader, *text)
            cost += reader.cost
            cost.seconds += time.perf_counter() - began
            for metric in metrics:
                values = metric.measure(reader, one, scores)
                result.records.append(Record(label, method.name, metric.name, key, values))
        cost.examples = len(pairs)
        result.costs[f"{label} + {method.name}"] = cost.to_dict()
    return result


def _are_documents(pairs: list) -> bool:
    if not pairs:
        raise ValueError("pairs is empty: there is nothing to evaluate.")
    kinds = {isinstance(one, JoinedDocument) for one in pairs}
    if len(kinds) > 1:
        raise TypeError("pairs has pairs of texts and documents: evaluate them apart, and add the results.")
    for i, one in enumerate(pairs):
        whole = isinstance(one, JoinedDocument) or (
            isinstance(one, (tuple, list)) and len(one) == 2 and all(isinstance(text, str) for text in one)
        )
        if not whole:
            raise TypeError(f"pairs[{i}] must be two texts, or a JoinedDocument; got {one!r:.80}.")
    return kinds.pop()
