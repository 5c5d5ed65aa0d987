"""A table of vectors, looked up by id; also the output head of a model with tied embeddings.

    cfg = Embedding.default_config().set(num_embeddings=32_000, dim=512)
    x_BSD = embedding(ids_BS)

Axes: B batch, S sequence, D model, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from trellax.config import REQUIRED, Required
from trellax.kernels.matmul import matmul
from trellax.layers.base import BaseLayer, Initializer, NormalInitializer, ParameterSpec, Prepare
from trellax.layers.module import structural


class Unembedding(NamedTuple):
    """What a head multiplies hidden states with, for losses that keep no logits.

    Attributes:
        weight: the matrix.
        axes: the order of its dims, D contracted.
    """

    weight: Float[Array, "D V"] | Float[Array, "V D"]
    axes: Literal["DV", "VD"]


HEAD = "head"
"""Name of the prepared weight of a table that is the output head, too; a model in training has none."""


class Embedding(BaseLayer):
    """`weight[ids] · scale`. Parameters: `weight [V, D]`."""

    class Config(BaseLayer.Config):
        """
        Fields:
            num_embeddings: V, number of ids.
            dim: D, size of a vector.
            scale: factor of what is looked up; "sqrt_dim" for the square root of D (Vaswani et al.
                2017, arXiv:1706.03762, section 3.4). It does not act on `attend`.
        """

        num_embeddings: Required[int] = REQUIRED
        dim: Required[int] = REQUIRED
        scale: float | Literal["sqrt_dim"] = 1.0
        initializer: Initializer.Config = NormalInitializer.default_config()

    @structural
    def parameter_specs(self) -> dict[str, ParameterSpec]:
        spec = ParameterSpec(
            shape=(self.cfg.num_embeddings, self.cfg.dim),
            dtype=self.cfg.param_dtype,
            initializer=self.cfg.initializer.instantiate(),
            logical_axes=("vocab", "embed"),
            fan_in=(1,),
            fan_out=(0,),
        )
        return {"weight": spec}

    def forward(self, ids_BS: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        """Returns the vectors of `ids_BS`; of an id that is not in the table, NaN."""
        x_BSD = look_up(self.parameters["weight"], ids_BS)
        scale = math.sqrt(self.cfg.dim) if self.cfg.scale == "sqrt_dim" else self.cfg.scale
        return x_BSD if scale == 1.0 else x_BSD * jnp.asarray(scale, x_BSD.dtype)

    def attend(self, x_BSD: Float[Array, "B S D"]) -> Float[Array, "B S V"]:
        """Returns the inner products of `x_BSD` with all vectors, in float32."""
        if HEAD in self.parameters:
            return matmul(x_BSD, self.parameters[HEAD], output_dtype=jnp.float32)
        weight_VD = self.parameters["weight"].astype(x_BSD.dtype)
        return jnp.einsum("BSD,VD->BSV", x_BSD, weight_VD, preferred_element_type=jnp.float32)

    @structural
    def prepared_head(self, params: dict[str, Any], prepare: Prepare) -> dict[str, Any]:
        """Returns the parameters with a prepared weight for `attend` beside the table that is looked up."""
        return params | {HEAD: prepare(params["weight"], axes="VD")}

    def unembedding(self) -> Unembedding:
        """Returns what `attend` multiplies with."""
        return Unembedding(self.parameters["weight"], "VD")

    @structural
    def forward_flops_per_token(self, sequence_length: int) -> float:
        return 0.0  # A lookup. The model counts what it uses as its head.

    @structural
    def attend_flops_per_token(self) -> float:
        """Returns the FLOPs of `attend` for one token."""
        return 2.0 * self.cfg.num_embeddings * self.cfg.dim


def look_up(table_VD: Float[Array, "V D"], ids_BS: Int[Array, "B S"]) -> Float[Array, "B S D"]:
    """Returns `table_VD[ids_BS]`; gradients of an id's occurrences are added in float32."""
    if table_VD.dtype == jnp.float32:
        return jnp.take(table_VD, ids_BS, axis=0)
    return _look_up_low_precision(table_VD, ids_BS)


# A frequent id occurs thousands of times in a batch: sums in bfloat16 would stop growing at 256.
@jax.custom_vjp
def _look_up_low_precision(table_VD: jax.Array, ids_BS: jax.Array) -> jax.Array:
    return jnp.take(table_VD, ids_BS, axis=0)


def _forward(table_VD: jax.Array, ids_BS: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return _look_up_low_precision(table_VD, ids_BS), (table_VD[:, :0], ids_BS)


def _backward(kept: tuple[jax.Array, ...], g_BSD: jax.Array) -> tuple[jax.Array, None]:
    no_columns, ids_BS = kept  # Tells V and the dtype without keeping the table.
    shape = (no_columns.shape[0], g_BSD.shape[-1])
    sums_VD = jnp.zeros(shape, jnp.float32).at[ids_BS].add(g_BSD.astype(jnp.float32))
    return sums_VD.astype(no_columns.dtype), None


_look_up_low_precision.defvjp(_forward, _backward)
