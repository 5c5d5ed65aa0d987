"""Boundaries between packages, families and third parties hold: a planted violation of each kind is refused.

The test makes a repository of this one's build files and a few stub modules, plants all violations at once
and asks Pants once. What is allowed is planted too, so that a rule that refuses everything would not pass.
"""

import re
import subprocess
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

# Source file -> its text: the ends of the edges below.
STUBS = {
    "config/trellax/config/__init__.py": "from trellax.config.tree import Node\n",
    "config/trellax/config/tree.py": "Node = object\n",
    "kernels/trellax/kernels/__init__.py": "",
    "layers/trellax/layers/__init__.py": "",
    "layers/trellax/layers/attention/__init__.py": "from trellax.layers.attention.core import Core\n",
    "layers/trellax/layers/attention/core.py": "Core = object\n",
    "runtime/trellax/runtime/__init__.py": "",
    "runtime/trellax/runtime/checkpoint/__init__.py": "",
    "runtime/trellax/runtime/checkpoint/store/writer.py": "Writer = object\n",
}

# Source file, the import planted in it, and the end of the edge that is refused.
VIOLATIONS = {
    "package edge, upwards": (
        "layers/trellax/layers/planted_upwards.py",
        "import trellax.runtime",
        "runtime/trellax/runtime/__init__.py",
    ),
    "package edge, sideways": (
        "kernels/trellax/kernels/planted_sideways.py",
        "import trellax.config",
        "config/trellax/config/__init__.py",
    ),
    "private module of another package": (
        "layers/trellax/layers/planted_private.py",
        "import trellax.config.tree",
        "config/trellax/config/tree.py",
    ),
    "private module of another package, from a test": (
        "layers/tests/planted_private_test.py",
        "import trellax.config.tree",
        "config/trellax/config/tree.py",
    ),
    "family's private module": (
        "layers/trellax/layers/transformer/planted_family.py",
        "import trellax.layers.attention.core",
        "layers/trellax/layers/attention/core.py",
    ),
    "family's private module, from the package's root": (
        "layers/trellax/layers/planted_root.py",
        "import trellax.layers.attention.core",
        "layers/trellax/layers/attention/core.py",
    ),
    "family's private module, in a folder of the family": (
        "runtime/trellax/runtime/planted_nested.py",
        "import trellax.runtime.checkpoint.store.writer",
        "runtime/trellax/runtime/checkpoint/store/writer.py",
    ),
    "third party in config": (
        "config/trellax/config/planted_numpy.py",
        "import numpy",
        "#numpy",
    ),
    "pallas outside kernels": (
        "layers/trellax/layers/planted_pallas.py",
        "from jax.experimental import pallas as pl",
        "3rdparty/python:pallas",
    ),
    "orbax outside runtime": (
        "experiments/trellax/experiments/planted_orbax.py",
        "import orbax.checkpoint",
        "#orbax-checkpoint",
    ),
    "grain outside runtime": (
        "layers/trellax/layers/planted_grain.py",
        "import grain.python",
        "#grain",
    ),
    "kubernetes outside runtime": (
        "inference/trellax/inference/planted_kubernetes.py",
        "import kubernetes",
        "#kubernetes",
    ),
    "HTTP stack outside inference": (
        "runtime/trellax/runtime/planted_http.py",
        "import starlette",
        "#starlette",
    ),
    "command-line libraries in layers": (
        "layers/trellax/layers/planted_rich.py",
        "import rich",
        "#rich",
    ),
    "test libraries in sources": (
        "runtime/trellax/runtime/planted_hypothesis.py",
        "import hypothesis",
        "#hypothesis",
    ),
}

# Source file and its imports, all of which must pass.
ALLOWED = {
    "config/tests/allowed_test.py": [
        "hypothesis",
        "pytest",
        "trellax.config",
        "trellax.config.tree",
    ],
    "kernels/trellax/kernels/attention/allowed.py": ["jax", "jax.experimental.pallas.tpu", "numpy"],
    "layers/trellax/layers/attention/allowed.py": [
        "jax",
        "trellax.config",
        "trellax.layers.attention.core",
    ],
    "layers/trellax/layers/transformer/allowed.py": ["trellax.kernels", "trellax.layers.attention"],
    "layers/tests/attention/allowed_test.py": ["trellax.layers.attention.core", "trellax.config"],
    "runtime/trellax/runtime/checkpoint/allowed.py": [
        "orbax.checkpoint",
        "trellax.runtime.checkpoint.store.writer",
    ],
    "runtime/trellax/runtime/input/allowed.py": [
        "grain",
        "absl.logging",
        "rich.progress",
        "tokenizers",
    ],
    "experiments/trellax/experiments/allowed.py": [
        "absl.app",
        "rich",
        "trellax.layers.attention",
        "trellax.runtime",
    ],
    "inference/trellax/inference/allowed.py": ["httpx", "starlette", "uvicorn", "trellax.layers"],
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """What `./pants lint` says of a repository of this one's build files, the stubs, the allowed and the violations."""
    root = tmp_path_factory.mktemp("planted") / "repository"
    # The working folder of a test holds the files that it depends on, at their paths in the repository.
    copytree(Path.cwd(), root, ignore=ignore_patterns("tests", ".*cache"))
    imports = {
        path: "".join(f"import {name}\n" for name in names) for path, names in ALLOWED.items()
    }
    planted = {path: f"{text}\n" for path, text, _ in VIOLATIONS.values()}
    for path, text in {**STUBS, **imports, **planted}.items():
        file = root / "packages" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    command = ["./pants", "--no-pantsd", "--no-colors", "lint", "--only=boundaries", "::"]
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert answer.returncode == 1, answer.stderr
    return answer.stderr


@pytest.mark.parametrize(("source", "statement", "end"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_violation_is_refused_by_both_names(refusals, source, statement, end):
    refused_edge = rf"packages/{re.escape(source)}:\S+ -> \S+ \S*{re.escape(end)}(:|$)"
    assert re.search(refused_edge, refusals, re.M), f"`{statement}` passed in {source}:\n{refusals}"


def test_nothing_else_is_refused(refusals):
    refused = set(re.findall(r"^packages/(\S+?):\S+ has 1 dependency violation", refusals, re.M))
    assert refused == {source for source, _, _ in VIOLATIONS.values()}
