"""Ready sets of rules, to use as they are or to begin from with `override`.

fsdp_tensor_rules().spec(("embed", "mlp"))  # PartitionSpec("fsdp", "model")
"""

from __future__ import annotations

from trellax.parallel.sharding.axis_rules import DEFAULT_RULES, LogicalAxisRules


def replicated_rules() -> LogicalAxisRules:
    """Every device holds everything: the rules of one device."""
    return LogicalAxisRules(rules=dict.fromkeys(DEFAULT_RULES))


def fsdp_rules() -> LogicalAxisRules:
    """Parameters are split over `fsdp`, the batch over all of `data`, `expert` and `fsdp`.

    A parameter is gathered for its use and its gradient scattered after (ZeRO-3: Rajbhandari et
    al., arXiv:1910.02054). The `model` axis stays unused.
    """
    unused = {name: None for name, axis in DEFAULT_RULES.items() if axis == "model"}
    return LogicalAxisRules().override(**unused)


def fsdp_tensor_rules() -> LogicalAxisRules:
    """`fsdp_rules`, and heads, feed-forward and vocabulary are split over `model`.

    This is the tensor parallelism of Megatron-LM (Shoeybi et al., arXiv:1909.08053). On a mesh
    whose `model` is 1 it is the same as `fsdp_rules`, so it serves as the default.
    """
    return LogicalAxisRules()


def tensor_sequence_rules() -> LogicalAxisRules:
    """`fsdp_tensor_rules`, and between attention and feed-forward `model` splits the sequence.

    Norms and residual additions are then done once, not by each device of `model`, and what a layer keeps for its
    backward pass is divided by it (sequence parallelism: Korthikanti et al., arXiv:2205.05198, section 4.2.2).
    """
    return LogicalAxisRules().override(residual_length=("seq", "model"))
