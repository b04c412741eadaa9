"""What one of several processes does in test_sharded.py: `torchrun --nproc_per_node 2 sharded_worker.py CASE`.

Each case compares a model whose parameters are spread over the processes with the same model in one piece.
"""

import copy
import faulthandler
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

from bcos_peft import BcosConfig, attribute, get_bcos_model, train_only
from bcos_peft.models import find_bcos_model
from helpers import tiny


def made(family: str, way: str):
    """Equal in every process: converted, with an adapter or gains that do something."""
    torch.manual_seed(0)
    task = "CausalLM" if family in tiny.DECODERS else "SequenceClassification"
    model = get_bcos_model(tiny.model(family, task, dtype=torch.float64), BcosConfig(b=1.5))
    if way == "lora":
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    elif way == "gains":
        train_only(model, "gain_and_norms")
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "gain" in name:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(
                parameter
            )
    return model.eval()  # no dropout


def blocks(model):
    return [module for module in model.modules() if type(module).__name__ in find_bcos_model(model)._no_split_modules]


def sharded(model, version: str):
    if version == "fsdp2":
        for block in blocks(model):
            fully_shard(block)
        return fully_shard(model)
    policy = ModuleWrapPolicy({type(block) for block in blocks(model)})
    return FullyShardedDataParallel(
        model, auto_wrap_policy=policy, use_orig_params=True, device_id=torch.device("cpu")
    )


def batch(family: str):
    inputs = tiny.inputs(4, 8, family=family)
    labels = inputs["input_ids"] if family in tiny.DECODERS else torch.tensor([0, 1, 2, 1])
    return inputs | {"labels": labels}


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(model, version: str) -> dict:
    """All parameters and buffers in one piece, in every process."""
    if version == "fsdp1":  # its own way to a whole state dict ends torch 2.13 with a segmentation fault on a CPU
        with FullyShardedDataParallel.summon_full_params(model, writeback=False):
            state = {name: value.detach().clone() for name, value in model.named_parameters(remove_duplicate=False)}
        return {name.replace("_fsdp_wrapped_module.", ""): value for name, value in state.items()}
    options = StateDictOptions(full_state_dict=True)
    return get_model_state_dict(model, options=options)


def close(found, expected, what):
    size = float(expected.abs().max()) or 1.0
    assert float((found - expected).abs().max()) <= 1e-10 * size, what


def compare(family: str, way: str, version: str):
    """Forward, backward, a step, the certificate and a checkpoint are those of the model in one piece."""
    one = made(family, way)
    many = sharded(copy.deepcopy(one), version)
    spread = [p for p in many.parameters() if isinstance(p, DTensor) or version == "fsdp1"]
    assert spread
    assert sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in spread) < 0.7 * sum(
        p.numel() for p in one.parameters()
    ), "each process has its part"
    inputs = batch(family)
    trained = [p for p in one.parameters() if p.requires_grad]
    optimizers = [torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1) for model in (one, many)]
    for _ in range(2):
        expected = one(**inputs)
        found = many(**inputs)
        close(found.logits, expected.logits, "logits")
        expected.loss.backward()
        found.loss.backward()
        if version == "fsdp2":
            grads = {name: whole(p.grad) for name, p in many.named_parameters() if p.requires_grad}
            assert len(grads) == len(trained)
            for name, parameter in one.named_parameters():
                if parameter.requires_grad:
                    close(grads[name], parameter.grad, name)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    state, expected = gathered(many, version), one.state_dict()
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        close(state[name], value, name)
    explain = {key: value for key, value in inputs.items() if key != "labels"}
    if version == "fsdp1":
        with pytest.raises(ValueError, match="inside FullyShardedDataParallel"):
            attribute(many, **explain)
        close(many(**inputs).logits, one(**inputs).logits, "logits after a refusal")
        return
    for baseline in ("zero", "average"):
        expected, found = (attribute(model, **explain, baseline=baseline) for model in (one, many))
        close(found.scores, expected.scores, f"scores, {baseline}")
        assert float(found.residual.abs().max()) < 1e-10
    many(**inputs).loss.backward()  # training goes on
    assert all(p.grad is not None for p in many.parameters() if p.requires_grad)


# Every way with one family, and every family.
CASES = {
    f"{version} {family} {way}": (family, way, version)
    for version in ("fsdp2", "fsdp1")
    for family, way in [("llama", "full"), ("llama", "lora"), ("llama", "gains"), ("bert", "full"), ("gpt2", "lora")]
}


def tensor_parallel(folder: Path):
    plan = {"distributed_config": DistributedConfig(tp_plan="auto", tp_size=2)}
    inputs = tiny.inputs(family="llama")
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder / "stock")(**inputs).logits
        found = AutoModelForCausalLM.from_pretrained(folder / "stock", **plan)(**inputs).logits
    assert torch.allclose(whole(found), expected, atol=1e-4), "the stock model"
    for load in (
        lambda: AutoModelForCausalLM.from_pretrained(folder / "bcos", **plan),
        lambda: get_bcos_model(AutoModelForCausalLM.from_pretrained(folder / "stock", **plan), BcosConfig()),
    ):
        with pytest.raises(ValueError, match="Tensor parallelism"):
            load()


def main():
    faulthandler.dump_traceback_later(300, exit=True)  # a process whose partner has failed would wait for ever
    dist.init_process_group("gloo")
    for case in [case for case in CASES if case.startswith(sys.argv[1])]:
        compare(*CASES[case])
        if dist.get_rank() == 0:
            print("right", case, flush=True)
    if sys.argv[1] == "tensor parallel":
        tensor_parallel(Path(sys.argv[2]))
        if dist.get_rank() == 0:
            print("right", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
