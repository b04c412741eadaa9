"""What torch computes, made linear in its input operation by operation. Only torch is needed."""

from bcos_peft.operations.affine import Constants
from bcos_peft.operations.elementwise import share
from bcos_peft.operations.live import is_live
from bcos_peft.operations.mode import LinearMode, add_rule
from bcos_peft.operations.opened import opened_functions
from bcos_peft.operations.unknown import UnknownOperation, is_linear


__all__ = [
    "Constants",
    "LinearMode",
    "UnknownOperation",
    "add_rule",
    "is_linear",
    "is_live",
    "opened_functions",
    "share",
]
