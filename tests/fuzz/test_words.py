"""Words are parts of the text, whatever it is and whatever the tokenizer makes of it."""

from helpers import draws, tiny
from helpers.drawing import drawn
from helpers.explained import check_kept, check_reason, check_words
from hypothesis import strategies as st

from bcos_peft import Explanation
from bcos_peft.text import encode


@drawn(500)
def test_words(data):
    known = draws.tokenizer(data.draw(st.sampled_from(draws.KINDS), "kind"))
    anything = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn", "Co"]), max_size=12)
    one = draws.texts() | anything | st.tuples(draws.texts(2), anything)
    item = data.draw(one, "item")
    try:
        found = encode(item, known, tiny.MAX_LENGTH, False)
    except ValueError as error:
        check_reason(error)
        return False
    explanation = Explanation(
        tokens=known.convert_ids_to_tokens(found.input_ids), scores=[1.0] * len(found.input_ids), text=found.text,
        offsets=found.offsets, sequence_ids=found.sequence_ids, special=found.special, token_ids=found.input_ids,
        target=0, target_label="a", predicted=0, predicted_label="a", logit=float(len(found.input_ids)),
        probability=None,
    )  # fmt: skip
    assert found.text == item
    check_words(explanation)
    check_kept(explanation)
