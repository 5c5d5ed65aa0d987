"""Output that matches a JSON schema, a regular expression, a grammar or a list of choices."""

from trellax.inference.constraints.compiler import ConstraintCompiler, ConstraintLimits
from trellax.inference.constraints.matcher import Matcher

__all__ = ["ConstraintCompiler", "ConstraintLimits", "Matcher"]
