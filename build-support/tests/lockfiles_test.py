"""Lockfiles name artifacts of the public package index alone, whatever index the machine that wrote them uses."""

import re
from pathlib import Path

import pytest

LOCKFILES = sorted(Path("3rdparty/python").glob("*.lock"))


def test_every_resolve_is_locked():
    assert [path.stem for path in LOCKFILES] == ["build", "lint", "main"]


@pytest.mark.parametrize("lockfile", LOCKFILES, ids=lambda path: path.stem)
def test_artifacts_come_from_the_public_index(lockfile):
    origins = re.findall(r'"url": "(\w+:/*[^/"]*)', lockfile.read_text())
    assert set(origins) == {"https://files.pythonhosted.org"}


def test_main_resolve_holds_what_its_constraints_say():
    constraints = re.findall(
        r"^(\w+)==(.+)$", Path("3rdparty/python/constraints.txt").read_text(), re.M
    )
    locked = Path("3rdparty/python/main.lock").read_text()
    for name, version in constraints:
        assert (
            re.search(rf'"project_name": "{name}",.*?"version": "([^"]+)"', locked, re.S)[1]
            == version
        )
