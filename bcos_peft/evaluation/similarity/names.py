"""Methods by name."""

from __future__ import annotations

from dataclasses import fields

from bcos_peft.evaluation.similarity.base import SimilarityMethod
from bcos_peft.evaluation.similarity.gradient import IntegratedJacobians, SimilarityInputXGradient
from bcos_peft.evaluation.similarity.methods import (
    SimilarityChance,
    SimilarityContributions,
    SimilarityOcclusion,
    TokenMatching,
)


SIMILARITY_METHODS: dict[str, type[SimilarityMethod]] = {
    "bcos": SimilarityContributions,
    "detached": SimilarityContributions,
    "occlusion": SimilarityOcclusion,
    "input_x_gradient": SimilarityInputXGradient,
    "integrated_jacobians": IntegratedJacobians,
    "token_matching": TokenMatching,
    "random": SimilarityChance,
}


def get_similarity_method(name: str, label: str | None = None, **options) -> SimilarityMethod:
    """A method that scores the words of two texts, by its name.

    Args:
        name (`str`): one of `SIMILARITY_METHODS`: `"bcos"`, the exact contributions of a converted model;
            `"detached"`, the same of any model, less what its biases add; `"occlusion"`, `"input_x_gradient"`,
            `"integrated_jacobians"`, `"token_matching"`, `"random"`.
        label (`str`, *optional*): what tables call it; by default its name.
        **options: fields of the method, such as `steps=20` or `perturbation="delete"`.

    Returns:
        [`SimilarityMethod`]

    Raises:
        ValueError: there is no such method, or an option has no such value.
        TypeError: the method has no such option.

    Example:
        >>> from bcos_peft.evaluation.similarity import get_similarity_method
        >>> get_similarity_method("integrated_jacobians", steps=20).steps
        20
    """
    cls = SIMILARITY_METHODS.get(name)
    if cls is None:
        raise ValueError(f"There is no method {name!r}; there are: {', '.join(SIMILARITY_METHODS)}.")
    known = {field.name for field in fields(cls)} - {"name", "converted"}
    unknown = sorted(options.keys() - known)
    if unknown:
        raise TypeError(f"{name!r} has no option {unknown[0]!r}; it has: {', '.join(sorted(known)) or '-'}.")
    if name == "detached":
        options["converted"] = False
    return cls(name=label or name, **options)
