"""Every registered experiment's train step, at a tiny size, is a program for TPU, CUDA and Trainium.

On TPU attention is the splash kernel in bfloat16. For CUDA the step is exported in float32: cuDNN's kernels, which serve
bfloat16, need its libraries even to be exported. Nothing is compiled here; `trellax plan` does that.
"""

from __future__ import annotations

import jax
import pytest

from tests.export.tiny_programs import arguments, tiny_program
from trellax.experiments.registry import experiment_names
from trellax.parallel.planning import neuron_lint


@pytest.mark.parametrize("name", experiment_names())
def test_it_is_exported_for_tpu_with_its_kernels(name: str) -> None:
    program = tiny_program(name, "tpu-v5p-512", compute_dtype="bfloat16")
    with program.placement.scope():
        exported = jax.export.export(jax.jit(program.step), platforms=["tpu"])(*arguments(program))
    assert exported.platforms == ("tpu",)
    assert "tpu_custom_call" in exported.mlir_module()


@pytest.mark.parametrize("name", experiment_names())
def test_it_is_exported_for_cuda(name: str) -> None:
    program = tiny_program(name, "gpu-h100-256", compute_dtype="float32")
    with program.placement.scope():
        exported = jax.export.export(jax.jit(program.step), platforms=["cuda"])(*arguments(program))
    assert exported.platforms == ("cuda",)
    assert "tpu_custom_call" not in exported.mlir_module()


@pytest.mark.parametrize("name", experiment_names())
def test_it_is_lowered_for_trainium_and_breaks_none_of_its_limits(name: str) -> None:
    program = tiny_program(name, "trn2-64", compute_dtype="bfloat16")
    traced = program.trace()
    text = traced.lower(lowering_platforms=("neuron",)).as_text()
    assert "stablehlo.dot_general" in text
    assert neuron_lint(traced.jaxpr, stablehlo=text) == []
