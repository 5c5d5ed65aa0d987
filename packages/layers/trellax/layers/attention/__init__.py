"""Self-attention, split into parts that can be replaced one by one.

Attention.default_config().set(num_heads=32, num_kv_heads=8, mask=SlidingWindow.default_config())
"""

from trellax.layers.attention.attention import Attention
from trellax.layers.attention.cache import (
    AttentionCache,
    CacheView,
    ContiguousCache,
    GroupedView,
    NoCache,
    PagedCache,
    PagedView,
    SlidingCache,
)
from trellax.layers.attention.context import (
    AllGatherContext,
    ContextParallelism,
    RingContext,
    UlyssesContext,
)
from trellax.layers.attention.core import AttentionCore, SoftmaxAttention
from trellax.layers.attention.mask import AttentionMask, Causal, Full, SlidingWindow
from trellax.layers.attention.positions import (
    AlibiPositions,
    NoPositions,
    Positioned,
    Positions,
    SinusoidalPositions,
)
from trellax.layers.attention.projection import (
    AttentionProjection,
    FusedQKVProjection,
    QKVProjection,
    QueryKeyValue,
)
from trellax.layers.attention.rotary import (
    LinearRopeScaling,
    Llama3RopeScaling,
    RopeScaling,
    RotaryPositions,
)
from trellax.layers.attention.tokens import RowGroup, TokenInfo

__all__ = [
    "AlibiPositions",
    "AllGatherContext",
    "Attention",
    "AttentionCache",
    "AttentionCore",
    "AttentionMask",
    "AttentionProjection",
    "CacheView",
    "Causal",
    "ContextParallelism",
    "ContiguousCache",
    "Full",
    "FusedQKVProjection",
    "GroupedView",
    "LinearRopeScaling",
    "Llama3RopeScaling",
    "NoCache",
    "NoPositions",
    "PagedCache",
    "PagedView",
    "Positioned",
    "Positions",
    "QKVProjection",
    "QueryKeyValue",
    "RingContext",
    "RopeScaling",
    "RotaryPositions",
    "RowGroup",
    "SinusoidalPositions",
    "SlidingCache",
    "SlidingWindow",
    "SoftmaxAttention",
    "TokenInfo",
    "UlyssesContext",
]
