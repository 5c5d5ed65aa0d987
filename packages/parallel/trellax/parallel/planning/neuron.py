"""What AWS's Neuron compiler (Trainium) documents that it does not take, found in a traced program.

    for finding in neuron_lint(jax.jit(step).trace(*args).jaxpr):
        print(finding)  # decoder.layer.self_attention (attention.py:81): cond: ...

The compiler itself is not public, so a program that passes may still fail; one that does not will. Source: the known issues
of JAX NeuronX and the release notes 2.26 to 2.33, https://awsdocs-neuron.readthedocs-hosted.com/en/latest/frameworks/jax/.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

from trellax.parallel.planning.jaxprs import called_jaxprs, closed, primitive_name, trip_count

ALLOWED_CUSTOM_CALLS = frozenset(
    {
        "Sharding",
        "SPMDFullToShardShape",
        "SPMDShardToFullShape",
        "annotate_device_placement",
        "LayoutConstraint",
        "Unpin",
        "Pin",
    }
)
"""Custom calls that XLA itself resolves; those of Neuron's own kernels begin with "AwsNeuron"."""

_REASONS = {
    "cond": "branches that depend on data are not supported; compute both and choose with jnp.where",
    "while": "only loops with a static number of runs are supported; use lax.scan, or lax.fori_loop with constant bounds",
    "callback": "the host cannot be called from a program; return the value as a metric instead",
    "threefry": 'the threefry generator is incomplete; set jax_default_prng_impl to "rbg" (PRNG keys of kind "rbg")',
    "randint": "jax.random.randint has a wrong distribution; draw uniform floats, scale and round down",
    "sort": "only sorts by one key, compared by <, <=, > or >=, are supported; pack the keys into one",
    "reduce_precision": "reduce_precision is not supported; cast to the smaller type and back",
    "dtype": "arrays of this type are not supported; use float32, bfloat16, float16, float8, int32 or smaller whole bytes",
    "custom_call": "the operation is a call into another platform's library; use the implementation in plain JAX",
    "pallas": "Pallas kernels compile for TPU and GPU only; use the XLA implementation",
    "ragged_all_to_all": "ragged_all_to_all is not supported; exchange blocks of equal size with all_to_all",
}
_RULE_OF_PRIMITIVE = {
    "cond": "cond",
    "pure_callback": "callback",
    "io_callback": "callback",
    "debug_callback": "callback",
    "debug_print": "callback",
    "reduce_precision": "reduce_precision",
    "pallas_call": "pallas",
    "ragged_all_to_all": "ragged_all_to_all",
    "ffi_call": "custom_call",
    "custom_call": "custom_call",
    "threefry2x32": "threefry",
}
_BAD_TYPES = re.compile(r"complex\d+|float64|u?int64|u?int[24]|float4_\w+|float6_\w+")


@dataclasses.dataclass(frozen=True)
class Finding:
    """A place in a program that the compiler would not take."""

    rule: str
    reason: str
    """Why, and what to do instead."""
    where: str
    """Path of the module that asks for it, and the line of code where that is known."""

    def __str__(self) -> str:
        return f"{self.where or 'program'}: {self.rule}: {self.reason}"


def neuron_lint(jaxpr: Any, *, stablehlo: str | None = None) -> list[Finding]:
    """Returns what in a traced program the Neuron compiler does not take; each place once.

    Args:
        jaxpr: `jax.jit(fn).trace(*args).jaxpr`.
        stablehlo: text of the lowered program (`traced.lower(lowering_platforms=("neuron",)).as_text()`), in which library
            calls are found that jaxprs do not show.
    """
    found = [*_of_jaxpr(closed(jaxpr), (), ""), *_of_stablehlo(stablehlo or "")]
    return list(dict.fromkeys(found))


def _of_jaxpr(jaxpr: Any, scopes: tuple[str, ...], line: str) -> Iterator[Finding]:
    for eqn in jaxpr.eqns:
        here = (*scopes, str(eqn.source_info.name_stack))
        at = _line(eqn) or line
        for rule, detail in _broken_rules(eqn):
            yield Finding(rule, f"{detail}{_REASONS[rule]}", _where(here, at))
        if (
            primitive_name(eqn) != "pallas_call"
        ):  # Whatever is in a kernel, it is refused as a whole.
            for inner in called_jaxprs(eqn):
                yield from _of_jaxpr(inner, here, at)


def _broken_rules(eqn: Any) -> Iterator[tuple[str, str]]:
    name = primitive_name(eqn)
    if name in _RULE_OF_PRIMITIVE and not _keeps_precision(eqn):
        yield _RULE_OF_PRIMITIVE[name], ""
    if name == "while" and trip_count(eqn) is None:
        yield "while", ""
    if name.startswith("random_") and any(
        "key<fry>" in str(v.aval) for v in (*eqn.invars, *eqn.outvars)
    ):
        yield "threefry", ""
    if eqn.params.get("name") == "_randint":
        yield "randint", ""
    if name == "sort" and eqn.params["num_keys"] > 1:
        yield "sort", ""
    bad = {_dtype(v) for v in eqn.outvars if _BAD_TYPES.fullmatch(_dtype(v))}
    yield from (("dtype", f"{dtype}: ") for dtype in sorted(bad))


def _keeps_precision(eqn: Any) -> bool:
    """Whether an equation rounds to the type that it has: JAX writes such where remat saves a value, XLA drops them."""
    if primitive_name(eqn) != "reduce_precision":
        return False
    import jax

    info = jax.numpy.finfo(eqn.invars[0].aval.dtype)
    return eqn.params["exponent_bits"] >= info.nexp and eqn.params["mantissa_bits"] >= info.nmant


def _of_stablehlo(text: str) -> Iterator[Finding]:
    for target in sorted(set(re.findall(r"stablehlo\.custom_call @([\w.$]+)", text))):
        if target not in ALLOWED_CUSTOM_CALLS and not target.startswith("AwsNeuron"):
            yield Finding("custom_call", f"{target}: {_REASONS['custom_call']}", "")


def _where(scopes: Sequence[str], line: str) -> str:
    """Returns "decoder.layer (attention.py:81)" of name stacks like "jvp(decoder)/layer"."""
    names = [part for scope in scopes for part in re.split(r"[/()]", scope)]
    transforms = {
        "",
        "jvp",
        "transpose",
        "vmap",
        "remat",
        "rematted_computation",
        "checkpoint",
        "jit",
        "shard_map",
    }
    path = ".".join(name for name in names if name not in transforms)
    return f"{path} ({line})" if path and line else path or line


def _line(eqn: Any) -> str:
    """Returns "file.py:12", where code outside of JAX made the equation."""
    import jax

    inside = str(PurePath(jax.__file__).parent)
    traceback = eqn.source_info.traceback
    for frame in traceback.frames if traceback is not None else ():
        if not frame.file_name.startswith(inside):
            return f"{PurePath(frame.file_name).name}:{frame.line_num}"
    return ""


def _dtype(variable: Any) -> str:
    return str(getattr(variable.aval, "dtype", ""))
