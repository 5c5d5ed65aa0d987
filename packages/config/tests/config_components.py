"""A small family of components for the tests: a trainer of a transformer, without any arrays.

Usage: `trainer_config()` is complete, so it can be finalized.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from trellax.config import (
    REQUIRED,
    Config,
    ConfigModifier,
    Configurable,
    DType,
    InstantiableConfig,
    Required,
    config_for_function,
)


class Precision(enum.Enum):
    """How products are accumulated."""

    FAST = "fast"
    EXACT = "exact"


class Shape(NamedTuple):
    """A mesh's shape."""

    data: int
    model: int


def relu(x: float) -> float:
    return max(x, 0.0)


def gelu(x: float) -> float:
    return x


def adam(learning_rate: float, *, betas: tuple[float, float] = (0.9, 0.999), **extra: Any) -> Any:
    """Stands for an optimizer of another library."""
    return ("adam", learning_rate, betas, extra)


def lion(learning_rate: float, *, beta: float = 0.9) -> Any:
    return ("lion", learning_rate, beta)


class Schedule:
    """Stands for a class of another library."""

    def __init__(self, peak: float, steps: int = 10) -> None:
        self.peak, self.steps = peak, steps


class Plain(Config):
    """A group of fields that builds nothing."""

    sizes: tuple[int, ...] = ()


class BaseLayer(Configurable):
    """Interface of layers."""

    class Config(Configurable.Config):
        """What each layer has."""

        input_dim: Required[int] = REQUIRED
        dtype: DType = "float32"


class Norm(BaseLayer):
    """Scales to unit variance."""

    class Config(BaseLayer.Config):
        """Numerics of the norm."""

        eps: float = 1e-6


class FeedForward(BaseLayer):
    """Two projections with a nonlinearity between."""

    class Config(BaseLayer.Config):
        """Width and nonlinearity."""

        hidden_dim: int | None = None
        dropout: float = 0.0
        activation: Callable[[float], float] = relu

        def derive(self) -> None:
            if self.hidden_dim is None:
                self.set(hidden_dim=self.input_dim * 4)


class Router(BaseLayer):
    """Chooses experts."""

    class Config(BaseLayer.Config):
        """How many experts see a token."""

        top_k: int = 2


class MoE(BaseLayer):
    """A mixture of experts."""

    class Config(BaseLayer.Config):
        """Experts and their router."""

        num_experts: Required[int] = REQUIRED
        hidden_dim: int | None = None
        dropout: float = 0.0
        router: BaseLayer.Config = Router.default_config().set(top_k=1)

        def derive(self) -> None:
            self.provide(self.router, input_dim=self.input_dim)


class Attention(BaseLayer):
    """Attention."""

    class Config(BaseLayer.Config):
        """Heads."""

        num_heads: int = 4
        dropout: float = 0.0
        kind: Literal["full", "sliding"] = "full"

        def check(self) -> None:
            if self.input_dim % self.num_heads:
                raise ValueError(
                    f"input_dim {self.input_dim} is no multiple of num_heads {self.num_heads}."
                )


class Layer(BaseLayer):
    """A transformer layer."""

    class Config(BaseLayer.Config):
        """The parts of a layer; each may be of any class."""

        attention: BaseLayer.Config = Attention.default_config()
        feed_forward: BaseLayer.Config = FeedForward.default_config()
        norm: BaseLayer.Config = Norm.default_config().set(eps=1e-5)

        def derive(self) -> None:
            for child in (self.attention, self.feed_forward, self.norm):
                self.provide(child, input_dim=self.input_dim)


class Decoder(Configurable):
    """A stack of layers."""

    class Config(Configurable.Config):
        """Width and layers."""

        dim: Required[int] = REQUIRED
        layers: list[BaseLayer.Config] = [Layer.default_config(), Layer.default_config()]
        by_name: dict[str, BaseLayer.Config] = {}

        def derive(self) -> None:
            for layer in (*self.layers, *self.by_name.values()):
                self.provide(layer, input_dim=self.dim)


class Trainer(Configurable):
    """Trains a model."""

    class Config(Configurable.Config):
        """What a run consists of."""

        max_steps: int = 100
        name: str | None = None
        model: Decoder.Config = Decoder.default_config()
        optimizer: InstantiableConfig = config_for_function(adam)
        precision: Precision = Precision.FAST
        mesh: Shape = Shape(1, 1)
        sizes: tuple[int, ...] = (1, 2)
        window: tuple[int, int] | None = None
        weights: dict[str, float] = {}
        rules: list[tuple[str, int | None]] = []
        modifiers: list[ConfigModifier.Config] = []
        extra: Any = None
        ratio: float = 0.5
        verbose: bool = False


def trainer_config() -> Trainer.Config:
    """Returns a complete config."""
    cfg = Trainer.default_config().set(name="tiny")
    cfg.model.dim = 8
    cfg.optimizer.learning_rate = 1e-3
    return cfg


ROOTS = ("trellax", "tests")
