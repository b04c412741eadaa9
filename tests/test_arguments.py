"""Every public call refuses arguments that are not what their annotation says, by name, before anything is done."""

import inspect

import numpy as np
import pytest

import bcos_peft
from bcos_peft import BcosExplainer, Explanation, GenerationExplanation
from bcos_peft.evaluation import EvaluationResult, Texts
from bcos_peft.explanation import export_svg, layout, render_generation_html, render_html, show, show_generation


CALLS = [
    bcos_peft.attribute,
    bcos_peft.get_bcos_model,
    bcos_peft.hide_tokens,
    bcos_peft.load,
    bcos_peft.merge_gains,
    bcos_peft.train_only,
    bcos_peft.BcosScheduleCallback.__init__,
    bcos_peft.HideTokensCallback.__init__,
    BcosExplainer.__init__,
    BcosExplainer.__call__,
    BcosExplainer.explain,
    BcosExplainer.explain_generation,
    BcosExplainer.explain_span,
    BcosExplainer.generate,
    Explanation.show,
    Explanation.spans,
    Explanation.to_html,
    Explanation.top,
    Explanation.words,
    GenerationExplanation.by_segment,
    GenerationExplanation.show,
    GenerationExplanation.summed,
    GenerationExplanation.to_html,
    EvaluationResult.save,
    EvaluationResult.table,
    EvaluationResult.to_pandas,
    Texts.__init__,
    export_svg,
    layout,
    render_generation_html,
    render_html,
    show,
    show_generation,
]
for _name in ("ask", "blimp_pairs", "bootstrap_interval", "build_pairs", "evaluate", "explain_with", "ioi_pairs"):
    CALLS.append(getattr(bcos_peft.evaluation, _name))
for _name in ("load_minimal_pairs", "logits", "paired_test", "planted_answers", "probabilities", "read_dataset"):
    CALLS.append(getattr(bcos_peft.evaluation, _name))

VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
# By annotation: values that pass for something else where nobody looks, and values that are right.
WRONG = {
    "bool": ["no", "only_second", 2, 0, None, [True]],
    "int": ["3", 1.5, True, None, [1]],
    "float": ["0.5", True, None, [0.5]],
    "str": [3, True, None, ["zero"]],
}
RIGHT = {"bool": [True, np.bool_(False)], "int": [3, np.int64(2)], "float": [0.5, 1, np.float32(0.25)], "str": ["x"]}


def kinds_of(parameter):
    return [part.strip() for part in str(parameter.annotation).split("|")]


def cases(values):
    for call in CALLS:
        for name, parameter in inspect.signature(call).parameters.items():
            kinds = kinds_of(parameter)
            if all(kind in {*WRONG, "None"} for kind in kinds) and parameter.kind not in VARIADIC:
                yield pytest.param(call, name, kinds, values(kinds), id=f"{call.__qualname__}-{name}")


def wrong(kinds):
    fine = [value for kind in kinds if kind != "None" for value in RIGHT[kind]] + ([None] if "None" in kinds else [])
    known = [value for kind in kinds if kind != "None" for value in WRONG[kind]]
    return [value for value in known if not any(type(value) is type(other) for other in fine)]


def test_there_is_something_to_check():
    assert len(list(cases(wrong))) > 80
    assert len({case.values[0] for case in cases(wrong)}) >= len(CALLS) - 5  # some take texts and models only


@pytest.mark.parametrize(("call", "name", "kinds", "values"), cases(wrong))
def test_what_is_of_another_kind_is_refused(call, name, kinds, values):
    """With nothing else given: it is refused before anything is looked at."""
    assert values
    for value in values:
        with pytest.raises(TypeError, match=rf"^{name} must be "):
            call(**{name: value})


@pytest.mark.parametrize(
    ("call", "name", "kinds", "values"),
    cases(lambda kinds: [*(v for kind in kinds if kind != "None" for v in RIGHT[kind])] + [None] * ("None" in kinds)),
)
def test_what_is_documented_is_not(call, name, kinds, values):
    for value in values:
        assert not said(call, name, value).startswith(f"{name} must be ")


def said(call, name, value) -> str:
    """The TypeError of a call, which may as well say that something else is missing."""
    try:
        call(**{name: value})
    except TypeError as error:
        return str(error)
    except Exception:
        pass
    return ""
