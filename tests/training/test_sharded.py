"""Several processes on the CPU (gloo): data parallel, FSDP 1 and 2, and ZeRO-3 where DeepSpeed is installed.

What is compared is a training in one process, with the same texts in a step.
"""

import json

import pytest
from helpers import sft_data, tiny
from helpers.launching import launch
from helpers.paths import TESTS
from safetensors.torch import load_file

from bcos_peft import BcosConfig, get_bcos_model


pytestmark = [pytest.mark.slow, pytest.mark.newest, pytest.mark.timeout(600)]

EXAMPLE = TESTS.parent / "examples" / "train_on_two_processes.py"


@pytest.mark.parametrize("version", ["fsdp2", "fsdp1"])
def test_sharded_models_are_the_models_in_one_piece(version):
    """Row norms, gains and adapters: logits, gradients, steps, explanations and gathered weights."""
    out = launch(TESTS / "helpers" / "sharded_worker.py", version)
    assert out.count("right") == 5, out


def test_tensor_parallel_plans_are_refused(tmp_path):
    """They cut rows, whose norms the layers need. The stock model takes the same plan."""
    stock = tiny.model("llama", "CausalLM", attention_bias=False, mlp_bias=False)
    stock.save_pretrained(tmp_path / "stock")
    get_bcos_model(stock, BcosConfig(b=1.5)).save_pretrained(tmp_path / "bcos")
    out = launch(TESTS / "helpers" / "sharded_worker.py", "tensor parallel", tmp_path)
    assert out.count("right") == 1, out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny models without dropout, and data of different lengths."""
    path = tmp_path_factory.mktemp("two")
    tiny.model("llama", "CausalLM").save_pretrained(path / "llama")
    sft_data.tokenizer().save_pretrained(path / "llama")
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    tiny.model("bert", "SequenceClassification", **still).save_pretrained(path / "bert")
    tiny.tokenizer().save_pretrained(path / "bert")
    pairs = [(f"{text}{' film' * (i % 3)}", answer) for i in range(4) for text, answer in sft_data.PAIRS]
    sft = [json.dumps({"prompt": text, "completion": f" {answer}"}) for text, answer in pairs]
    labelled = [json.dumps({"text": text, "label": i % 3}) for i, (text, _) in enumerate(pairs)]
    (path / "sft.json").write_text("\n".join(sft))
    (path / "labelled.json").write_text("\n".join(labelled))
    return path


def example(folder, name, task, *options, processes=2):
    """What the script has found, and the weights that it has saved."""
    data = {"sft": ("--model", "llama", "--data", "sft.json")}
    data["classifier"] = ("--classifier", "--model", "bert", "--data", "labelled.json")
    batch = ("--batch", 4 // processes)
    launch(EXAMPLE, *data[task], *batch, "--output", folder / name, *options, processes=processes, cwd=folder)
    result = json.loads((folder / name / "result.json").read_text())
    assert result["processes"] == processes
    weights = {}
    for file in sorted((folder / name).glob("*.safetensors")):
        weights |= load_file(file)
    return result, weights


def alike(found, expected):
    assert [float(loss) for loss in found[0]["losses"]] == pytest.approx(
        [float(loss) for loss in expected[0]["losses"]], rel=1e-4
    )
    assert found[1].keys() == expected[1].keys()
    for name, weight in expected[1].items():
        # Adam divides by the size of a gradient, so rounding may show where that is next to nothing.
        assert (found[1][name] - weight).norm() <= 1e-3 * weight.norm(), name
    for result, _ in (found, expected):
        assert abs(result["residual"]) < 1e-5


@pytest.fixture(scope="module")
def alone(folder):
    """Trainings in a single process, each done once."""
    done = {}

    def get(task, *options):
        key = (task, *options)
        if key not in done:
            done[key] = example(folder, "-".join(["one", *key]), task, *options, processes=1)
        return done[key]

    return get


# The other ways of a language model are in the tests below, each with an option besides.
@pytest.mark.parametrize(
    ("task", "way", "spread"),
    [
        ("sft", ("--lora",), ("--fsdp", "2")),
        ("classifier", (), ()),
        ("classifier", ("--lora",), ("--fsdp", "2")),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value) or "plain",
)
def test_two_processes_learn_what_one_does(task, way, spread, folder, alone):
    one = alone(task, *way)
    two = example(folder, "-".join(["two", task, *way, *spread]), task, *way, *spread)
    alike(two, one)


@pytest.mark.parametrize("way", [("--train", "gain_and_norms"), ("--lora", "--train", "lora", "gain")], ids=" ".join)
def test_gains_of_sharded_layers(way, folder, alone):
    """They are trained, gathered, saved with the model or beside the adapter, and loaded."""
    two = example(folder, "-".join(["two", *way]), "sft", *way, "--fsdp", "2")
    alike(two, alone("sft", *way))
    gains = [weight for name, weight in two[1].items() if name.endswith(".gain.weight")]
    assert len(gains) == 8
    assert all((gain - 1).abs().max() > 1e-4 for gain in gains)


@pytest.mark.parametrize("options", [("--offload",), ("--checkpointing", "not-reentrant")], ids=" ".join)
def test_fsdp_with_other_options(options, folder, alone):
    two = example(folder, "-".join(["two", *options]), "sft", "--fsdp", "2", *options)
    alike(two, alone("sft"))


@pytest.mark.parametrize("mode", ["reentrant", "not-reentrant"])
def test_checkpoints_of_activations_on_two_processes(mode, folder, alone):
    two = example(folder, f"two-{mode}", "sft", "--lora", "--checkpointing", mode)
    alike(two, alone("sft", "--lora"))


def test_accelerate_launch(folder, alone):
    """The command that the example names, on the CPU."""
    command = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", EXAMPLE]
    command += ["--model", "llama", "--data", "sft.json", "--output", "launched"]
    launch(*command, processes=1, cwd=folder)
    result = json.loads((folder / "launched" / "result.json").read_text())
    alike((result, load_file(folder / "launched" / "model.safetensors")), alone("sft"))
