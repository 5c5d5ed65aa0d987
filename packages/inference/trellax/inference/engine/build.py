"""From a model's config and parameters to an engine's core.

    core = build_core(engine_cfg, model_cfg, params, tokenizer=tokenizer, eos_ids=tokenizer.eos_ids)

Axes: V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from trellax.config import finalize
from trellax.inference.engine.config import EngineConfig
from trellax.inference.engine.core import EngineCore
from trellax.inference.engine.draws import DRAW_VARIANTS
from trellax.inference.engine.speculation import Speculation, SpeculationHost
from trellax.inference.execution import Runner, RunnerSizes, serving_config, serving_params
from trellax.inference.text import Tokenizer
from trellax.layers import BaseLayer, PagePool, is_state_axis
from trellax.parallel import build_mesh, sharding_scope, shardings_for

Tree = dict[str, Any]


def serving_model(cfg: EngineConfig.Config, model_cfg: Any) -> BaseLayer:
    """Returns the model as the engine runs it."""
    served = serving_config(model_cfg, cache=cfg.cache_layout(), unrolls=cfg.unrolls)
    return finalize(served).instantiate()


def build_core(
    cfg: EngineConfig.Config,
    model_cfg: Any,
    params_fn: Callable[[BaseLayer, Any], Tree],
    *,
    tokenizer: Tokenizer | None = None,
    eos_ids: frozenset[int] = frozenset(),
    prefill_only: bool = False,
    checks_invariants: bool = False,
) -> EngineCore:
    """Returns an engine's core, its programs compiled if the config says so.

    Args:
        cfg: of the engine, finalized.
        model_cfg: of the model in training.
        params_fn: makes the parameters, of (model, shardings); shardings is None for one device, else a tree of them.
        tokenizer: for text.
        eos_ids: tokens that end a request.
        prefill_only: whether sequences decode elsewhere.
        checks_invariants: for tests, see `EngineCore`.
    """
    mesh = None if cfg.mesh_shape is None else build_mesh(cfg.mesh_shape)
    load = functools.partial(_loaded, cfg, mesh)
    model, params = load(model_cfg, params_fn)
    limits = cfg.limits(shares_prefixes=_shares_pages(model), prefill_only=prefill_only)
    sizes = RunnerSizes(
        shapes=cfg.shapes(limits),
        pages=PagePool(limits.num_pages, limits.page_size),
        max_length=limits.max_length,
        vocab_size=model.vocab_size,  # type: ignore[attr-defined]
    )
    runner = Runner(
        model, params, sizes, mesh=mesh, axis_rules=cfg.axis_rules, is_strict=cfg.is_strict
    )
    speculation = None
    if cfg.speculation is not None and not prefill_only:
        speculation = cfg.speculation.instantiate()
        speculation.open(SpeculationHost(sizes, runner.programs, load))
    if cfg.warms_up:
        _warm_up(runner, speculation, with_moves=_moves(cfg, prefill_only))
    return EngineCore(
        runner,
        limits,
        tokenizer=tokenizer,
        eos_ids=eos_ids,
        speculation=speculation,
        seed=cfg.seed,
        checks_invariants=checks_invariants,
    )


def _moves(cfg: EngineConfig.Config, prefill_only: bool) -> bool:
    """Whether sequences are taken out, or put in; in strict mode they may be, since who resumes some is not known here."""
    return prefill_only or cfg.preemption == "swap" or cfg.is_strict


def _warm_up(runner: Runner, speculation: Speculation | None, *, with_moves: bool) -> None:
    with_draft_probs = speculation is not None and speculation.gives_probs
    with runner.programs.warm_up():
        if speculation is not None:
            speculation.warm_up()
        runner.warm_up(DRAW_VARIANTS, with_draft_probs=with_draft_probs, with_moves=with_moves)


def _loaded(
    cfg: EngineConfig.Config, mesh: Any, model_cfg: Any, params_fn: Any
) -> tuple[BaseLayer, Tree]:
    """Returns a model as the engine runs it, and its parameters."""
    model = serving_model(cfg, model_cfg)
    with sharding_scope(mesh, cfg.axis_rules):
        return model, _params(cfg, model, params_fn, mesh)


def _params(cfg: EngineConfig.Config, model: BaseLayer, params_fn: Any, mesh: Any) -> Tree:
    shardings = None
    if mesh is not None:
        shardings = shardings_for(model.all_parameter_specs(), mesh, cfg.axis_rules)
    params = params_fn(model, shardings)
    make = lambda params: serving_params(model, params, dtype=cfg.dtype, weights=cfg.weights)
    return make(params) if mesh is None else jax.jit(make)(params)


def _shares_pages(model: BaseLayer) -> bool:
    """Whether all that a sequence leaves behind lies in pages, so that others may begin with them."""
    axes = jax.tree.leaves(model.state_axes(), is_leaf=is_state_axis)
    return bool(axes) and all(axis.kind == "page" for axis in axes)
