"""Where the parameters and main activations of an experiment lie on some hardware, by arithmetic.

    shardings = shardings_of(cfg, num_devices=256)
    print(shardings_text(shardings))
    shardings.parameters.bytes_per_device

Activations are found as the rehearsal finds what it shrinks: by the field names that layers share (`num_heads`,
`hidden_dim`), whatever their classes.

Axes: B rows of a pass, S tokens of a row, D model, N heads, K kv heads, H head dim, F feed-forward, C choices, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from trellax.config import finalize, nodes
from trellax.parallel import LogicalArray, MeshShape, ShardingReport, sharding_report

_LOGIT_CHUNKS = 8
"""Of a pass, on accelerators, where the loss does not say otherwise (`trellax.kernels.cross_entropy`)."""


@dataclasses.dataclass(frozen=True)
class Shardings:
    """An experiment on a mesh.

    Attributes:
        mesh_shape: resolved.
        parameters: of the model.
        activations: the main ones of one layer, and of one pass of accumulation.
    """

    mesh_shape: MeshShape
    parameters: ShardingReport
    activations: ShardingReport

    def to_dict(self) -> dict[str, Any]:
        """Returns them as JSON's types."""
        return {
            "mesh": self.mesh_shape.total_sizes(),
            "parameters": self.parameters.to_dict(),
            "activations": self.activations.to_dict(),
        }


def shardings_of(cfg: Any, *, num_devices: int) -> Shardings:
    """Returns where a trainer's arrays lie.

    Args:
        cfg: config of the trainer, as a mesh rule left it; what its input requires of the user may be missing.
        num_devices: of the hardware.

    Raises:
        ValueError: if the mesh does not fit the devices, or an array has an axis without a rule.
    """
    model_cfg = finalize(cfg.model)
    mesh_shape = cfg.mesh_shape.resolved(num_devices)
    plan: dict[str, Any] = {"rules": cfg.axis_rules, "axis_sizes": mesh_shape.total_sizes()}
    specs = model_cfg.instantiate().all_parameter_specs()
    return Shardings(
        mesh_shape=mesh_shape,
        parameters=sharding_report(specs, **plan),
        activations=sharding_report(_activations(cfg, model_cfg), **plan),
    )


def shardings_text(shardings: Shardings) -> str:
    """Returns a line an array: path, shape, the mesh axes that split each dimension, bytes a device."""
    return (
        f"mesh: {shardings.mesh_shape}\n"
        f"parameters\n{_indented(shardings.parameters)}\n"
        f"activations of a pass\n{_indented(shardings.activations)}"
    )


def _indented(report: ShardingReport) -> str:
    return "\n".join(f"  {line}" for line in str(report).splitlines())


def _activations(cfg: Any, model_cfg: Any) -> dict[str, LogicalArray]:
    """Returns the main activations of one pass, by the path of the layer and their tags."""
    B, S = cfg.input.global_batch_size // cfg.accumulation_steps, cfg.input.sequence_length
    dtype = cfg.compute_dtype
    decoder = model_cfg.decoder
    stream = ("batch", "residual_length", "act_embed")
    found = {"decoder.block_input": LogicalArray((B, S, decoder.dim), stream, dtype)}
    for path, node in nodes(model_cfg):
        for tag, shape, axes in (*_attention(node), *_feed_forward(node)):
            array = LogicalArray((B, S, *shape), ("batch", "length", *axes), dtype)
            found[f"{path}.{tag}"] = array
    chunk = model_cfg.loss.chunk_size or B * S // _LOGIT_CHUNKS
    shape = (B, max(chunk // B, 1), decoder.vocab_size)
    found["loss.logits_chunk"] = LogicalArray(shape, ("batch", "length", "act_vocab"), "float32")
    return found


Named = tuple[str, tuple[int, ...], tuple[str | None, ...]]


def _attention(node: Any) -> list[Named]:
    if not {"num_heads", "num_kv_heads", "head_dim", "mask"} <= set(node.keys()):
        return []
    N, K, H = node.num_heads, node.num_kv_heads, node.head_dim
    heads, kv_heads = ("act_heads", "act_head_dim"), ("act_kv_heads", "act_head_dim")
    return [
        ("q_proj", (N, H), heads),
        ("k_proj", (K, H), kv_heads),
        ("v_proj", (K, H), kv_heads),
        ("attention_context", (N, H), heads),
    ]


def _feed_forward(node: Any) -> list[Named]:
    """Experts work on C rows a token; on average each device gets as many as its tokens send out."""
    if not {"hidden_dim", "gated", "dropout"} <= set(node.keys()):
        return []
    F, C = node.hidden_dim, getattr(node, "experts_per_token", None)
    shape, axes = ((F,), ("act_mlp",)) if C is None else ((C, F), (None, "act_mlp"))
    tags = ("ffn_up", "ffn_gate") if node.gated else ("ffn_up",)
    return [(tag, shape, axes) for tag in tags]
