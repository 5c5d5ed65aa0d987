"""A tree with the fields that rules and modifiers work on, without layers or a trainer."""

from __future__ import annotations

from trellax.config import Configurable, DType
from trellax.parallel import LogicalAxisRules, MeshRule, MeshShape, RematPolicy


class Attention(Configurable):
    class Config(Configurable.Config):
        num_heads: int = 8
        remat: RematPolicy.Config | None = None


class Block(Configurable):
    class Config(Configurable.Config):
        attention: Configurable.Config = Attention.default_config()
        remat: RematPolicy.Config | None = None


class WideBlock(Block):
    pass


BLOCKS = [Block.default_config(), WideBlock.default_config()]


class Model(Configurable):
    class Config(Configurable.Config):
        blocks: list[Block.Config] = BLOCKS


class Trainer(Configurable):
    class Config(Configurable.Config):
        model: Model.Config = Model.default_config()
        mesh_shape: MeshShape = MeshShape(fsdp=-1)
        axis_rules: LogicalAxisRules = LogicalAxisRules()
        mesh_rules: tuple[MeshRule, ...] = ()
        compute_dtype: DType = "float32"
        accumulation_steps: int = 1
