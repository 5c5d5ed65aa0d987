"""Prints tokens that are drawn from logits on one device, then from logits sharded over a `model` axis of four.

python -m tests.sampling.sharded_process        # in packages/inference
"""

from __future__ import annotations

import json

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from trellax.inference.requests import SamplingParams
from trellax.inference.sampling import SamplingRows, sample, variant_for

PARAMS = [
    SamplingParams(temperature=0.0, logprobs=3),
    SamplingParams(),
    SamplingParams(top_p=0.7),
    SamplingParams(top_k=9, top_p=0.9),
    SamplingParams(min_p=0.02),
    SamplingParams(top_k=200),
]


def main() -> None:
    jax.config.update("jax_num_cpu_devices", 4)
    R, V = 24, 1024
    logits_RV = np.random.default_rng(0).gumbel(size=(R, V)).astype(np.float32) * 2
    params = [PARAMS[i % len(PARAMS)] for i in range(R)]
    rows = SamplingRows.of(params, range(R), range(R), R)
    run = jax.jit(sample, static_argnames="variant")
    mesh = Mesh(np.asarray(jax.devices()), ("model",))
    sharded_RV = jax.device_put(logits_RV, NamedSharding(mesh, PartitionSpec(None, "model")))
    for logits in (logits_RV, sharded_RV):
        sampled = run(logits, rows, variant=variant_for(params, False))
        print(json.dumps(np.asarray(sampled.packed_RX)[:, [0, 2, 3, 4]].tolist()))


if __name__ == "__main__":
    main()
