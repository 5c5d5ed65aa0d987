"""The trainer: builds everything a config describes, and runs it to its last step.

    outcome = get_experiment("llama_30m_local").instantiate(directory="runs/llama_30m").run()

Started again in the same folder it resumes from the newest complete checkpoint, and every later
loss is bit-identical: batch and randomness are functions of (seed, step), the rest is in the state.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax

from trellax.config import REQUIRED, Configurable, DType, Required
from trellax.layers import BaseLayer
from trellax.parallel import (
    LogicalAxisRules,
    MeshRule,
    MeshShape,
    RunShape,
    check_mesh,
    detect_hardware,
    peak_flops,
)
from trellax.runtime.checkpoint import Checkpointer
from trellax.runtime.compilation_cache import use_compilation_cache
from trellax.runtime.evaluator import Evaluator
from trellax.runtime.input import Input
from trellax.runtime.learner import Learner
from trellax.runtime.trainer.metrics import LateMetrics, Speedometer
from trellax.runtime.trainer.profiler import Profiler
from trellax.runtime.trainer.program import TrainProgram
from trellax.runtime.trainer.signals import StopSignals
from trellax.runtime.trainer.train_step import EvaluationStep
from trellax.runtime.writers import MultiWriter, Writer

Tree = dict[str, Any]
_log = logging.getLogger(__name__)


class NonFiniteError(RuntimeError):
    """Too many steps in a row had a loss or gradient that is not finite."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        step: steps done in all, earlier lives of the run included.
        state: the train state, see `TrainStep.init`.
        metrics: the last values of every logged metric.
        stopped_by: number of the signal that ended the run early, or None.
    """

    step: int
    state: Tree
    metrics: dict[str, float]
    stopped_by: int | None = None


class Trainer(Configurable):
    """Trains `model` with `learner` on `input`."""

    class Config(Configurable.Config):
        """
        Fields:
            name: of the experiment.
            model: its `forward(batch)` gives the summed loss and the number of targets.
            learner: optimizer, schedule, per-path rules.
            input: training batches.
            evaluators: held-out inputs by name.
            checkpointer: None trains without saving.
            writer: where metrics go.
            profiler: which steps to trace.
            mesh_shape: how the devices are arranged.
            axis_rules: which mesh axis each logical axis goes to.
            mesh_rules: alternatives by hardware; what starts the run applies the matching one.
            compute_dtype: type of the forward and backward pass.
            accumulation_steps: microbatches a step.
            max_steps: length of training.
            log_every_steps: how often metrics are written.
            max_consecutive_skips: give up after so many non-finite steps in a row.
            seed: of parameters and dropout, and of the input if that sets none of its own.
            prng_implementation: what makes random bits on devices. "rbg" where the platform lacks
                threefry (Trainium); its bits differ from platform to platform.
        """

        name: str = "unnamed"
        model: Required[BaseLayer.Config] = REQUIRED
        learner: Learner.Config = Learner.default_config()
        input: Input.Config = Input.default_config()
        evaluators: dict[str, Evaluator.Config] = {}
        checkpointer: Checkpointer.Config | None = Checkpointer.default_config()
        writer: Writer.Config = MultiWriter.default_config()
        profiler: Profiler.Config = Profiler.default_config()
        mesh_shape: MeshShape = MeshShape(fsdp=-1)
        axis_rules: LogicalAxisRules = LogicalAxisRules()
        mesh_rules: tuple[MeshRule, ...] = ()
        compute_dtype: DType = "float32"
        accumulation_steps: int = 1
        max_steps: Required[int] = REQUIRED
        log_every_steps: int = 10
        max_consecutive_skips: int = 10
        seed: int = 0
        prng_implementation: Literal["threefry2x32", "rbg"] = "threefry2x32"

        def derive(self) -> None:
            self.provide(self.learner, total_steps=self.max_steps)
            self.provide(self.input, seed=self.seed)

        def check(self) -> None:
            for name in ("accumulation_steps", "max_steps", "log_every_steps"):
                if getattr(self, name) < 1:
                    raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
            self.check_mesh(self.mesh_shape.known_sizes())

        def check_mesh(self, axis_sizes: Mapping[str, int]) -> None:
            """Raises if the model or the batch cannot be split over a mesh.

            Args:
                axis_sizes: devices along each mesh axis; an axis whose size is not known yet is absent.

            Raises:
                ValueError: with every objection, and what would work.
            """
            batch_size, length = self.input.batch_spec()["input_ids"].shape
            rows, rest = divmod(batch_size, self.accumulation_steps)
            if rest:
                raise ValueError(
                    f"A batch of {batch_size} rows does not split into accumulation_steps="
                    f"{self.accumulation_steps} equal microbatches."
                )
            run = RunShape(axis_sizes, rows=rows, length=length)
            split = {a: run.size(a) for a in self.axis_rules.mesh_axes("batch") if run.size(a) > 1}
            if rows % math.prod(split.values()):
                raise ValueError(
                    f"{rows} rows a pass do not divide among {' x '.join(f'{a}={n}' for a, n in split.items())}; "
                    f"use a multiple of {math.prod(split.values())} (the batch is {batch_size}, "
                    f"accumulation_steps={self.accumulation_steps}), or smaller mesh axes."
                )
            check_mesh(self.model, run, path="model")

    def __init__(self, cfg: Config, *, directory: str, executable: str | None = None):
        """
        Args:
            cfg: a final config.
            directory: the run's folder, for checkpoints and metrics; made if missing.
            executable: file of a train step that was compiled before (`TrainProgram.save`); None
                compiles it, or finds it in the compilation cache.
        """
        super().__init__(cfg)
        use_compilation_cache()
        self._executable = executable
        self.directory = directory
        self.program = TrainProgram(cfg)
        self.model, self.learner = self.program.model, self.program.learner
        self.placement = self.program.placement
        processes = {"process_index": jax.process_index(), "num_processes": jax.process_count()}
        self.input = cfg.input.instantiate(**processes)
        evaluation_step = self.placement.jit(
            EvaluationStep(self.model, compute_dtype=cfg.compute_dtype)
        )
        self.evaluators = [
            evaluator.instantiate(
                name=name, step_fn=evaluation_step, put_batch=self.placement.put_batch, **processes
            )
            for name, evaluator in cfg.evaluators.items()
        ]
        self._profiler = cfg.profiler.instantiate(directory=directory)
        self._late = LateMetrics()
        self._metrics: dict[str, float] = {}
        self._check_vocabulary()

    # ---- public ---------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Trains from the newest checkpoint (or from scratch) to the last step.

        Raises:
            NonFiniteError: after `max_consecutive_skips` bad steps in a row.
        """
        with contextlib.ExitStack() as stack:
            signals = stack.enter_context(StopSignals())
            checkpointer = self._open_checkpointer(stack)
            step, state = self._restore_or_init(checkpointer)
            writer = self._open_writer(stack, step)
            stack.callback(self._profiler.close)
            step, state = self._train(step, state, signals, checkpointer, writer)
            self._finish(step, state, checkpointer, writer)
        return Outcome(step, state, self._metrics, signals.received)

    def evaluate(self, params: Tree) -> dict[str, float]:
        """Returns the metrics of every evaluator."""
        metrics: dict[str, float] = {}
        for evaluator in self.evaluators:
            metrics |= evaluator.evaluate(params)
        return metrics

    def evaluation_params(self, state: Tree) -> Tree:
        """Returns the parameters of a state to evaluate or sample with (averaged, if so learnt)."""
        return self.learner.evaluation_params(state["learner"], state["params"])

    def state_specs(self) -> Tree:
        """Returns the specs of the train state: what a checkpoint of this run holds."""
        return self.program.state_specs()

    def restore(self, step: int | None = None) -> tuple[int, Tree] | None:
        """Returns (step, state) from the run's folder, or None where nothing was saved."""
        with contextlib.ExitStack() as stack:
            checkpointer = self._open_checkpointer(stack)
            if checkpointer is None:
                return None
            return checkpointer.restore(self.placement.abstract(self.state_specs()), step)

    # ---- the loop -------------------------------------------------------------------------------

    def _train(
        self, step: int, state: Tree, signals: StopSignals, checkpointer: Any, writer: Writer | None
    ) -> tuple[int, Tree]:
        if step >= self.cfg.max_steps:
            return step, state
        batches = iter(self.input.batches(step))
        batch = self.placement.put_batch(next(batches))
        step_fn = self.program.compile(batch, executable=self._executable)
        speed = self._speedometer()
        while True:
            self._profiler.before_step(step + 1)
            state, metrics = step_fn(state, batch)
            step += 1
            self._profiler.after_step(step, metrics)
            self._on_metrics(self._late.push(step, metrics), speed, writer)
            last = step >= self.cfg.max_steps or signals.received is not None
            if last:
                break
            batch = self.placement.put_batch(next(batches))
            if self._between_steps(step, state, checkpointer, writer, speed):
                speed.restart()
        self._on_metrics(self._late.flush(), speed, writer, flushed=True)
        return step, state

    def _between_steps(
        self, step: int, state: Tree, checkpointer: Any, writer: Writer | None, speed: Speedometer
    ) -> bool:
        """Evaluates and saves if due; returns whether it took time from training."""
        due = [e for e in self.evaluators if e.is_due(step)]
        save = checkpointer is not None and checkpointer.should_save(step)
        if not due and not save:
            return False
        self._on_metrics(self._late.flush(), speed, writer, flushed=True)
        if due:
            params = self.evaluation_params(state)
            for evaluator in due:
                self._write(step, evaluator.evaluate(params), writer)
        if save:  # Last: what a killed run goes on from has everything logged that led to it.
            checkpointer.save(step, state)
        return True

    def _on_metrics(
        self,
        late: tuple[int, dict[str, float]] | None,
        speed: Speedometer,
        writer: Writer | None,
        *,
        flushed: bool = False,
    ) -> None:
        if late is None:
            return
        step, metrics = late
        speed.step_done()
        if metrics["consecutive_skips"] >= self.cfg.max_consecutive_skips:
            raise NonFiniteError(
                f"Step {step}: loss or gradients were not finite for "
                f"{int(metrics['consecutive_skips'])} steps in a row (last loss "
                f"{metrics['loss']}). The state is that of step "
                f"{step - int(metrics['consecutive_skips'])}; lower learner.schedule.peak or look "
                f"at the data of these steps."
            )
        if step % self.cfg.log_every_steps == 0 or step in (1, self.cfg.max_steps):
            self._write(step, metrics | speed.read(flushed=flushed), writer)

    def _finish(self, step: int, state: Tree, checkpointer: Any, writer: Writer | None) -> None:
        if step >= self.cfg.max_steps and self.evaluators:
            self._write(step, self.evaluate(self.evaluation_params(state)), writer)
        if checkpointer is not None:
            checkpointer.save(step, state, force=True)
            checkpointer.wait()

    # ---- parts ----------------------------------------------------------------------------------

    def _restore_or_init(self, checkpointer: Any) -> tuple[int, Tree]:
        specs = self.state_specs()
        if checkpointer is not None:
            restored = checkpointer.restore(self.placement.abstract(specs))
            if restored is not None:
                _log.info("Resuming from step %d.", restored[0])
                return restored
        return 0, self.program.init()

    def _open_checkpointer(self, stack: contextlib.ExitStack) -> Any:
        if self.cfg.checkpointer is None:
            return None
        directory = f"{self.directory}/checkpoints"
        checkpointer = self.cfg.checkpointer.instantiate(directory=directory)
        stack.callback(checkpointer.close)
        return checkpointer

    def _open_writer(self, stack: contextlib.ExitStack, step: int) -> Writer | None:
        if jax.process_index() != 0:
            return None
        writer = self.cfg.writer.instantiate(
            directory=self.directory, total_steps=self.cfg.max_steps
        )
        stack.callback(writer.close)
        writer.resume(step)
        return writer

    def _write(self, step: int, values: dict[str, float], writer: Writer | None) -> None:
        self._metrics |= values
        if writer is not None:
            writer.write(step, values)

    def _speedometer(self) -> Speedometer:
        batch_size, length = self.input.batch_spec()["input_ids"].shape
        peak = peak_flops(detect_hardware(), self.cfg.compute_dtype)
        return Speedometer(
            tokens_per_step=batch_size * length,
            forward_flops_per_token=self.model.forward_flops_per_token(length),
            peak_flops=peak,
        )

    def _check_vocabulary(self) -> None:
        if self.input.vocab_size > self.model.vocab_size:
            raise ValueError(
                f"The input's tokenizer has {self.input.vocab_size} tokens, more than the model's "
                f"vocabulary of {self.model.vocab_size}; make the model's vocab_size at least as large."
            )
