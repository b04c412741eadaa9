"""Several threads explain and ask one model at once, as web servers do."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import tiny

from bcos_peft import BcosConfig, attribute, get_bcos_model
from bcos_peft.attribution import attribute_sequence
from bcos_peft.nn import BcosLinear


def test_threads_take_turns():
    model = get_bcos_model(tiny.model("llama", "CausalLM", num_hidden_layers=4), BcosConfig(b=1.5))
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(5, 300, (1, length), generator=generator) for length in range(5, 45)]
    alone = [attribute(model, ids).scores for ids in texts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda ids: attribute(model, ids), texts * 2))
    assert all(result.residual.abs().max() < 1e-4 for result in together)
    assert all(torch.allclose(result.scores, one, atol=1e-5) for result, one in zip(together, alone * 2, strict=True))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def race(explain, predict, times=60):
    """What two threads find that do one thing each, again and again."""
    with ThreadPoolExecutor(2) as pool:
        explained = pool.submit(lambda: [explain() for _ in range(times)])
        predicted = []
        while not explained.done():
            predicted.append(pool.submit(predict).result())
        return explained.result(), predicted


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_one_thread_predicts_while_another_explains(family):
    changes = {"final_logit_softcapping": 1.0} if family == "gemma2" else {}
    model = get_bcos_model(tiny.model(family, "CausalLM", initializer_range=0.5, **changes), BcosConfig()).eval()
    ids, others = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[9, 10, 11]])

    @torch.no_grad()
    def predict():
        return model(others).logits

    def explain():
        return attribute(model, ids).scores, attribute_sequence(model, ids[0], [1, 2], [None, None]).scores

    (one, several), logits = explain(), predict()
    explained, predicted = race(explain, predict)
    assert predicted
    for found in predicted:
        torch.testing.assert_close(found, logits)
    for first, second in explained:
        torch.testing.assert_close(first, one)
        torch.testing.assert_close(second, several)


def test_weights_are_no_longer_steady_while_another_thread_predicts():
    """The end of a block may come at any place of a pass."""

    class Ends(dict):
        def __contains__(self, name):
            layer.steady = None
            return super().__contains__(name)

    layer, x = BcosLinear(4, 3), torch.ones(2, 4)
    layer.steady = Ends()
    torch.testing.assert_close(layer(x), BcosLinear.forward(layer, x))


def test_a_failure_in_one_thread_lets_the_others_on():
    model = get_bcos_model(tiny.model(), BcosConfig())
    ids = torch.tensor([[5, 6, 7]])
    with ThreadPoolExecutor(2) as pool:
        failed = [pool.submit(attribute, model, ids, target=99) for _ in range(4)]
        assert all(isinstance(one.exception(), ValueError) for one in failed)
        assert pool.submit(attribute, model, ids).result(timeout=60).residual.abs().max() < 1e-4
