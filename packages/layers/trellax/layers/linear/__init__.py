"""Linear maps: of the last dim, and of several dims at once."""

from trellax.layers.linear.linear import Linear
from trellax.layers.linear.projection import Projection

__all__ = ["Linear", "Projection"]
