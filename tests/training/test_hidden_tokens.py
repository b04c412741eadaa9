"""Tokens hidden during training."""

import pytest
import torch
from helpers import tiny
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

from bcos_peft import BcosConfig, HideTokensCallback, get_bcos_model, hide_tokens


TEXTS = ["A gripping, beautifully shot film.", "Two hours that I shall not get back.", "Don't miss it!"]
UNUSED = tiny.VOCAB_SIZE - 1  # an id that none of them has


def test_a_share_of_the_tokens_is_hidden_and_no_special_one():
    tokenizer = tiny.tokenizer()
    ids = tokenizer(TEXTS * 400, padding=True, return_tensors="pt")["input_ids"]
    torch.manual_seed(0)
    found = hide_tokens(ids, tokenizer, share=0.2)
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    hidden = found == tokenizer.mask_token_id
    assert not (hidden & special).any()
    assert torch.equal(found[~hidden], ids[~hidden])
    shares = hidden.sum(1) / (~special).sum(1)
    assert shares.mean() == pytest.approx(0.2, abs=0.02)
    assert shares.std() > 0.1, "of one text more, of another less"
    assert not torch.equal(hide_tokens(ids, tokenizer, share=0.2), found)


@pytest.mark.parametrize("start", [-0.1, 1, float("nan")])
def test_a_start_out_of_range_is_refused(start):
    with pytest.raises(ValueError, match="start must be at least 0 and below 1"):
        HideTokensCallback(tiny.tokenizer(), start=start)


@pytest.mark.parametrize("share", [0, -0.1, 0.6, float("nan")])
def test_shares_out_of_range_are_refused(share):
    with pytest.raises(ValueError, match=r"share must be above 0 and at most 0\.5"):
        HideTokensCallback(tiny.tokenizer(), share)


def test_ids_of_a_single_text_are_refused():
    with pytest.raises(ValueError, match=r"must have the shape \(batch, sequence\), got \(9,\)"):
        hide_tokens(torch.arange(9), tiny.tokenizer())


def test_a_tokenizer_without_a_mask_token_needs_another():
    tokenizer = tiny.tokenizer("bpe")
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match="token_id"):
        HideTokensCallback(tokenizer)
    ids = tokenizer(TEXTS, padding=True, return_tensors="pt")["input_ids"]
    assert (hide_tokens(ids, tokenizer, 0.5, token_id=3) == 3).any()


def train(path, model, callback, rows, resume=False, **more):
    usual = {"max_steps": 2, "per_device_train_batch_size": 3, "save_strategy": "no", "eval_strategy": "steps"}
    fixed = {"eval_steps": 1, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    arguments = TrainingArguments(str(path), **fixed, **(usual | more))
    tokenizer = callback.tokenizer
    trainer = Trainer(
        model, arguments, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer, callbacks=[callback]
    )
    trainer.train(resume_from_checkpoint=resume)


@pytest.fixture
def rows():
    return [{**tiny.tokenizer()(text), "labels": i % 2} for i, text in enumerate(TEXTS)]


def test_training_sees_hidden_tokens_and_evaluation_whole_texts(tmp_path, rows):
    model = get_bcos_model(tiny.model(num_labels=2), BcosConfig())
    tokenizer = tiny.tokenizer()
    seen = {True: [], False: []}
    embeddings = model.get_input_embeddings()
    embeddings.register_forward_pre_hook(
        lambda module, args: seen[module.training].append((args[0] == tokenizer.mask_token_id).any().item())
    )
    callback = HideTokensCallback(tokenizer, share=0.5)
    train(tmp_path, model, callback, rows)
    assert seen[True] == [True, True]
    assert len(seen[False]) == 2
    assert not any(seen[False])
    model.train()(**tokenizer(TEXTS, padding=True, return_tensors="pt"))
    assert not seen[True][-1], "nothing is left on the model"


def hidden_batches(model, tokenizer):
    """Of each batch that the model is trained on, whether it has hidden tokens."""
    seen = []

    def watch(module, args):
        if module.training:
            seen.append((args[0] == tokenizer.mask_token_id).any().item())

    model.get_input_embeddings().register_forward_pre_hook(watch)
    return seen


@pytest.mark.parametrize("workers", [0, 2])
def test_hiding_begins_later(tmp_path, rows, workers):
    model, tokenizer = tiny.model(num_labels=2), tiny.tokenizer()
    seen = hidden_batches(model, tokenizer)
    callback = HideTokensCallback(tokenizer, share=0.5, start=0.5)
    train(tmp_path, model, callback, rows * 40, max_steps=40, dataloader_num_workers=workers, eval_strategy="no")
    assert not any(seen[:20])
    assert all(seen[30:]), "batches that are prepared beforehand are few"


def test_a_resumed_training_knows_where_it_is(tmp_path, rows):
    tokenizer = tiny.tokenizer()

    class Stop(HideTokensCallback):
        def on_step_end(self, args, state, control, **kwargs):
            super().on_step_end(args, state, control, **kwargs)
            control.should_training_stop = state.global_step == 8

    options = {"max_steps": 10, "save_strategy": "steps", "save_steps": 8}
    train(tmp_path, tiny.model(num_labels=2), Stop(tokenizer, 0.5, start=0.5), rows * 10, **options)
    model = tiny.model(num_labels=2)
    seen = hidden_batches(model, tokenizer)
    train(tmp_path, model, HideTokensCallback(tokenizer, 0.5, start=0.5), rows * 10, resume=True, **options)
    assert seen == [True, True]


def test_an_interrupted_training_leaves_nothing_behind(tmp_path, rows):
    tokenizer = tiny.tokenizer()
    model = get_bcos_model(tiny.model(num_labels=2), BcosConfig())
    seen, stop = [], True

    def watch(module, args):
        seen.append(args[0])
        if stop:
            raise KeyboardInterrupt

    model.get_input_embeddings().register_forward_pre_hook(watch)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, model, HideTokensCallback(tokenizer, share=0.5, token_id=UNUSED), rows)
    assert (seen[-1] == UNUSED).any()
    stop = False
    ids = tokenizer(TEXTS, padding=True, return_tensors="pt")
    model.train()(**ids)
    assert torch.equal(seen[-1], ids["input_ids"])
    seen.clear()
    train(tmp_path, model, HideTokensCallback(tokenizer, share=0.5), rows)
    assert any((ids == tokenizer.mask_token_id).any() for ids in seen)
    assert not any((ids == UNUSED).any() for ids in seen), "a new callback hides alone"


def test_a_loader_used_again_hides_once(rows):
    tokenizer = tiny.tokenizer()
    collate = DataCollatorWithPadding(tokenizer)
    loader = DataLoader(rows, batch_size=3, collate_fn=collate)
    HideTokensCallback(tokenizer, share=0.5, token_id=UNUSED).on_train_begin(None, None, None, train_dataloader=loader)
    callback = HideTokensCallback(tokenizer, share=0.5)
    callback.on_train_begin(None, None, None, train_dataloader=loader)
    hidden = next(iter(loader))["input_ids"]
    assert (hidden == tokenizer.mask_token_id).any()
    assert not (hidden == UNUSED).any()
    callback.on_train_end(None, None, None, train_dataloader=loader)
    assert loader.collate_fn is collate


def test_a_batch_without_ids_is_refused():
    loader = DataLoader([torch.zeros(2, 4)], collate_fn=lambda rows: {"inputs_embeds": torch.stack(rows)})
    HideTokensCallback(tiny.tokenizer()).on_train_begin(None, None, None, train_dataloader=loader)
    with pytest.raises(ValueError, match="no input_ids"):
        next(iter(loader))


def test_batches_of_no_loader_are_refused():
    with pytest.raises(ValueError, match=r"train_dataloader is a list\. Call hide_tokens"):
        HideTokensCallback(tiny.tokenizer()).on_train_begin(None, None, None, train_dataloader=[])
