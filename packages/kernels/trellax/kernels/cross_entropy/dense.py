"""Reference cross-entropy: all logits at once, differentiated by JAX. Fastest while they are small.

Axes: N tokens, D model, V vocabulary.
"""

from __future__ import annotations

import jax

from trellax.kernels.cross_entropy.call import (
    CrossEntropyCall,
    CrossEntropySums,
    capped_logits,
    target_logits,
)


def run(call: CrossEntropyCall) -> CrossEntropySums:
    logits_NV = capped_logits(
        call.hidden_ND, call.unembedding, axes=call.axes, soft_cap=call.soft_cap
    )
    lse_N = jax.nn.logsumexp(logits_NV, axis=-1)
    weights_N = call.token_weights()
    loss = (weights_N * (lse_N - target_logits(logits_NV, call.targets_N))).sum()
    z_loss = call.z_loss_scale * (weights_N * lse_N**2).sum()
    reports = jax.lax.stop_gradient((loss, z_loss, weights_N.sum()))
    return CrossEntropySums(loss + z_loss, *reports)
