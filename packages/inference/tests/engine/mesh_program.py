"""Runs an engine over several devices and prints its tokens and log-probabilities as JSON; a process of its own for their number.

python -m tests.engine.mesh_program '{"kind": "rotary", "mesh": {"model": 2}, "warms_up": false}'
"""

from __future__ import annotations

import json
import sys
from typing import Any

import jax


def answers(kind: str, **fields: Any) -> dict[str, Any]:
    """Returns tokens and log-probabilities of a few requests to an engine."""
    from tests.engine.cores import SMALL, parameters, prompts, requests, run, tokens
    from trellax.config import finalize
    from trellax.inference.engine import EngineConfig, build_core

    cfg, params = parameters(kind)
    few_shapes = {
        "max_sequences": 2,
        "max_tokens_per_step": 16,
        "max_prefill_rows": 1,
        "max_length": 32,
    }
    engine_cfg = finalize(EngineConfig.default_config().set(**SMALL | few_shapes | fields))
    placed = lambda model, shardings: jax.device_put(params, shardings)
    core = build_core(engine_cfg, cfg, placed, checks_invariants=True)
    pieces = run(core, requests(prompts([5, 19, 3]), logprobs=1, max_tokens=8), arrive_every=1)
    logprobs = {
        name: [x.logprob for output in outputs for x in output.logprobs or ()]
        for name, outputs in pieces.items()
    }
    parts = {"params": most_parts(core.runner.params), "caches": most_parts(core.runner.state)}
    return {"tokens": tokens(pieces), "logprobs": logprobs, "parts": parts}


def most_parts(tree: Any) -> int:
    """Returns into how many parts the array that is split most is split."""
    arrays = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)]
    return max(len({shard.index for shard in x.addressable_shards}) for x in arrays)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    from trellax.parallel import MeshShape

    wanted = json.loads(sys.argv[1])
    fields = {"warms_up": wanted["warms_up"], "is_strict": wanted["warms_up"]}
    print(json.dumps(answers(wanted["kind"], mesh_shape=MeshShape(**wanted["mesh"]), **fields)))
