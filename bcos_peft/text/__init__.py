"""Texts and their tokens: words, offsets, passages, and what users pass in. No torch."""

from bcos_peft.text.encoding import Encoding, encode
from bcos_peft.text.following import drops_spaces, ids_after
from bcos_peft.text.inputs import is_frame, plain, split_inputs
from bcos_peft.text.messages import fit_messages, message_spans, message_texts
from bcos_peft.text.segments import (
    BASELINE,
    CONSTANTS,
    REST,
    known_segments,
    occurrences,
    place_segments,
    refuse_overlap,
    shares,
    sum_segments,
)
from bcos_peft.text.sentences import split_sentences
from bcos_peft.text.special_tokens import special_ids
from bcos_peft.text.spelling import align, spell, spell_on
from bcos_peft.text.words import Span, group_tokens, hold_marks, strip_span


__all__ = [
    "BASELINE",
    "CONSTANTS",
    "Encoding",
    "REST",
    "Span",
    "align",
    "drops_spaces",
    "encode",
    "fit_messages",
    "group_tokens",
    "hold_marks",
    "ids_after",
    "is_frame",
    "known_segments",
    "message_spans",
    "message_texts",
    "occurrences",
    "place_segments",
    "plain",
    "refuse_overlap",
    "shares",
    "special_ids",
    "spell",
    "spell_on",
    "split_inputs",
    "split_sentences",
    "strip_span",
    "sum_segments",
]
