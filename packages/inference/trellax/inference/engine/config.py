"""`EngineConfig`: how a model is served. Every field has a default that serves a laptop.

cfg = EngineConfig.default_config().set(max_sequences=64, weights="int8")
"""

from __future__ import annotations

from typing import Literal

from trellax.config import Configurable
from trellax.inference.engine.speculation import Speculation
from trellax.inference.execution import StepShapes, WeightFormat
from trellax.inference.scheduling import Limits
from trellax.layers.attention import AttentionCache, ContiguousCache, PagedCache
from trellax.parallel import LogicalAxisRules, MeshShape


class EngineConfig(Configurable):
    """The settings of an engine; see `Config`."""

    class Config(Configurable.Config):
        """
        Fields:
            max_length: tokens of a prompt and its output together.
            max_sequences: sequences that run at once.
            max_tokens_per_step: tokens of prompts and outputs that a step computes. More serve prompts faster, and let
                others wait longer for their next token.
            max_prefill_rows: prompts that a step works on.
            patience: tokens of others that a prompt may have to wait for, for each of its own: short prompts pass long ones,
                and none waits for ever. 0 for the order of arrival.
            tile_length: prompts are computed in pieces of so many tokens.
            page_size: tokens of a page of the cache.
            cache_tokens: tokens that the cache holds; None for a quarter of what `max_sequences` of `max_length` take,
                and at least one of these.
            cache: layout of caches. "paged" takes the place of contiguous ones; a layout that the model's own config chose
                stays.
            cache_dtype: type that keys and values are kept in, None for `dtype`.
            share_prefixes: whether prompts that begin alike share what was computed.
            preemption: what becomes of a sequence's keys when pages run out.
            swap_tokens: tokens that host memory holds for "swap".
            max_queued_requests: requests that wait before others are refused; None for no bound.
            max_queued_tokens: the same, in tokens of prompts.
            dtype: of activations.
            weights: format of the weights of matrix products.
            unrolls: whether each layer has weights and caches of its own: the fastest, and the longest to compile.
            is_deterministic: whether what a request gets is the same bits, whatever else runs. Slower: steps have one size.
            is_strict: whether a program that was not compiled before the first request is an error.
            warms_up: whether programs are compiled before the first request.
            seed: of the draws of requests that bring none; None for a new one each time.
            speculation: how tokens are proposed that a step then checks; None for none.
            mesh_shape: devices that share the model.
            axis_rules: which mesh axes split each logical axis.
        """

        max_length: int = 2048
        max_sequences: int = 32
        max_tokens_per_step: int = 512
        max_prefill_rows: int = 8
        patience: int = 4
        tile_length: int = 32
        page_size: int = 16
        cache_tokens: int | None = None
        cache: Literal["paged", "contiguous"] = "paged"
        cache_dtype: str | None = None
        share_prefixes: bool = True
        preemption: Literal["recompute", "swap"] = "recompute"
        swap_tokens: int = 0
        max_queued_requests: int | None = 512
        max_queued_tokens: int | None = None
        dtype: str = "float32"
        weights: WeightFormat = "plain"
        unrolls: bool = True
        is_deterministic: bool = False
        is_strict: bool = False
        warms_up: bool = True
        seed: int | None = None
        speculation: Speculation.Config | None = None
        mesh_shape: MeshShape | None = None
        axis_rules: LogicalAxisRules = LogicalAxisRules()

        def check(self) -> None:
            super().check()
            if self.is_deterministic and self.max_tokens_per_step % self.chunk_unit:
                raise ValueError(
                    f"max_tokens_per_step={self.max_tokens_per_step} must be a multiple of {self.chunk_unit} (of tile_length "
                    f"and page_size) for is_deterministic."
                )
            if self.is_deterministic and self.speculation is not None:
                raise ValueError("is_deterministic takes steps of one size; leave out speculation.")

        @property
        def chunk_unit(self) -> int:
            """Tokens that chunks of prompts are multiples of where they must not depend on what else runs."""
            return max(self.tile_length, self.page_size)

        def cache_layout(self) -> AttentionCache.Config:
            """Returns what takes the place of contiguous caches."""
            layout = PagedCache if self.cache == "paged" else ContiguousCache
            return layout.default_config().set(dtype=self.cache_dtype or self.dtype)

        def cache_size(self) -> int:
            """Returns how many tokens the cache holds."""
            if self.cache_tokens is not None:
                return self.cache_tokens
            return max(self.max_length, self.max_sequences * self.max_length // 4)

        def limits(self, *, shares_prefixes: bool, prefill_only: bool = False) -> Limits:
            """Returns what the scheduler keeps to.

            Args:
                shares_prefixes: whether the model's caches can.
                prefill_only: whether sequences decode elsewhere.
            """
            drafts = 0 if self.speculation is None or prefill_only else self.speculation.num_tokens
            alignment = self.chunk_unit if self.is_deterministic else None
            return Limits(
                num_pages=1 + -(-self.cache_size() // self.page_size),
                page_size=self.page_size,
                max_sequences=self.max_sequences,
                max_length=self.max_length,
                max_tokens_per_step=self.max_tokens_per_step
                + (self.max_sequences if self.is_deterministic else 0),
                prefill_chunk=self.max_tokens_per_step,
                max_prefill_rows=self.max_prefill_rows,
                tile_length=self.tile_length,
                chunk_alignment=alignment,
                num_draft_tokens=drafts,
                preemption=self.preemption,
                max_swapped_pages=self.swap_tokens // self.page_size,
                share_prefixes=self.share_prefixes and shares_prefixes,
                prefill_only=prefill_only,
                max_queued_requests=self.max_queued_requests,
                max_queued_tokens=self.max_queued_tokens,
                patience=self.patience,
            )

        def shapes(self, limits: Limits) -> StepShapes:
            """Returns the shapes that steps within these limits are padded to."""
            return StepShapes(
                max_sequences=self.max_sequences,
                max_prefill_tokens=limits.max_tokens_per_step,
                tile_length=self.tile_length,
                max_prefill_rows=self.max_prefill_rows,
                tokens_per_decode=limits.tokens_per_decode,
                is_fixed=self.is_deterministic,
            )
