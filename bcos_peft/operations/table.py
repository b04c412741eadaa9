"""Which function has which rule: six of them, and what is linear as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bcos_peft.operations.affine import _reshaped
from bcos_peft.operations.attention import _attention
from bcos_peft.operations.elementwise import (
    _add,
    _addcmul,
    _concatenate,
    _divide,
    _glu,
    _hold,
    _hold_slope,
    _lerp,
    _multiply,
    _power,
    _ratio,
    _ratio_if_zero,
    _subtract,
)
from bcos_peft.operations.live import is_live
from bcos_peft.operations.norms import _batch_norm, _group_norm, _layer_norm, _normalize, _rms_norm
from bcos_peft.operations.products import (
    _add_product,
    _convolution,
    _einsum,
    _left_held,
    _linear,
    _right_held,
    _shared,
    _solve,
)


_Rule = Callable[[Any, Callable, tuple, dict[str, Any]], Any]

# Linear in all that is live, or homogeneous of degree 1 (norms, maxima), or no function of values at all.
_LINEAR = frozenset(
    """
    __getitem__ hstack vstack dstack split split_with_sizes chunk unbind unsafe_chunk
    unsafe_split tensor_split vsplit hsplit dsplit select narrow index_select gather take take_along_dim masked_select
    view_as reshape_as expand_as tril triu flip fliplr flipud roll rot90 diagonal diag diag_embed unfold fold tile
    repeat_interleave block_diag broadcast_to broadcast_tensors as_strided ravel pad
    index_add index_add_ index_copy index_copy_ index_fill index_fill_ index_put index_put_ scatter scatter_
    scatter_add scatter_add_ scatter_reduce scatter_reduce_ masked_fill masked_fill_ masked_scatter masked_scatter_
    where __setitem__ copy_ fill_ zero_ clone
    sum nansum mean cumsum cumsum_ neg neg_ __neg__ negative positive dropout dropout1d dropout2d alpha_dropout
    feature_dropout feature_alpha_dropout dropout_ avg_pool1d avg_pool2d max_pool1d max_pool2d adaptive_avg_pool1d
    max_pool1d_with_indices max_pool2d_with_indices interpolate pixel_shuffle real imag conj conj_physical resolve_conj
    resolve_neg view_as_complex view_as_real complex
    fftn ifftn fft ifft rfft irfft fft_fft fft_ifft fft_rfft fft_irfft fft_fftn fft_ifftn
    norm linalg_norm linalg_vector_norm vector_norm frobenius_norm std max min amax amin aminmax median topk sort abs
    abs_ absolute __abs__ maximum minimum fmax fmin kthvalue msort _grouped_mm grouped_mm
    detach detach_ nonzero argmax argmin argsort argwhere rand_like randn_like new_tensor new
    dim ndimension size numel nelement element_size
    storage_offset stride is_contiguous is_floating_point is_complex is_nonzero is_same_size is_signed is_inference
    is_shared is_pinned get_device data_ptr untyped_storage storage storage_type item tolist numpy __len__ __get__
    __set__ __delete__ __bool__ __int__ __float__ __index__ __contains__ __iter__ __hash__ __repr__ __format__ __str__
    __eq__ __ne__ __lt__ __gt__ __le__ __ge__ eq ne lt gt le ge equal allclose isclose isnan isinf isfinite isneginf
    isposinf isin any all logical_not logical_and logical_or logical_xor long int bool short cpu cuda requires_grad_
    retain_grad register_hook register_post_accumulate_grad_hook backward has_names names set_ data bucketize
    searchsorted one_hot bincount histc unique unique_consecutive count_nonzero
    __reduce_ex__ __deepcopy__ pin_memory to_dense signbit multinomial result_type
    broadcast_shapes meshgrid embedding embedding_bag __cuda_array_interface__ __array__ __dlpack__ nll_loss
    _has_compatible_shallow_copy_type __instancecheck__ is_tensor is_storage shares_memory
    """.split()
)
# Changes of shape or precision: also what a sum is made of goes through them.
_SHAPES = frozenset(
    """
    view reshape permute transpose t swapaxes swapdims movedim moveaxis contiguous unsqueeze squeeze expand repeat
    flatten unflatten type_as atleast_1d atleast_2d atleast_3d adjoint
    """.split()
)
_CASTS = frozenset(["to", "float", "double", "half", "bfloat16", "type"])

_RULES: dict[str, _Rule] = {
    # Factors: held.
    **dict.fromkeys(
        """
        acos arccos asin arcsin atan arctan atan2 arctan2 acosh arccosh atanh cos cosh sin sinh softmax log_softmax
        softmin gumbel_softmax exp exp2 softplus rsqrt reciprocal logsigmoid log_sigmoid log log2 log10 logsumexp
        logcumsumexp logaddexp cumprod prod erfc erfinv var var_mean std_mean cdist cosine_similarity pairwise_distance
        __rpow__ __rtruediv__ __rdiv__ __rfloordiv__ __rmod__ remainder fmod __mod__ floor_divide __floordiv__
        sign sgn heaviside round floor ceil trunc fix
        inverse inv linalg_inv pinverse linalg_pinv cholesky linalg_cholesky det logdet matrix_exp
        """.split(),
        _hold,
    ),
    **dict.fromkeys(["sigmoid", "hardsigmoid", "expit", "special_expit", "logit"], _hold_slope),
    # Elementwise, and 0 at 0: the ratio is held.
    **dict.fromkeys(
        """
        gelu silu relu relu6 leaky_relu elu selu celu tanh tan mish hardswish softsign tanhshrink softshrink hardshrink
        erf square asinh arcsinh expm1 log1p sqrt prelu frac rrelu
        """.split(),
        _ratio,
    ),
    **dict.fromkeys("clamp clip clamp_min clamp_max hardtanh threshold nan_to_num".split(), _ratio_if_zero),
    **dict.fromkeys(["pow", "__pow__", "float_power"], _power),
    # Sums, in which constants may be.
    **dict.fromkeys(["add", "__add__", "__radd__"], _add),
    **dict.fromkeys(["sub", "subtract", "__sub__", "__rsub__", "rsub"], _subtract),
    **dict.fromkeys(["cat", "concat", "concatenate", "stack"], _concatenate),
    # Products.
    **dict.fromkeys(["mul", "multiply", "__mul__", "__rmul__"], _multiply),
    **dict.fromkeys(["div", "divide", "true_divide", "__truediv__", "__div__"], _divide),
    **dict.fromkeys(["matmul", "__matmul__", "bmm", "mm", "mv", "dot", "inner", "vdot"], _left_held),
    "__rmatmul__": _right_held,
    "einsum": _einsum,
    **dict.fromkeys(["outer", "ger", "kron", "tensordot"], _shared),
    "linear": _linear,
    **dict.fromkeys(["conv1d", "conv2d", "conv3d", "conv_transpose1d"], _convolution),
    **dict.fromkeys(["addmm", "baddbmm", "addbmm", "addmv", "addr"], _add_product),
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(["linalg_solve_triangular", "linalg_solve", "solve_triangular"], _solve),
    "addcmul": _addcmul,
    "lerp": _lerp,
    "glu": _glu,
    # Fused norms.
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "batch_norm": _batch_norm,
    "normalize": _normalize,
}
# `x += y`, and functions that write into their first argument, go by the rule of the function that does not.
_REFLECTED = {
    "__imul__": "mul",
    "__iadd__": "add",
    "__isub__": "sub",
    "__itruediv__": "div",
    "__idiv__": "div",
    "__ipow__": "pow",
    "__imatmul__": "matmul",
}


# New tensors in the form of another, in which stock code may gather what it would round.
_FILLED = frozenset("zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty".split())


def _filled(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A new tensor: one that is to gather what depends on the input in float64 is in float64."""
    dtype = kwargs.get("dtype")
    if args[0].dtype == torch.float64 and is_live(args[0]) and dtype is not None and dtype.is_floating_point:
        kwargs = {**kwargs, "dtype": torch.float64}
    return func(*args, **kwargs)


def _in_place_of(name: str) -> str | None:
    """The function whose rule one that writes into its first argument goes by.

    Example:
        >>> _in_place_of("relu_"), _in_place_of("__imul__"), _in_place_of("relu")
        ('relu', 'mul', None)
    """
    if name in _REFLECTED:
        return _REFLECTED[name]
    plain = name[:-1]
    return plain if name.endswith("_") and not name.endswith("__") and plain in _RULES else None


def _cast(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A change of precision; what depends on the input in float64 stays so where stock code would round it."""
    x = args[0]
    if x.dtype != torch.float64 or not is_live(x):
        return _reshaped(func, func(*args, **kwargs), args, kwargs)
    name = func.__name__
    if name in ("float", "half", "bfloat16", "double", "type") or not args[1:] and not kwargs:
        return x
    kept = [value for value in args[1:] if not isinstance(value, (torch.dtype, torch.Tensor))]
    more = {key: value for key, value in kwargs.items() if key not in ("dtype", "other")}
    devices = [value.device for value in args[1:] if isinstance(value, torch.Tensor)]
    devices += [value for value in kept if isinstance(value, (str, torch.device))]
    return x.to(*devices[:1], **more) if devices or more else x
