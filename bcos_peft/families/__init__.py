"""What is said of the most used architectures, in small tables, and what is found out about all others.

`base` says what a family is; importing this package registers the tables that come with it."""

from bcos_peft.families import tables  # noqa: F401  (registers them)
from bcos_peft.families.base import Family, after_registration, families, find_family, register_family
from bcos_peft.families.heads import HeadWithoutActivation
from bcos_peft.families.kinds import replacement


__all__ = [
    "Family",
    "HeadWithoutActivation",
    "after_registration",
    "families",
    "find_family",
    "register_family",
    "replacement",
]
