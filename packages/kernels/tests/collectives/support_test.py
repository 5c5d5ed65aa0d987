"""Whether a collective can be used follows from the platform that code is traced for."""

from __future__ import annotations

import jax
import pytest

from trellax.kernels.collectives import ragged_all_to_all_refusal


def mesh_of(platform: str) -> jax.sharding.AbstractMesh:
    device = jax.sharding.AbstractDevice("some kind", None, platform)
    auto = (jax.sharding.AxisType.Auto,)
    return jax.sharding.AbstractMesh((4,), ("expert",), axis_types=auto, abstract_device=device)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_tpu_and_gpu_have_a_ragged_all_to_all(platform: str) -> None:
    with jax.sharding.use_abstract_mesh(mesh_of(platform)):
        assert ragged_all_to_all_refusal() is None


@pytest.mark.parametrize("platform", ["cpu", "neuron"])
def test_others_say_that_they_lack_it(platform: str) -> None:
    with jax.sharding.use_abstract_mesh(mesh_of(platform)):
        assert ragged_all_to_all_refusal() == (
            f"the compiler for {platform} has no ragged all-to-all; tpu and gpu have"
        )
