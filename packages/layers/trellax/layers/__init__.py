"""Neural network layers and models for JAX, as trees of configs.

    from trellax.layers import CausalLM, FeedForwardLayer, MoELayer, TransformerLayer, functional

The parts of attention have a family of their own: `trellax.layers.attention`.
"""

from trellax.layers.attention import Attention, RowGroup, TokenInfo
from trellax.layers.base import (
    BaseLayer,
    ConstantInitializer,
    Initializer,
    NormalInitializer,
    PagePool,
    ParameterSpec,
    StateAxis,
    VarianceScalingInitializer,
    count_parameters,
    is_spec,
    is_state_axis,
)
from trellax.layers.causal_lm import (
    CausalLM,
    CrossEntropyLoss,
    Decoder,
    LmHead,
    LossOutput,
    decoder_model,
    swiglu,
)
from trellax.layers.dropout import Dropout
from trellax.layers.embedding import (
    Embedding,
    LearnedPositionEmbedding,
    SinusoidalPositionEmbedding,
    Unembedding,
)
from trellax.layers.feed_forward import FeedForwardLayer, activation_fn, scaled_hidden_dim
from trellax.layers.linear import Linear, Projection
from trellax.layers.module import (
    Module,
    OutputCollection,
    WeightedScalar,
    averaged_summaries,
    averaged_updates,
    fold_in_name,
    functional,
    structural,
    total_loss,
    with_updates,
)
from trellax.layers.moe import (
    CapacityDispatch,
    DroplessDispatch,
    GatedSharedExpert,
    GroupedExperts,
    LoadBalancingBias,
    MoELayer,
    Routing,
    SigmoidRouter,
    TopKRouter,
)
from trellax.layers.norm import LayerNorm, RMSNorm
from trellax.layers.stack import (
    PipelinedStack,
    RepeatedStack,
    ScannedStack,
    SequentialStack,
    Stack,
    UnrolledStack,
    bubble_fraction,
)
from trellax.layers.transformer import ParallelTransformerLayer, TransformerLayer

__all__ = [
    "Attention",
    "BaseLayer",
    "CapacityDispatch",
    "CausalLM",
    "ConstantInitializer",
    "CrossEntropyLoss",
    "Decoder",
    "Dropout",
    "DroplessDispatch",
    "Embedding",
    "FeedForwardLayer",
    "GatedSharedExpert",
    "GroupedExperts",
    "Initializer",
    "LayerNorm",
    "LearnedPositionEmbedding",
    "Linear",
    "LmHead",
    "LoadBalancingBias",
    "LossOutput",
    "MoELayer",
    "Module",
    "NormalInitializer",
    "OutputCollection",
    "PagePool",
    "ParallelTransformerLayer",
    "ParameterSpec",
    "PipelinedStack",
    "Projection",
    "RMSNorm",
    "RepeatedStack",
    "Routing",
    "RowGroup",
    "ScannedStack",
    "SequentialStack",
    "SigmoidRouter",
    "SinusoidalPositionEmbedding",
    "Stack",
    "StateAxis",
    "TokenInfo",
    "TopKRouter",
    "TransformerLayer",
    "Unembedding",
    "UnrolledStack",
    "VarianceScalingInitializer",
    "WeightedScalar",
    "activation_fn",
    "averaged_summaries",
    "averaged_updates",
    "bubble_fraction",
    "count_parameters",
    "decoder_model",
    "fold_in_name",
    "functional",
    "is_spec",
    "is_state_axis",
    "scaled_hidden_dim",
    "structural",
    "swiglu",
    "total_loss",
    "with_updates",
]
