"""What `import trellax.config` brings in."""

import json
import subprocess
import sys

import pytest

_PROGRAM = """
import json, sys
before = set(sys.modules)
import trellax.config
print(json.dumps(sorted(set(sys.modules) - before)))
"""

_HEAVY = {
    "ast",
    "inspect",
    "json",
    "html",
    "difflib",
    "dataclasses",
    "importlib.metadata",
    "asyncio",
}


def test_importing_brings_in_no_third_party_and_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True
    )
    modules = set(json.loads(done.stdout)) - {"json", "json.decoder", "json.encoder"}
    foreign = {m.partition(".")[0] for m in modules} - set(sys.stdlib_module_names) - {"trellax"}
    assert foreign == set()
    assert not modules & _HEAVY
    own = {m for m in modules if m.startswith("trellax.")}
    assert all(m == "trellax.config" or m.startswith("trellax.config.") for m in own)


def test_every_public_name_is_there():
    import trellax.config as config

    for name in config.__all__:
        assert getattr(config, name) is not None
    assert sorted(config.__all__) == sorted(set(config.__all__))


def test_a_name_that_is_not_there_is_an_import_error():
    with pytest.raises(ImportError, match="no_such_name"):
        from trellax.config import no_such_name  # noqa: F401
