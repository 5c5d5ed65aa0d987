"""Ready sets of rules, and the logical axes that Trellax' layers use.

    fsdp_tensor_rules().spec(("embed", "mlp"))  # PartitionSpec("fsdp", "model")

Axes of parameters: layers (stacked copies of a layer), embed (D), mlp (F), heads (N), kv_heads (K),
head_dim (H), vocab (V), experts (E), norm (scales and other small vectors). Axes of activations:
batch (B), length (S or T), act_embed, act_mlp, act_heads, act_kv_heads, act_head_dim, act_vocab,
act_experts. Parameters and activations have names of their own because they are split differently:
FSDP splits a weight's `embed`, but an activation's `batch`, over the same devices.
"""

from __future__ import annotations

from trellax.parallel.sharding.axis_rules import LogicalAxisRules

PARAMETER_AXES = (
    "layers",
    "embed",
    "mlp",
    "heads",
    "kv_heads",
    "head_dim",
    "vocab",
    "experts",
    "norm",
)
ACTIVATION_AXES = (
    "batch",
    "length",
    "act_embed",
    "act_mlp",
    "act_heads",
    "act_kv_heads",
    "act_head_dim",
    "act_vocab",
    "act_experts",
)


def replicated_rules() -> LogicalAxisRules:
    """Every device holds everything: the rules of one device, and where other sets begin."""
    return LogicalAxisRules(rules=dict.fromkeys(PARAMETER_AXES + ACTIVATION_AXES))


def fsdp_rules() -> LogicalAxisRules:
    """Parameters are split over `fsdp`, the batch over all of `data`, `expert` and `fsdp`.

    A parameter is gathered for its use and its gradient scattered after (ZeRO-3: Rajbhandari et
    al., arXiv:1910.02054). The `model` axis stays unused.
    """
    return replicated_rules().override(
        embed="fsdp",
        experts="expert",
        batch=("data", "expert", "fsdp"),
        length="seq",
        act_experts="expert",
    )


def fsdp_tensor_rules() -> LogicalAxisRules:
    """`fsdp_rules`, and heads, feed-forward and vocabulary are split over `model`.

    This is the tensor parallelism of Megatron-LM (Shoeybi et al., arXiv:1909.08053). With a mesh
    whose `model` is 1 it is the same as `fsdp_rules`, so it serves as the default.
    """
    return fsdp_rules().override(
        mlp="model",
        heads="model",
        kv_heads="model",
        vocab="model",
        act_mlp="model",
        act_heads="model",
        act_kv_heads="model",
        act_vocab="model",
    )
