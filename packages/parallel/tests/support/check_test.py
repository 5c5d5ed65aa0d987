"""Every node is asked whether it runs on a mesh, and every objection is told."""

import pytest

from trellax.config import Config
from trellax.parallel import RunShape, check_mesh, mesh_refusals


class Attention(Config):
    num_heads: int = 6

    def mesh_refusal(self, run: RunShape) -> str | None:
        if self.num_heads % run.size("seq"):
            return f"{self.num_heads} heads do not divide among seq={run.size('seq')}; use seq=3."
        return None


class Stages(Config):
    layer: Config = Attention()

    def used_mesh_axes(self) -> tuple[str, ...]:
        return ("pipeline",)


class Model(Config):
    stack: Config = Attention()
    other: Config = Attention(num_heads=4)


def test_a_mesh_that_all_nodes_accept_passes():
    check_mesh(Model(), RunShape({"fsdp": 8, "seq": 2}))


def test_every_objection_is_told_with_its_path():
    with pytest.raises(ValueError) as error:
        check_mesh(Model(), RunShape({"data": 2, "seq": 4}), path="model")
    message = str(error.value)
    assert "data=2, seq=4" in message
    assert "model.stack: 6 heads do not divide among seq=4; use seq=3." in message
    assert "model.other" not in message


def test_an_axis_that_nobody_uses_is_refused():
    (refusal,) = mesh_refusals(Model(), RunShape({"pipeline": 4}), path="model")
    assert refusal.path == "model" and "PipelinedStack" in refusal.reason
    assert mesh_refusals(Stages(), RunShape({"pipeline": 4})) == []


def test_sizes_that_are_not_known_yet_count_as_one():
    assert mesh_refusals(Model(), RunShape({})) == []
    assert RunShape({}).describe() == "one device"
