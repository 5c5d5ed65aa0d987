"""What a device holds for ring attention, forward and backward, as the ring grows; compiled for TPU v5p without one.

    python -m benchmarks.ring_memory        # in packages/layers

Writes results/ring_memory.json and a table beside it. Peak times devices should stay what it is: each device holds its own
tokens, visitors and tiles, and nothing that grows with the row. One device has no ring, but the kernel that serves it alone.
Axes: B batch, S row, N heads, H head dim.
"""

from __future__ import annotations

import json
import pathlib
import time
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from trellax.kernels.masks import CausalMask
from trellax.layers.attention import CacheView, RingContext, SoftmaxAttention
from trellax.layers.module import functional
from trellax.parallel import (
    MeshShape,
    build_mesh,
    fsdp_tensor_rules,
    hardware_named,
    sharding_scope,
)
from trellax.parallel.planning import aot_devices

B, S, N, H = SHAPE = (1, 131_072, 8, 128)
HARDWARE = {1: "tpu-v5p-8", 2: "tpu-v5p-8", 4: "tpu-v5p-8", 8: "tpu-v5p-16", 16: "tpu-v5p-32"}
RESULTS = pathlib.Path(__file__).parent / "results"
MIB = 2**20


def measured(num_devices: int) -> dict[str, Any]:
    """Compiles causal attention of one row over a ring, bfloat16, and reads the compiler's account of memory."""
    cfg = SoftmaxAttention.default_config().set(num_heads=N, num_kv_heads=N, head_dim=H)
    core = cfg.set(context=RingContext.default_config()).instantiate(name="core")

    def attend(q: Any, k: Any, v: Any) -> Any:
        args, kwargs = (q, CacheView(k, v)), {"mask": CausalMask()}
        return functional(core, params={}, args=args, kwargs=kwargs, is_training=True)[0]

    def both(q: Any, k: Any, v: Any, do: Any) -> Any:
        out, vjp = jax.vjp(attend, q, k, v)
        return out, vjp(do)

    devices = aot_devices(hardware_named(HARDWARE[num_devices]))[:num_devices]
    mesh, rules = build_mesh(MeshShape(seq=num_devices), devices=devices), fsdp_tensor_rules()
    spec = rules.spec(("batch", "length", "act_heads", None), shape=SHAPE, axis_sizes=mesh.shape)
    x = jax.ShapeDtypeStruct(SHAPE, jnp.bfloat16, sharding=NamedSharding(mesh, spec))
    start = time.process_time()
    with sharding_scope(mesh, rules):
        compiled = jax.jit(both).lower(x, x, x, x).compile()
    memory = compiled.memory_analysis()
    return {
        "devices": num_devices,
        "peak_bytes": memory.peak_memory_in_bytes,
        "peak_bytes_times_devices": memory.peak_memory_in_bytes * num_devices,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "compile_cpu_s": round(time.process_time() - start, 1),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as Markdown."""
    lines = [
        "| devices | peak MiB a device | peak × devices, MiB | compile CPU s |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['devices']} | {row['peak_bytes'] / MIB:.0f} | {row['peak_bytes_times_devices'] / MIB:.0f} "
        f"| {row['compile_cpu_s']} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    rows = [measured(n) for n in HARDWARE]
    about = {
        "what": f"causal ring attention (1 device: splash), forward and backward, B{B} S{S} N{N} H{H} bfloat16, TPU v5p, "
        "compiled ahead of time",
        "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "libtpu")},
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(about | {"rows": rows}, indent=2) + "\n"
    (RESULTS / "ring_memory.json").write_text(text)
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    report = f"{about['what']}; {versions}\n\n{table(rows)}"
    (RESULTS / "ring_memory.md").write_text(report)
    print(report)


if __name__ == "__main__":
    main()
