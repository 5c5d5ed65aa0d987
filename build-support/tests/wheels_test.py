"""Wheels stand alone: each asks for exactly what it imports, in ranges, and works where nothing else is installed."""

import ast
import email
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

# Pants puts the wheels of all packages into the working folder.
WHEELS = {
    path.name.split("-")[0].removeprefix("trellax_"): path.resolve()
    for path in Path().glob("*.whl")
}

RUN_ON_OLDER_PYTHON = ["config", "kernels", "layers", "parallel"]  # See .ci/jax_versions.
PACKAGES = ["config", "experiments", "inference", "kernels", "layers", "parallel", "runtime"]

# Where the imported name is not the distribution's.
DISTRIBUTION_OF_MODULE = {"absl": "absl-py", "jaxlib": "jax", "orbax": "orbax-checkpoint"}


def metadata(package):
    """The METADATA of a package's wheel: headers, and README.md as the payload."""
    with zipfile.ZipFile(WHEELS[package]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_string(wheel.read(name).decode())


def requirements(package):
    """Distribution name -> specifier, of all that a package's wheel asks for."""
    stated = metadata(package).get_all("Requires-Dist", [])
    parts = (
        re.fullmatch(r"([\w.-]+)\s*\(?(.*?)\)?", requirement).groups() for requirement in stated
    )
    return {normal(name): specifier for name, specifier in parts}


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def imported_distributions(package):
    """Names of the distributions that the modules in a package's wheel import from."""
    found = set()
    with zipfile.ZipFile(WHEELS[package]) as wheel:
        for name in wheel.namelist():
            if name.endswith(".py"):
                found |= set(imported_modules(wheel.read(name).decode()))
    roots = {module.split(".")[0] for module in found if not module.startswith("trellax.")}
    third_party = {
        DISTRIBUTION_OF_MODULE.get(root, root)
        for root in roots - sys.stdlib_module_names - {"trellax"}
    }
    first_party = {
        "trellax-" + module.split(".")[1] for module in found if module.startswith("trellax.")
    }
    return {normal(name) for name in third_party | first_party} - {f"trellax-{package}"}


def first_parties(names):
    return {name for name in names if name.startswith("trellax-")}


def third_parties(names):
    return set(names) - first_parties(names)


def imported_modules(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def example(package):
    """The first Python example of a package's README.md, as the wheel carries it."""
    return re.search(r"```python\n(.*?)```", metadata(package).get_payload(), re.S)[1]


@pytest.fixture
def clean_environment(tmp_path):
    """A function that runs a program with the Python of a new, empty virtual environment."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)

    def run(*args):
        command = [tmp_path / "venv/bin/python", "-I", *map(str, args)]
        answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer.stdout

    return run


def installed(run):
    listing = run("-m", "pip", "list", "--format=freeze", "--disable-pip-version-check")
    return {normal(line.split("==")[0]) for line in listing.split()} - {
        "pip",
        "setuptools",
        "wheel",
    }


def test_every_package_has_a_wheel():
    assert sorted(WHEELS) == PACKAGES


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_asks_for_exactly_the_third_parties_that_it_imports(package):
    assert third_parties(requirements(package)) == third_parties(imported_distributions(package))


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_asks_for_no_package_that_its_imports_do_not_bring(package):
    """Pants writes out the packages that come through others, too: no more is installed than without."""
    asked = first_parties(requirements(package))
    imported = first_parties(imported_distributions(package))
    brought = {
        name
        for direct in imported
        for name in first_parties(requirements(direct.removeprefix("trellax-")))
    }
    assert imported <= asked <= imported | brought


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_asks_for_ranges(package):
    pinned = {
        name: specifier for name, specifier in requirements(package).items() if "==" in specifier
    }
    unbounded = {name for name, specifier in requirements(package).items() if not specifier}
    assert not pinned
    assert not unbounded


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_says_what_it_is(package):
    stated = metadata(package)
    oldest = "3.11" if package in RUN_ON_OLDER_PYTHON else "3.12"
    assert stated["Requires-Python"] == f">={oldest}"
    assert stated["License"] == "Apache-2.0"
    assert stated["Summary"]
    assert stated.get_payload().startswith("# ")


def test_config_alone_runs_its_example(clean_environment):
    assert requirements("config") == {}
    clean_environment(
        "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", WHEELS["config"]
    )
    assert installed(clean_environment) == {"trellax-config"}
    clean_environment("-c", example("config"))


def test_layers_with_little_else_runs_its_example(clean_environment):
    clean_environment(
        "-m", "pip", "install", "--quiet", "--find-links", WHEELS["layers"].parent, WHEELS["layers"]
    )
    here = installed(clean_environment)
    assert {name for name in here if name.startswith("trellax-")} == {
        "trellax-config",
        "trellax-kernels",
        "trellax-layers",
        "trellax-parallel",
    }
    assert here.isdisjoint(
        {"grain", "kubernetes", "orbax-checkpoint", "pyarrow", "rich", "tokenizers"}
    )
    clean_environment("-c", example("layers"))
