"""Where keys and values wait while sequences are decoded: one layout a file, all with one interface.

    attention_cfg.set(cache=PagedCache.default_config().set(dtype="int8"))

| layout | a sequence's keys lie | good for |
| --- | --- | --- |
| `ContiguousCache` | in a buffer of `max_length` slots of its own | batches that start and end together |
| `SlidingCache` | in a ring as long as its window | sliding windows: memory does not grow with length |
| `PagedCache` | in pages that a block table lists | serving: memory as needed, prefixes shared |
| `NoCache` | nowhere | encoders |
"""

from trellax.layers.attention.cache.contiguous import ContiguousCache
from trellax.layers.attention.cache.interface import AttentionCache, NoCache
from trellax.layers.attention.cache.paged import PagedCache
from trellax.layers.attention.cache.sliding import SlidingCache
from trellax.layers.attention.cache.views import CacheView, GroupedView, PagedView

__all__ = [
    "AttentionCache",
    "CacheView",
    "ContiguousCache",
    "GroupedView",
    "NoCache",
    "PagedCache",
    "PagedView",
    "SlidingCache",
]
