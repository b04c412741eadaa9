"""Translate with an encoder-decoder, and see which word of the source each word of the translation came from.

python examples/translate_and_explain.py "The house is wonderful." --model google-t5/t5-small
python examples/translate_and_explain.py --offline    # a small T5, trained here on sentences made below
"""

import argparse
import itertools
import random
from pathlib import Path

import torch
from datasets import Dataset
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerFast,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)

from bcos_peft import BcosConfig, BcosExplainer, get_bcos_model


# English and German: the verb moves to the end of the question, and articles follow the noun's gender.
NOUNS = {"dog": "der Hund", "cat": "die Katze", "house": "das Haus", "child": "das Kind", "woman": "die Frau"}
ADJECTIVES = {"small": "kleine", "old": "alte", "red": "rote", "good": "gute", "young": "junge"}
VERBS = {"sees": "sieht", "likes": "mag", "hears": "hört", "finds": "findet"}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("text", nargs="?", help="what to translate")
parser.add_argument("--model", default="google-t5/t5-small", help="an encoder-decoder on the hub")
parser.add_argument("--task", default="translate English to German: ", help="what T5 wants in front of a text")
parser.add_argument("--offline", action="store_true", help="a small T5 that is trained here, without a network")
parser.add_argument("--b", type=float, default=1.25, help="the exponent B (default: %(default)s)")
parser.add_argument("--steps", type=int, default=400, help="offline: steps of training (default: %(default)s)")
parser.add_argument("--output", default="outputs/translation", help="where to write the page (default: %(default)s)")
options = parser.parse_args()


def sentences() -> list[tuple[str, str]]:
    """All pairs that the words above make, in an order that is the same each time."""
    found = []
    for (noun, german), (adjective, attribute), (verb, says) in itertools.product(
        NOUNS.items(), ADJECTIVES.items(), VERBS.items()
    ):
        article, word = german.split()
        for other, answer in NOUNS.items():
            if other != noun and not answer.startswith("der"):  # whose accusative is another word
                found.append(
                    (f"the {adjective} {noun} {verb} the {other}", f"{article} {attribute} {word} {says} {answer}")
                )
    random.Random(0).shuffle(found)
    return found


def small_t5(pairs: list[tuple[str, str]]):
    """A T5 with a tokenizer of whole words, trained on the pairs."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = sorted({word for pair in pairs for text in pair for word in text.split()})
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *words])}, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    config = T5Config(
        vocab_size=len(tokenizer), d_model=64, d_ff=128, d_kv=16, num_layers=2, num_heads=4, dropout_rate=0.0,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    rows = [tokenizer(source, text_target=target) for source, target in pairs]
    data = Dataset.from_list([{"input_ids": row["input_ids"], "labels": row["labels"]} for row in rows])
    arguments = Seq2SeqTrainingArguments(
        "outputs/translation", max_steps=options.steps, per_device_train_batch_size=32, learning_rate=3e-3,
        lr_scheduler_type="cosine", report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    collator = DataCollatorForSeq2Seq(tokenizer, model)
    Seq2SeqTrainer(model, arguments, train_dataset=data, data_collator=collator, processing_class=tokenizer).train()
    return model, tokenizer


set_seed(0)
if options.offline:
    pairs = sentences()
    held_out, pairs = pairs[:50], pairs[50:]
    model, tokenizer = small_t5(pairs)
    text = options.text or held_out[0][0]
else:
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForSeq2SeqLM.from_pretrained(options.model)
    pairs = [options.task + one for one in ("The house is wonderful.", "I like this film.", "It rains today.") * 8]
    text = options.task + (options.text or "The house is wonderful.")

# Sources alone would do: the model writes the answers itself.
model = get_bcos_model(model, BcosConfig(b=options.b), calibration_data=pairs, tokenizer=tokenizer)
explainer = BcosExplainer(model.eval(), tokenizer)
if options.offline:
    found = explainer.generate([source for source, _ in held_out], max_new_tokens=12)
    right = sum(
        one.answer.replace("</s>", "").strip() == wanted for one, (_, wanted) in zip(found, held_out, strict=True)
    )
    print(f"{right} of {len(held_out)} sentences that it has not seen are translated word for word")

explanation = explainer.generate(text, max_new_tokens=60)
explanation.show()
print("contributions of the source and of the answer so far:", explanation.by_segment(whole=True))
page = Path(options.output) / "translation.html"
page.parent.mkdir(parents=True, exist_ok=True)
explanation.to_html(page)
print(f"The page is {page.resolve().as_uri()}")
