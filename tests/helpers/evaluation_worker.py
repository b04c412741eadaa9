"""What one of several processes does in test_evaluation_processes.py: an evaluation that they share."""

import json
import sys
from pathlib import Path

import torch
from torch import distributed
from transformers import AutoTokenizer

from bcos_peft.evaluation import Metered, evaluate
from helpers import tiny
from helpers.toys import Gradient, Noise


TEXTS = [
    "A gripping, beautifully shot film.", "Two hours that I shall not get back.", "We loved the music.",
    "The story isn't good.", "Who made this boring thing?", "An awful movie.", "Don't miss it!",
]  # fmt: skip


def shared(together: bool, tokenizer, checkpoint=None, texts=TEXTS):
    methods = [Metered(Gradient()), Metered(Noise())]
    model = tiny.model(num_labels=2, dtype=torch.float64)
    return evaluate(model, tokenizer, texts, methods, checkpoint=checkpoint, progress=False, distributed=together)


if __name__ == "__main__":
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    tokenizer = AutoTokenizer.from_pretrained(folder)  # one that is trained here has other ids in every process
    result = shared(True, tokenizer, folder / "records.jsonl", TEXTS[:count])
    rows = [[record.method, record.metric, record.example, record.values] for record in result.records]
    found = {"rows": rows, "costs": result.costs, "texts": result.texts}
    (folder / f"{distributed.get_rank()}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()  # or a thread of it may still run when Python ends
