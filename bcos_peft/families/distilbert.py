"""DistilBERT's classifier, which applies a ReLU in its own forward."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from torch import Tensor
from transformers.loss.loss_utils import ForSequenceClassificationLoss
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.distilbert import modeling_distilbert
from transformers.utils.generic import can_return_tuple


_STOCK = modeling_distilbert.DistilBertForSequenceClassification.forward


class _BcosDistilBertClassifier(modeling_distilbert.DistilBertForSequenceClassification):
    """The stock model, whose ReLU `BcosConfig.pooler_activation` may take out."""

    @can_return_tuple
    def _unsquashed(self, labels: Tensor | None = None, **inputs) -> SequenceClassifierOutput:
        outputs = self.distilbert(**inputs, return_dict=True)
        logits = self.classifier(self.dropout(self.pre_classifier(outputs[0][:, 0])))
        loss = None if labels is None else ForSequenceClassificationLoss(labels, logits, self.config)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    @functools.wraps(_STOCK)
    def forward(self, *args, **kwargs) -> SequenceClassifierOutput:
        if self.config.bcos["pooler_activation"] == "identity":
            return self._unsquashed(**_by_name(self, args, kwargs))
        return _STOCK(self, *args, **kwargs)


def _by_name(self, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """What the forward was called with, by the names that the stock one gives its arguments."""
    signature = inspect.signature(_STOCK)
    found = dict(signature.bind(self, *args, **kwargs).arguments)
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            found |= found.pop(parameter.name, {})
    found.pop("self")
    return found
