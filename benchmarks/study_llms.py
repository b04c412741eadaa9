"""The language models of a study: as they are, converted, calibrated, fine-tuned; kept under outputs/."""

from __future__ import annotations

import copy
import hashlib
import json
import random

import torch
from study_models import DEVICE, alone, bundled
from texts import reviews
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from bcos_peft import BcosConfig, get_bcos_model


class Models:
    """The models by name, made when they are asked for; the last one stays in memory."""

    def __init__(self, found):
        self.found, self.last = found, (None, None)
        if found.model is None:
            self.stock, self.tokenizer = bundled.smollm2()
        else:
            self.stock = AutoModelForCausalLM.from_pretrained(found.model, dtype=torch.float32).eval()
            self.tokenizer = AutoTokenizer.from_pretrained(found.model)
        self.stock = self.stock.to(DEVICE)
        data = bundled.tweet_instructions(train=max(400, 8 * found.sft_steps), test=found.chats)
        self.chats = {part: [self._chat(row) for row in data[part]] for part in ("train", "test")}
        self.chats["train"] = self.chats["train"][: 8 * found.sft_steps]
        random.Random(found.seed).shuffle(self.chats["train"])

    def _chat(self, row) -> tuple[list[int], int]:
        """Token ids, and how many of them ask."""
        whole = self.tokenizer.apply_chat_template(row["prompt"] + row["completion"], return_dict=True)["input_ids"]
        asked = self.tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True)
        return whole, len(asked["input_ids"])

    def names(self) -> list[str]:
        ways = [f"B={b:g} {way}" for b in self.found.b for way in ("published", "calibrated")]
        tuned = {f"B={b:g}" for b in self.found.sft_b}
        ends = ["original + SFT"] + [f"{way} + SFT" for way in ways if way.split()[0] in tuned]
        return ["original", *ways, *ends]

    def settings(self, name: str) -> dict:
        """What a model is made with."""
        keys = ["model"]
        keys += ["calibration_tokens", "replay"] if "calibrated" in name else []
        keys += ["sft_steps", "seed"] if name.endswith("SFT") else []
        return {key: vars(self.found)[key] for key in keys}

    def get(self, name: str):
        if name == "original":
            return self.stock
        if self.last[0] != name:
            self.last = (None, None)  # before there is another one
            digest = hashlib.sha256(json.dumps([name, self.settings(name)]).encode()).hexdigest()[:12]
            folder = self.found.kept / "models" / f"llm-{digest}"
            with alone(folder):
                if not (folder / "whole").exists():
                    self._make(name).save_pretrained(folder)
                    (folder / "whole").touch()
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
            self.last = name, model.to(DEVICE).eval()
        return self.last[1]

    def _make(self, name: str):
        if name.endswith(" + SFT"):
            rate = 3e-4 if "published" in name else 5e-5
            return self._tuned(copy.deepcopy(self.get(name.removesuffix(" + SFT"))), rate)
        config = BcosConfig(
            b=float(name.split()[0][2:]),
            calibration_tokens=self.found.calibration_tokens,
            calibration_replay=self.found.replay,
            calibration_epochs=0,  # a fine-tuning follows
        )
        if "published" in name:
            return get_bcos_model(copy.deepcopy(self.stock), config)
        texts = [text for text, _ in reviews()[::17]]
        return get_bcos_model(copy.deepcopy(self.stock), config, calibration_data=texts, tokenizer=self.tokenizer)

    def _tuned(self, model, rate: float):
        torch.manual_seed(self.found.seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
        steps = self.found.sft_steps
        for step in tqdm(range(steps), desc="fine-tuning", leave=False, disable=None):
            rows = [ids for ids, _ in self.chats["train"][8 * step : 8 * step + 8]]
            ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True).to(DEVICE)
            mask = torch.arange(ids.shape[1], device=DEVICE) < torch.tensor(
                [[len(row)] for row in rows], device=DEVICE
            )
            optimizer.param_groups[0]["lr"] = rate * min(1, 10 * (step + 1) / steps) * (1 - step / steps)
            labels = ids.masked_fill(~mask, -100)
            model.train()(input_ids=ids, attention_mask=mask.long(), labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step(), optimizer.zero_grad()
        return model.eval()
