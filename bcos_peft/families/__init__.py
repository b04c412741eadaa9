"""One small table per model family. `base` says what a table is; importing this package registers those that come
with it."""

from bcos_peft.families import bert, deberta, distilbert, electra, modernbert, roberta  # noqa: F401
from bcos_peft.families.base import Family, families, find_family, hold, hold_query_key, register_family


__all__ = ["Family", "families", "find_family", "hold", "hold_query_key", "register_family"]
