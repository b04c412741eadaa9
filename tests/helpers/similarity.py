"""A tiny model of embeddings, and pairs of texts for it."""

from transformers import BertModel

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.evaluation.similarity import WordReader
from helpers import tiny


PAIR = "A film grippingly shot, unbelievable.", "It is not bad."
PAIRS = [PAIR, ("We loved the music.", "The story isn't good."), ("dull", "great great great")]


def model(converted=True, family="bert"):
    """Without a head."""
    found = tiny.model(family, cls=BertModel)
    return get_bcos_model(found, BcosConfig(b=1.25)) if converted else found


def reader(converted=True, pooling="mean", family="bert"):
    return WordReader(model(converted, family), tiny.tokenizer(), pooling)
