"""The output head of a language model whose embeddings are not tied.

    logits_BSV = lm_head.attend(x_BSD)

`Embedding` is a `Head` too: that of a model whose embeddings are tied.

Axes: B batch, S sequence, D model, V vocabulary.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float

from trellax.config import REQUIRED, Required
from trellax.kernels.matmul import PreparedWeight, matmul
from trellax.layers.base import BaseLayer, ParameterSpec, Prepare
from trellax.layers.embedding import Unembedding
from trellax.layers.module import structural


class Head(Protocol):
    """Interface: what makes logits of hidden states."""

    def attend(self, x_BSD: Float[Array, "B S D"]) -> Float[Array, "B S V"]:
        """Returns the logits, in float32."""

    def unembedding(self) -> Unembedding:
        """Returns what `attend` multiplies with."""

    def attend_flops_per_token(self) -> float:
        """Returns the FLOPs of `attend` for one token."""

    def prepared_head(self, params: dict[str, Any], prepare: Prepare) -> dict[str, Any]:
        """Returns the parameters, with a prepared weight for `attend`; see `BaseLayer.prepared`."""


class LmHead(BaseLayer):
    """A linear map to logits. Parameters: `weight [D, V]`."""

    class Config(BaseLayer.Config):
        """
        Fields:
            input_dim: D.
            vocab_size: V.
        """

        input_dim: Required[int] = REQUIRED
        vocab_size: Required[int] = REQUIRED

    @structural
    def parameter_specs(self) -> dict[str, ParameterSpec]:
        spec = ParameterSpec(
            shape=(self.cfg.input_dim, self.cfg.vocab_size),
            dtype=self.cfg.param_dtype,
            initializer=self.cfg.initializer.instantiate(),
            logical_axes=("embed", "vocab"),
            fan_in=(0,),
            fan_out=(1,),
        )
        return {"weight": spec}

    def attend(self, x_BSD: Float[Array, "B S D"]) -> Float[Array, "B S V"]:
        """Returns the logits, in float32."""
        weight = self.parameters["weight"]
        if isinstance(weight, PreparedWeight):
            return matmul(x_BSD, weight, output_dtype=jnp.float32)
        weight_DV = weight.astype(x_BSD.dtype)
        return jnp.einsum("BSD,DV->BSV", x_BSD, weight_DV, preferred_element_type=jnp.float32)

    @structural
    def prepared(self, params: dict[str, Any], prepare: Prepare) -> dict[str, Any]:
        return self.prepared_head(params, prepare)

    @structural
    def prepared_head(self, params: dict[str, Any], prepare: Prepare) -> dict[str, Any]:
        """Returns the parameters, with a prepared weight for `attend`."""
        return params | {"weight": prepare(params["weight"])}

    def unembedding(self) -> Unembedding:
        """Returns what `attend` multiplies with."""
        return Unembedding(self.parameters["weight"], "DV")

    @structural
    def attend_flops_per_token(self) -> float:
        """Returns the FLOPs of `attend` for one token."""
        return 2.0 * self.cfg.input_dim * self.cfg.vocab_size
