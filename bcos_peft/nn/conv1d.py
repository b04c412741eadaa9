"""`Conv1D`, the transposed linear layer of GPT-2, as a B-cos layer."""

from torch import Tensor
from transformers.pytorch_utils import Conv1D

from bcos_peft.nn.layers import BcosLayer
from bcos_peft.nn.low_rank import LowRank


class BcosConv1D(BcosLayer, Conv1D):
    """A `Conv1D` without bias whose columns are scaled by `|cos(x, w)|^(b-1)`; the weight is `(in, out)`.

    The stock forward cannot do without a bias, so layers that stay plain take this class too, with `b=None`.
    """

    def rows(self, weight: Tensor) -> Tensor:
        return weight.t()

    def forward(self, x: Tensor, update: LowRank | None = None) -> Tensor:
        return self.gained(self.bcos(x, self.rows(self.weight), update, self.known_norms()))

    def __repr__(self) -> str:
        kind = "plain" if self.b is None else f"b={self.b:g}"
        return f"BcosConv1D(nf={self.nf}, nx={self.nx}, {kind})"
