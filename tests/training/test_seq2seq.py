"""Encoder-decoders in transformers' own trainer and pipelines."""

import pytest
import torch
from helpers import tiny, untabled
from helpers.docs_env import build_tokenizer
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForSequenceClassification,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    pipeline,
)

from bcos_peft import BcosConfig, BcosExplainer, get_bcos_model


pytestmark = pytest.mark.newest

SOURCES = ["the film was good", "a film was bad", "the music was good", "we saw a film"]
ANSWERS = ["good film", "bad film", "good music", "saw film"]


@pytest.mark.parametrize("name", ["T5ForConditionalGeneration", "BartForConditionalGeneration", "MarianMTModel"])
def test_the_trainer_of_answers(name, tmp_path):
    model, tokenizer = untabled.stock(name, torch.float32), build_tokenizer("bpe", SOURCES + ANSWERS)
    model.config.pad_token_id, model.config.eos_token_id = tokenizer.pad_token_id, tokenizer.sep_token_id
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = tokenizer.cls_token_id
    model.generation_config.eos_token_id = tokenizer.sep_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.forced_eos_token_id = None
    model.resize_token_embeddings(len(tokenizer))
    model = get_bcos_model(model, BcosConfig(b=1.25))
    rows = [
        {"input_ids": tokenizer(source)["input_ids"], "labels": tokenizer(answer)["input_ids"]}
        for source, answer in zip(SOURCES, ANSWERS, strict=True)
    ]
    arguments = Seq2SeqTrainingArguments(
        str(tmp_path / "run"),
        max_steps=25,
        per_device_train_batch_size=4,
        learning_rate=5e-3,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        predict_with_generate=True,
        generation_max_length=6,
    )
    written = []
    trainer = Seq2SeqTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        processing_class=tokenizer,
        compute_metrics=lambda found: written.append(found.predictions) or {},
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.9 * losses[0]
    trainer.evaluate()
    assert len(written[0]) == len(rows), "what it writes"
    trainer.save_model(str(tmp_path / "saved"))
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "saved")
    assert type(loaded) is type(model)
    source = torch.tensor([rows[0]["input_ids"]])
    answers = [one.eval().generate(source, max_new_tokens=5, do_sample=False) for one in (model, loaded)]
    assert torch.equal(*answers)
    found = BcosExplainer(loaded, tokenizer).generate(SOURCES[0], max_new_tokens=4)
    assert abs(found.residuals).max() < 1e-4


def test_zero_shot_classification_is_the_model():
    """What `facebook/bart-large-mnli` is loaded for. Pipelines that write (summarization, translation) are gone."""
    tokenizer = tiny.tokenizer()
    labels = {0: "contradiction", 1: "neutral", 2: "entailment"}
    config = BartConfig(
        vocab_size=len(tokenizer),
        id2label=labels,
        label2id={name: number for number, name in labels.items()},
        init_std=0.3,
        **untabled.MODELS["BartForConditionalGeneration"][1]
        | {"eos_token_id": tokenizer.sep_token_id, "pad_token_id": tokenizer.pad_token_id},
    )
    torch.manual_seed(0)
    model = get_bcos_model(BartForSequenceClassification(config).eval(), BcosConfig(b=1.5))
    classify = pipeline("zero-shot-classification", model=model, tokenizer=tokenizer)
    text, hypothesis = "we saw it twice", "This example is about {}."
    found = classify(text, ["films", "music"], hypothesis_template=hypothesis, multi_label=True)
    explainer = BcosExplainer(model, tokenizer)
    for label, score in zip(found["labels"], found["scores"], strict=True):
        pair = (text, hypothesis.format(label))
        one = explainer(pair, target="entailment", foil="contradiction")
        assert torch.tensor(one.logit).sigmoid().item() == pytest.approx(score, abs=1e-5)
        assert one.scores.sum() + one.constants == pytest.approx(one.logit, abs=1e-5)
