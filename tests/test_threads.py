"""Several threads explain one model at once, as web servers do."""

from concurrent.futures import ThreadPoolExecutor

import tiny
import torch

from bcos_peft import BcosConfig, attribute, get_bcos_model


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


def test_a_failure_in_one_thread_lets_the_others_on():
    model = get_bcos_model(tiny.model(), BcosConfig())
    ids = torch.tensor([[5, 6, 7]])
    with ThreadPoolExecutor(2) as pool:
        failed = [pool.submit(attribute, model, ids, target=99) for _ in range(4)]
        assert all(isinstance(one.exception(), ValueError) for one in failed)
        assert pool.submit(attribute, model, ids).result(timeout=60).residual.abs().max() < 1e-4
