"""What can go wrong with weights of others; each message names the file or tensor and the way out.

except WeightsMismatchError as e: ...  # the weights are of another model
"""

from __future__ import annotations

from collections.abc import Sequence


class WeightsError(Exception):
    """Base of every error of weights."""


class WeightsFormatError(WeightsError, ValueError):
    """A file is cut short, damaged or not what its name says."""


class UnsupportedWeightsError(WeightsError, ValueError):
    """A file asks for something that is not implemented here; names it and what there is."""


class WeightsMismatchError(WeightsError, ValueError):
    """Weights and model differ; lists all differences, before anything is read."""


def refuse_if_any(problems: Sequence[str], heading: str, remedy: str) -> None:
    """Raises `WeightsMismatchError` with all problems, if there are any."""
    if problems:
        count = "1 difference" if len(problems) == 1 else f"{len(problems)} differences"
        listed = "\n  ".join(problems)
        raise WeightsMismatchError(f"{heading}; {count}:\n  {listed}\n{remedy}")
