"""Cross-entropy of next tokens, without keeping the logits.

    output = loss(hidden_BSD, head.unembedding(), target_ids_BS)
    mean = output.total / output.weight

Axes: B batch, S sequence, N tokens (B · S), D model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from trellax.kernels.cross_entropy import CrossEntropySums, cross_entropy
from trellax.layers.base import BaseLayer
from trellax.layers.embedding import Unembedding
from trellax.layers.module import WeightedScalar
from trellax.parallel import DeviceSplit, split_over_devices

HIDDEN_AXES = ("batch", "length", "act_embed")
TARGET_AXES = ("batch", "length")


class LossOutput(NamedTuple):
    """A loss that can be added up over microbatches, hosts and evaluation batches.

    Attributes:
        total: the loss summed over targets, float32.
        weight: number of targets, float32.
    """

    total: Float[Array, ""]
    weight: Float[Array, ""]


class CrossEntropyLoss(BaseLayer):
    """Sum of cross-entropies in nats, plus the z-loss. No parameters.

    Summaries, if there is a z-loss: the means `cross_entropy` and `z_loss`.
    """

    class Config(BaseLayer.Config):
        """
        Fields:
            z_loss_scale: factor of the squared log-normaliser (Chowdhery et al. 2022, PaLM,
                arXiv:2204.02311, section 5).
            chunk_size: tokens whose logits are alive at once; None for about 32 MiB of logits.
            implementation: which implementation of the kernel; None for the best.
        """

        z_loss_scale: float = 0.0
        chunk_size: int | None = None
        implementation: str | None = None

    def forward(
        self,
        hidden_BSD: Float[Array, "B S D"],
        unembedding: Unembedding,
        target_ids_BS: Int[Array, "B S"],
        *,
        soft_cap: float | None = None,
    ) -> LossOutput:
        """Returns the summed loss and the number of targets.

        Args:
            hidden_BSD: hidden states.
            unembedding: makes logits of them.
            target_ids_BS: the token that follows each; a negative one is ignored.
            soft_cap: c in c · tanh(logit / c), or None.
        """
        weight = self._gathered(unembedding).astype(hidden_BSD.dtype)
        V = weight.shape[unembedding.axes.index("V")]
        split = split_over_devices(
            {HIDDEN_AXES: hidden_BSD.shape, TARGET_AXES: target_ids_BS.shape, ("act_vocab",): (V,)}
        )

        def sums_fn(hidden: Array, weight: Array, target_ids: Array) -> CrossEntropySums:
            return cross_entropy(
                hidden.reshape(-1, hidden.shape[-1]),
                weight,
                target_ids.reshape(-1),
                unembedding_axes=unembedding.axes,
                z_loss_scale=self.cfg.z_loss_scale,
                soft_cap=soft_cap,
                chunk_size=self.cfg.chunk_size,
                implementation=self.cfg.implementation,
            )

        arrays = (hidden_BSD, weight, target_ids_BS)
        sums = (
            sums_fn(*arrays)
            if split.parts("act_vocab") > 1
            else _per_device(split, sums_fn, arrays)
        )
        self._summarize(sums)
        return LossOutput(sums.total, sums.weight)

    def _gathered(self, unembedding: Unembedding) -> Array:
        """Gathers a weight that is sharded over D once, not once a chunk."""
        logical = {"D": None, "V": "act_vocab"}
        return self.constrain(unembedding.weight, tuple(logical[axis] for axis in unembedding.axes))

    def _summarize(self, sums: CrossEntropySums) -> None:
        if not self.cfg.z_loss_scale:
            return  # Then the cross-entropy is the loss itself, which the trainer logs.
        per_target = 1.0 / jnp.maximum(sums.weight, 1.0)
        self.add_summary("cross_entropy", WeightedScalar(sums.loss * per_target, sums.weight))
        self.add_summary("z_loss", WeightedScalar(sums.z_loss * per_target, sums.weight))


def _per_device(
    split: DeviceSplit, sums_fn: Callable[..., CrossEntropySums], arrays: tuple[Array, Array, Array]
) -> CrossEntropySums:
    """Sums the losses of each device's own tokens, then those of all devices.

    Left to itself XLA sums the gradient of the unembedding over all devices once a chunk of tokens; so it does once.
    """

    def local(*blocks: Array) -> list[Array]:
        return [x[None, None] for x in sums_fn(*blocks)]

    parts = split.run(
        local,
        arrays,
        in_axes=[HIDDEN_AXES, (None, None), TARGET_AXES],
        out_axes=[TARGET_AXES] * len(CrossEntropySums._fields),
    )
    return CrossEntropySums(*(x.sum() for x in parts))
