"""FLOPs of a traced program: what XLA's own count misses (loops, kernels) included.

    count = flops_of(jax.jit(step).trace(*args).jaxpr)
    count.matmul, count.kernel, count.elementwise

The program is the one before partitioning, so a count is that of all devices together. Loops count as often as they run,
what `jax.checkpoint` computes again counts again, code under `jax.shard_map` counts for each device that runs it. One
multiply-add is two FLOPs. Elementwise operations and reductions count one for each element, as XLA's cost analysis does;
transcendental functions are counted apart, also as there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trellax.parallel.planning.jaxprs import (
    called_jaxprs,
    closed,
    is_literal,
    live_equations,
    manual_devices,
    primitive_name,
    trip_count,
)

_TRANSCENDENTAL = frozenset(
    "exp exp2 expm1 log log1p logistic tanh sin cos tan asin acos atan atan2 sinh cosh asinh acosh atanh erf erfc erf_inv "
    "lgamma digamma rsqrt sqrt cbrt pow".split()
)
_ELEMENTWISE = frozenset(
    "add sub mul div rem max min neg sign abs floor ceil round nextafter square integer_pow eq ne lt le gt ge and or xor not "
    "select_n clamp is_finite convert_element_type shift_left shift_right_logical shift_right_arithmetic population_count clz "
    "add_any".split()
)
_REDUCTIONS = frozenset(
    "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin cumsum cumprod cummax cummin "
    "cumlogsumexp reduce scatter-add scatter_add".split()
)


@dataclasses.dataclass(frozen=True)
class FlopCount:
    """FLOPs of a program, on all devices together."""

    matmul: float = 0.0
    """Matrix multiplications and convolutions that the compiler sees; grouped ones (`ragged_dot`), too."""
    kernel: float = 0.0
    """Kernels: what they say about themselves, or matrix multiplications of the body times the grid."""
    elementwise: float = 0.0
    transcendental: float = 0.0
    """Evaluations of exp, tanh and the like; no FLOPs."""
    matmul_bytes: float = 0.0
    """Operands and results of matmuls and kernels: an estimate of the memory traffic, as if nothing stayed in a cache."""
    by_dtype: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """FLOPs of matmuls and kernels, by the type of what is multiplied."""
    by_kernel: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """`kernel` by the kernels' names."""
    unbounded_loops: int = 0
    """Loops whose number of runs is not known; they count once."""

    @property
    def total(self) -> float:
        """All FLOPs."""
        return self.matmul + self.kernel + self.elementwise

    def __add__(self, other: FlopCount) -> FlopCount:
        return FlopCount(*(_plus(a, b) for a, b in zip(_values(self), _values(other), strict=True)))

    def __mul__(self, times: float) -> FlopCount:
        scaled = FlopCount(*(_times(value, times) for value in _values(self)))
        return dataclasses.replace(scaled, unbounded_loops=self.unbounded_loops)


def flops_of(jaxpr: Any) -> FlopCount:
    """Returns the FLOPs of a traced program.

    Of a conditional the most expensive branch counts. Computations whose results nobody uses do not count: XLA removes them.

    Args:
        jaxpr: `jax.jit(fn).trace(*args).jaxpr`, or `jax.make_jaxpr(fn)(*args)`.
    """
    inner = closed(jaxpr)
    return _of_jaxpr(inner, [True] * len(inner.outvars))


def _of_jaxpr(jaxpr: Any, used_outputs: Sequence[bool]) -> FlopCount:
    total = FlopCount()
    for eqn, used in live_equations(jaxpr, used_outputs):
        total += _of_equation(eqn, used)
    return total


def _of_equation(eqn: Any, used: Sequence[bool]) -> FlopCount:
    name = primitive_name(eqn)
    if name in _HANDLERS:
        return _HANDLERS[name](eqn, used)
    if name in _TRANSCENDENTAL:
        return FlopCount(transcendental=_size(eqn.outvars[0]))
    if name in _ELEMENTWISE:
        return FlopCount(elementwise=_size(eqn.outvars[0]))
    if name in _REDUCTIONS:
        operand = eqn.invars[-1] if name.startswith("scatter") else eqn.invars[0]
        return FlopCount(elementwise=_size(operand))
    return _of_call(eqn, used)


def _of_call(eqn: Any, used: Sequence[bool]) -> FlopCount:
    """Of anything that calls functions once each, such as `jit`, `checkpoint` or a custom derivative."""
    total = FlopCount()
    for inner in called_jaxprs(eqn):
        same_results = len(inner.outvars) == len(used)
        total += _of_jaxpr(inner, used if same_results else [True] * len(inner.outvars))
    return total


def _of_scan(eqn: Any, used: Sequence[bool]) -> FlopCount:
    body = closed(eqn.params["jaxpr"])
    # What is carried is used by the next step; it has the body's shape, while what is stacked has a dimension more.
    carried = [
        out.aval.ndim == one.aval.ndim for out, one in zip(eqn.outvars, body.outvars, strict=True)
    ]
    live = [c or u for c, u in zip(carried, used, strict=True)]
    return _of_jaxpr(body, live) * eqn.params["length"]


def _of_while(eqn: Any, used: Sequence[bool]) -> FlopCount:
    body = closed(eqn.params["body_jaxpr"])
    once = _of_jaxpr(body, [True] * len(body.outvars))
    trips = trip_count(eqn)
    if trips is None:
        return once + FlopCount(unbounded_loops=1)
    return once * trips


def _of_cond(eqn: Any, used: Sequence[bool]) -> FlopCount:
    return max(
        (_of_jaxpr(closed(branch), used) for branch in eqn.params["branches"]),
        key=lambda c: c.total,
    )


def _of_shard_map(eqn: Any, used: Sequence[bool]) -> FlopCount:
    return _of_jaxpr(closed(eqn.params["jaxpr"]), used) * manual_devices(eqn)


def _of_dot(eqn: Any, used: Sequence[bool]) -> FlopCount:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = eqn.invars[0].aval.shape
    return _matmul(eqn, 2.0 * _size(eqn.outvars[0]) * math.prod(left[dim] for dim in contracted))


def _of_ragged_dot(eqn: Any, used: Sequence[bool]) -> FlopCount:
    """Each row of the ragged dimension meets one group's matrix: [M, K] x [G, K, N], or [M, K] x [M, N] -> [G, K, N]."""
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (contracted, _), _ = numbers.dot_dimension_numbers
    left, result = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    flops = 2.0 * math.prod(result) * math.prod(left[dim] for dim in contracted)
    if (
        numbers.lhs_ragged_dimensions[0] in contracted
    ):  # Rows are divided among the groups of the result.
        flops /= eqn.invars[2].aval.shape[-1]
    return _matmul(eqn, flops, operands=eqn.invars[:2])


def _of_convolution(eqn: Any, used: Sequence[bool]) -> FlopCount:
    kernel = eqn.invars[1].aval.shape
    out_features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    return _matmul(eqn, 2.0 * _size(eqn.outvars[0]) * math.prod(kernel) / out_features)


def _of_pallas(eqn: Any, used: Sequence[bool]) -> FlopCount:
    estimate = eqn.params.get("cost_estimate")
    if estimate is not None:
        flops = float(estimate.flops)
        unbounded = 0
    else:
        body = closed(eqn.params["jaxpr"])
        once = _of_jaxpr(body, [True] * len(body.outvars))
        steps = math.prod(size for size in eqn.params["grid_mapping"].grid if isinstance(size, int))
        flops, unbounded = once.matmul * steps, once.unbounded_loops
    return _kernel(eqn, flops, _kernel_name(eqn), unbounded)


def _of_cudnn_attention(eqn: Any, used: Sequence[bool]) -> FlopCount:
    """Two matrix multiplications forward (scores, values), five backward (scores again, and four gradients)."""
    batch, length, *_ = eqn.invars[0].aval.shape
    shapes = [v.aval.shape for v in eqn.invars[:2]]
    layout_is_bnth = eqn.params.get("layout") == 1
    heads, dim = shapes[0][1 if layout_is_bnth else 2], shapes[0][3]
    queries, keys = (s[2] if layout_is_bnth else s[1] for s in shapes)
    name = primitive_name(eqn)
    matmuls = 5 if "bwd" in name else 2
    return _kernel(eqn, matmuls * 2.0 * batch * heads * queries * keys * dim, name, 0)


def _matmul(eqn: Any, flops: float, operands: Sequence[Any] | None = None) -> FlopCount:
    return FlopCount(
        matmul=flops,
        matmul_bytes=_bytes([*(operands or eqn.invars), *eqn.outvars]),
        by_dtype={_dtype(eqn): flops},
    )


def _kernel(eqn: Any, flops: float, name: str, unbounded: int) -> FlopCount:
    return FlopCount(
        kernel=flops,
        matmul_bytes=_bytes([*eqn.invars, *eqn.outvars]),
        by_dtype={_dtype(eqn): flops} if flops else {},
        by_kernel={name: flops},
        unbounded_loops=unbounded,
    )


def _kernel_name(eqn: Any) -> str:
    named = eqn.params.get("name") or getattr(eqn.params.get("name_and_src_info"), "name", None)
    return str(named or "kernel")


def _dtype(eqn: Any) -> str:
    """Returns the widest floating-point type among the operands, which decides how fast they are multiplied."""
    types = [v.aval.dtype for v in eqn.invars if hasattr(v.aval, "dtype")]
    floats = [t for t in types if t.name.startswith(("float", "bfloat"))] or types
    return str(max(floats, key=lambda t: t.itemsize).name)


def _size(variable: Any) -> float:
    return float(math.prod(variable.aval.shape))


def _bytes(variables: Sequence[Any]) -> float:
    arrays = [v.aval for v in variables if not is_literal(v) and hasattr(v.aval, "dtype")]
    return float(sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays))


def _values(count: FlopCount) -> list[Any]:
    return [getattr(count, field.name) for field in dataclasses.fields(count)]


def _plus(a: Any, b: Any) -> Any:
    if isinstance(a, Mapping):
        return {key: a.get(key, 0.0) + b.get(key, 0.0) for key in {**a, **b}}
    return a + b


def _times(value: Any, times: float) -> Any:
    return (
        {key: n * times for key, n in value.items()}
        if isinstance(value, Mapping)
        else value * times
    )


_HANDLERS: dict[str, Callable[[Any, Sequence[bool]], FlopCount]] = {
    "dot_general": _of_dot,
    "ragged_dot": _of_ragged_dot,
    "ragged_dot_general": _of_ragged_dot,
    "conv_general_dilated": _of_convolution,
    "scan": _of_scan,
    "while": _of_while,
    "cond": _of_cond,
    "shard_map": _of_shard_map,
    "pallas_call": _of_pallas,
    "dot_product_attention_fwd": _of_cudnn_attention,
    "dot_product_attention_fwd_wrapper": _of_cudnn_attention,
    "dot_product_attention_bwd": _of_cudnn_attention,
    "dot_product_attention_bwd_wrapper": _of_cudnn_attention,
}
