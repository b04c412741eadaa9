"""Which token ids stand for no text."""

from __future__ import annotations


def special_ids(tokenizer) -> set[int]:
    """Ids of the tokens that stand for no text: those that the tokenizer calls special, and the marks of a chat
    template. An unknown word and a mask stand for words."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return (added | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id, tokenizer.mask_token_id}
