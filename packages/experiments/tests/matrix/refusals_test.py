"""What is not supported is refused when the config is finalized: with the node, the reason and the nearest that works."""

import pytest

from tests.matrix.one_step import tiny_trainer
from tests.matrix.refusals import REFUSALS, Refused
from trellax.config import finalize


@pytest.mark.parametrize("refused", REFUSALS, ids=lambda r: r.name)
def test_it_is_refused_before_anything_is_traced(refused: Refused) -> None:
    cfg = tiny_trainer(has_experts=refused.has_experts).set(mesh_shape=refused.mesh)
    refused.change(cfg)
    with pytest.raises(ValueError) as error:
        finalize(cfg)
    message = str(error.value)
    assert refused.where in message
    for part in refused.says:
        assert part in message, message
