"""DistilBERT."""

import functools

import torch
from torch import Tensor
from transformers.loss.loss_utils import ForSequenceClassificationLoss
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.distilbert import modeling_distilbert
from transformers.utils.generic import can_return_tuple

from bcos_peft.families.base import Family, hold, register_family
from bcos_peft.families.heads import FunctionalActivation, _arguments
from bcos_peft.families.tables import _architectures


_STOCK = modeling_distilbert.DistilBertForSequenceClassification.forward


class _BcosDistilBertClassifier(FunctionalActivation, modeling_distilbert.DistilBertForSequenceClassification):
    """The stock model applies a ReLU in its own forward."""

    @can_return_tuple
    def _own(self, labels: Tensor | None = None, **inputs) -> SequenceClassifierOutput:
        outputs = self.distilbert(**inputs, return_dict=True)
        pooled = self.activate_pooled(torch.relu, self.pre_classifier(outputs[0][:, 0]))
        logits = self.classifier(self.dropout(pooled))
        loss = None if labels is None else ForSequenceClassificationLoss(labels, logits, self.config)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    @functools.wraps(_STOCK)
    def forward(self, *args, **kwargs) -> SequenceClassifierOutput:
        return self._own(**_arguments(_STOCK, self, args, kwargs))


register_family(
    Family(
        model_type="distilbert",
        architectures=_architectures("DistilBert"),
        embeddings="embeddings",
        parts={"word": "embeddings.word_embeddings", "position": "embeddings.position_embeddings"},
        held={r"attention\.[qk]_lin": hold},
        plain=(r"attention\.[qkv]_lin",),
        lm_heads=(r"vocab_projector",),
        replacements={modeling_distilbert.DistilBertForSequenceClassification: _BcosDistilBertClassifier},
        harmless_biases=(r"attention\.[qk]_lin",),
    )
)
