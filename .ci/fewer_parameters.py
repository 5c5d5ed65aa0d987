"""A pytest plugin: runs every test, but of its sets of parameters only a few.

    PYTHONPATH=.ci pytest -p fewer_parameters --parameter-sets=2

For runs whose question is whether code works at all with other versions of what it needs. The sets are taken at even distances
from the first to the last, the same ones each time.
"""

from __future__ import annotations

import collections

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--parameter-sets", type=int, default=2, help="sets that are run of each test")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    most = config.getoption("--parameter-sets")
    of_test = collections.defaultdict(list)
    for item in items:
        of_test[item.nodeid.partition("[")[0]].append(item)
    kept = {item for sets in of_test.values() for item in _spread(sets, most)}
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def _spread(sets: list[pytest.Item], most: int) -> list[pytest.Item]:
    if len(sets) <= most:
        return sets
    return [sets[round(i * (len(sets) - 1) / max(most - 1, 1))] for i in range(most)]
