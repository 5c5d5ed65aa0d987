"""What `train_step.py` measures: one Llama, as Trellax builds it and as it is written by hand.

    workload = make_workload("rehearsal")
    ours, theirs = trellax_program(workload), hand_written_program(workload)

Both start from the same parameters and read the same batch. A program is a function of (state, batch) that
returns a new state and its metrics, with a way to compile it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from benchmarks import hand_written_llama

from trellax.config import finalize
from trellax.experiments.resolve import resolve
from trellax.layers import is_spec
from trellax.parallel import hardware_named
from trellax.runtime.trainer import Placement, TrainStep

Tree = dict[str, Any]

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"layers": 2, "dim": 32, "heads": 2, "hidden": 64, "vocab": 64, "batch": (4, 16)},
    "rehearsal": {},  # What the cpu mesh rule makes of `llama2_7b_tpu`.
    "llama_20m": {
        "layers": 8,
        "dim": 384,
        "heads": 8,
        "hidden": 1024,
        "vocab": 8192,
        "batch": (8, 512),
    },
}


@dataclasses.dataclass(frozen=True)
class Workload:
    """A finished trainer config, whose input is never opened, and a batch for it."""

    name: str
    cfg: Any
    batch: dict[str, np.ndarray]

    @property
    def num_tokens(self) -> int:
        return self.batch["input_ids"].size

    @property
    def model_flops(self) -> float:
        """FLOPs of a step: three times the forward pass, attention in full."""
        model = self.cfg.model.instantiate()
        length = self.batch["input_ids"].shape[1]
        return 3.0 * model.forward_flops_per_token(length) * self.num_tokens


@dataclasses.dataclass(frozen=True)
class Program:
    """One way to run the workload.

    Attributes:
        init: makes the state, on the device.
        trace: traces the step for a batch on the device.
        step: calls a compiled step on (state, batch), returns (state, metrics).
    """

    name: str
    init: Callable[[], Any]
    trace: Callable[[Tree], jax.stages.Traced]
    step: Callable[[Any, Any, Tree], tuple[Any, Tree]]


def make_workload(name: str) -> Workload:
    """Returns the workload of one of `SIZES`."""
    cfg = resolve("llama2_7b_tpu", hardware=hardware_named("cpu")).cfg
    size = SIZES[name]
    if size:
        decoder = cfg.model.decoder.set(dim=size["dim"], vocab_size=size["vocab"])
        decoder.stack.set(num_layers=size["layers"])
        decoder.stack.layer.attention.set(num_heads=size["heads"])
        decoder.stack.layer.feed_forward.set(hidden_dim=size["hidden"])
        rows, length = size["batch"]
        cfg.input.set(global_batch_size=rows, sequence_length=length)
    cfg = finalize(cfg)
    rows, length = cfg.input.batch_spec()["input_ids"].shape
    return Workload(name, cfg, packed_batch(rows, length, cfg.model.decoder.vocab_size))


def packed_batch(rows: int, length: int, vocab_size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns rows of documents of random length, with some padding, as the input packs them."""
    rng = np.random.default_rng(seed)
    names = ("input_ids", "target_ids", "positions", "segment_ids")
    batch = {name: np.zeros((rows, length), np.int32) for name in names}
    batch["target_ids"][:] = -1
    for row in range(rows):
        start, segment = 0, 1
        end = length - length // 8 if row == rows - 1 else length  # The last row is padded.
        while start < end:
            n = min(int(rng.integers(2, max(length, 3))), end - start)
            tokens = rng.integers(0, vocab_size, n + 1)
            place = (row, slice(start, start + n))
            batch["input_ids"][place], batch["target_ids"][place] = tokens[:-1], tokens[1:]
            batch["positions"][place], batch["segment_ids"][place] = np.arange(n), segment
            start, segment = start + n, segment + 1
    return batch


# ---- Trellax --------------------------------------------------------------------------------------


def trellax_program(workload: Workload) -> Program:
    """The path of `Trainer`: its train step, its placement."""
    cfg = workload.cfg
    model = cfg.model.instantiate()
    learner = cfg.learner.instantiate(parameter_specs=model.all_parameter_specs())
    step = TrainStep(model, learner, seed=cfg.seed, compute_dtype=cfg.compute_dtype)
    placement = Placement(cfg.mesh_shape, cfg.axis_rules)
    specs = step.state_specs()

    def init() -> Any:
        return placement.init(step.init, specs)

    def trace(batch: Tree) -> jax.stages.Traced:
        return placement.trace_step(step, specs, batch)

    return Program("trellax", init, trace, lambda compiled, state, batch: compiled(state, batch))


# ---- by hand --------------------------------------------------------------------------------------


def hand_written_program(workload: Workload, *, remat: bool = False) -> Program:
    """The same model, schedule and optimizer in plain JAX, started from Trellax's parameters."""
    shape, recipe = hand_written_shape(workload.cfg, remat=remat), hand_written_recipe(workload.cfg)
    optimizer = hand_written_llama.make_optimizer(recipe)
    train_step = hand_written_llama.make_train_step(shape, recipe)
    jitted = jax.jit(train_step, donate_argnums=(0, 1))

    def init() -> Any:
        params = hand_written_params(trellax_program(workload).init()["params"])
        return params, jax.jit(optimizer.init)(params)

    def trace(batch: Tree) -> jax.stages.Traced:
        params = hand_written_params(_abstract_params(workload))
        return jitted.trace(params, jax.eval_shape(optimizer.init, params), batch)

    def step(compiled: Any, state: Any, batch: Tree) -> tuple[Any, Tree]:
        params, optimizer_state, metrics = compiled(*state, batch)
        return (params, optimizer_state), metrics

    return Program("hand_written_remat" if remat else "hand_written", init, trace, step)


def _abstract_params(workload: Workload) -> Tree:
    specs = workload.cfg.model.instantiate().all_parameter_specs()
    abstract = lambda spec: jax.ShapeDtypeStruct(spec.shape, spec.dtype)
    return jax.tree.map(abstract, specs, is_leaf=is_spec)


def hand_written_shape(cfg: Any, *, remat: bool) -> hand_written_llama.LlamaShape:
    layer = cfg.model.decoder.stack.layer
    return hand_written_llama.LlamaShape(
        theta=layer.attention.positions.theta, eps=layer.attention_norm.eps, remat=remat
    )


def hand_written_recipe(cfg: Any) -> hand_written_llama.Recipe:
    schedule, optimizer = cfg.learner.schedule, cfg.learner.optimizer
    return hand_written_llama.Recipe(
        peak=schedule.peak,
        warmup_steps=schedule.warmup_steps,
        total_steps=schedule.total_steps,
        final_fraction=schedule.final_fraction,
        beta1=optimizer.beta1,
        beta2=optimizer.beta2,
        epsilon=optimizer.epsilon,
        weight_decay=optimizer.weight_decay,
        max_grad_norm=cfg.learner.max_grad_norm,
    )


def hand_written_params(params: Tree) -> Tree:
    """Returns Trellax's parameters under the names of `hand_written_llama`; gradients as well."""
    decoder = params["decoder"]
    layer = decoder["stack"]["layer"]
    projection, mlp = layer["attention"]["projection"], layer["feed_forward"]
    return {
        "embed_VD": decoder["embedding"]["weight"],
        "layers": {
            "attention_norm_D": layer["attention_norm"]["scale"],
            "query_DNH": projection["query"]["weight"],
            "key_DKH": projection["key"]["weight"],
            "value_DKH": projection["value"]["weight"],
            "output_NHD": layer["attention"]["output"]["weight"],
            "mlp_norm_D": layer["feed_forward_norm"]["scale"],
            "gate_DF": mlp["gate"]["weight"],
            "up_DF": mlp["up"]["weight"],
            "down_FD": mlp["down"]["weight"],
        },
        "norm_D": decoder["output_norm"]["scale"],
        "head_DV": decoder["lm_head"]["weight"],
    }
