"""Make a classifier that is fine-tuned already exactly explainable, without labels.

python examples/explain_a_finetuned_classifier.py --model distilbert/distilbert-base-uncased-finetuned-sst-2-english
python examples/explain_a_finetuned_classifier.py --offline    # the MiniLM that `make demo` has fine-tuned on tweets
"""

import argparse

from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bcos_peft import BcosConfig, BcosExplainer, get_bcos_model


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="distilbert/distilbert-base-uncased-finetuned-sst-2-english")
parser.add_argument(
    "--dataset", default="stanfordnlp/imdb", help="texts like those the model is for; labels are not read"
)
parser.add_argument(
    "--offline", nargs="?", const="outputs/demo/conventional", help="tweets and the demo's model instead"
)
parser.add_argument("--b", type=float, default=1.25)
parser.add_argument("--text", default="The flight was late, but the crew was wonderful.")
options = parser.parse_args()

if options.offline:
    from bundled import tweets

    name, texts = options.offline, tweets(train=256)["train"]["text"]
else:
    name, texts = options.model, load_dataset(options.dataset, split="train").shuffle(seed=0)["text"][:256]
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForSequenceClassification.from_pretrained(name)
model = get_bcos_model(model, BcosConfig(b=options.b), calibration_data=texts, tokenizer=tokenizer)
model.print_bcos_summary()
BcosExplainer(model, tokenizer)(options.text).show()
model.save_pretrained("outputs/explained-classifier")
tokenizer.save_pretrained("outputs/explained-classifier")
