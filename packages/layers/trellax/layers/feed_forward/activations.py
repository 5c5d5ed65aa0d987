"""Element-wise activations by name: those of `jax.nn` and a few that it lacks.

activation_fn("silu")(x)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp

from trellax.config import did_you_mean
from trellax.kernels.rowwise import silu_product

Activation = Callable[[jax.Array], jax.Array]


def identity(x: jax.Array) -> jax.Array:
    """x itself."""
    return x


def exact_gelu(x: jax.Array) -> jax.Array:
    """x · Φ(x), by the error function (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""
    return jax.nn.gelu(x, approximate=False)


def quick_gelu(x: jax.Array) -> jax.Array:
    """x · sigmoid(1.702 x) (arXiv:1606.08415, section 2)."""
    return x * jax.nn.sigmoid(1.702 * x)


def squared_relu(x: jax.Array) -> jax.Array:
    """max(x, 0)² (So et al. 2021, Primer, arXiv:2109.08668)."""
    return jnp.square(jax.nn.relu(x))


_OWN: dict[str, Activation] = {
    "exact_gelu": exact_gelu,
    "identity": identity,
    "quick_gelu": quick_gelu,
    "squared_relu": squared_relu,
    "tanh": jnp.tanh,
}

# Functions of `jax.nn` that can be called with one array and yet are not element-wise.
_NOT_ELEMENT_WISE = {"glu", "log_softmax", "logmeanexp", "logsumexp", "softmax", "standardize"}


def activation_fn(name: str) -> Activation:
    """Returns the activation called `name`.

    Raises:
        ValueError: for an unknown name; it lists near ones.
    """
    known = _OWN | _of_jax()
    if name not in known:
        near = did_you_mean(name, known)
        raise ValueError(f"No activation {name!r}.{near} Known: {', '.join(sorted(known))}.")
    return known[name]


def gated_fn(name: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns the function of (gate, up) that multiplies `up` with the activation of `gate`; errors as `activation_fn`."""
    activation = activation_fn(name)
    if name in ("silu", "swish"):
        return silu_product
    return lambda gate, up: activation(gate) * up


def _of_jax() -> dict[str, Activation]:
    public = {n: f for n, f in vars(jax.nn).items() if not n.startswith("_") and callable(f)}
    return {n: f for n, f in public.items() if n not in _NOT_ELEMENT_WISE and _takes_one_array(f)}


def _takes_one_array(fn: Callable[..., object]) -> bool:
    needed = [p for p in inspect.signature(fn).parameters.values() if p.default is p.empty]
    return len(needed) == 1
