"""What holds for every explanation."""

import json
import unicodedata

import pytest

from bcos_peft import Explanation


def close(one, two, scale):
    return abs(one - two) <= 1e-4 * scale + 1e-5


def check_sum(found):
    scale = abs(found.scores).sum() + abs(found.baseline or 0.0)
    assert close(found.total, found.logit, scale), (found.total, found.logit)
    assert close(found.residual, found.logit - found.total, 1e-3)
    for parts in [found.parts] if found.parts else []:
        assert abs(sum(parts.values()) - found.scores).max() <= 1e-4 * scale + 1e-5


def check_words(found):
    words = found.words(include_special=True)
    members = [index for word in words for index in word.token_indices]
    assert sorted(members) == list(range(len(found.tokens)))
    assert sum(word.score for word in words) == pytest.approx(float(found.scores.sum()), abs=1e-6)
    for number, text in enumerate(found.texts):
        mine = [w for w in words if w.sequence_id == number and w.start is not None and not w.special]
        spans = [(w.start, w.end) for w in mine]
        spans = [span for span in spans if text[slice(*span)].strip()]  # a space may be the tokenizer's own
        assert spans == sorted(spans), "in the order of the text"
        assert all(one[1] <= two[0] for one, two in zip(spans, spans[1:], strict=False)), (text, spans)
        for start, _ in spans:
            mark = unicodedata.category(text[start])[0] == "M"
            assert not mark or start == 0 or not text[start - 1].isalpha(), "a word keeps its marks"
        inside = {place for start, end in spans for place in range(start, end)}
        inside |= {i for w in words if w.special and w.start is not None for i in range(w.start, w.end)}
        assert all(i in inside for i, letter in enumerate(text) if letter.isalnum()), (text, spans)


def check_kept(found):
    assert Explanation.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def check_same(one, two, text=True):
    scale = abs(one.scores).sum()
    assert one.token_ids == two.token_ids
    assert (one.target, one.foil, one.position, one.positions) == (two.target, two.foil, two.position, two.positions)
    assert abs(one.scores - two.scores).max() <= 1e-4 * scale + 1e-5, (one, two)
    assert close(one.logit, two.logit, scale)
    if text:
        assert (one.text, one.offsets, one.word_ids, one.special) == (two.text, two.offsets, two.word_ids, two.special)
        assert one.target_label == two.target_label


def check_reason(error):
    """Whoever is refused is told why."""
    assert isinstance(error, (TypeError, ValueError))
    assert len(str(error)) > 15
