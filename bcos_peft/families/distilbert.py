"""DistilBERT."""

import torch
from torch import Tensor
from transformers.loss.loss_utils import ForSequenceClassificationLoss
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.distilbert import modeling_distilbert
from transformers.utils.generic import can_return_tuple

from bcos_peft.families.base import Family, _architectures, hold, register_family
from bcos_peft.families.heads import FunctionalActivation


class _BcosDistilBertClassifier(FunctionalActivation, modeling_distilbert.DistilBertForSequenceClassification):
    """The stock model applies a ReLU in its own forward."""

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        position_ids: Tensor | None = None,
        **kwargs,
    ) -> SequenceClassifierOutput:
        outputs = self.distilbert(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            position_ids=position_ids,
            return_dict=True,
            **kwargs,
        )
        pooled = self.activate_pooled(torch.relu, self.pre_classifier(outputs[0][:, 0]))
        logits = self.classifier(self.dropout(pooled))
        loss = None if labels is None else ForSequenceClassificationLoss(labels, logits, self.config)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


_DISTILBERT = register_family(
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
