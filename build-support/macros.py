"""What every package of this repository declares in its BUILD file, and the edges between packages.

    trellax_package(version="0.1.0", description="…", may_import=["config"])

in packages/<p>/BUILD declares these targets, over the whole tree of the package:

    :src          trellax/**/*.py           what the wheel holds, with …
    :data         everything else there     … its package data, found with importlib.resources
    :tests        tests/*/**/*_test.py      tests that mirror a family; they run when what they import changes
    :all_tests    tests/*_test.py           tests of the package as a whole, README's example too; they see all of it
    :test_utils   other tests/**/*.py       conftest.py and helpers, imported as `tests.helper`
    :test_data    everything else there     golden files: beside the test, under `Path(__file__).parent`
    :benchmarks   benchmarks/**/*.py        ./pants run packages/<p>/benchmarks/NAME.py
    :docs         *.md                      at packages/<p>/ when tests run
    :dist         the wheel trellax-<p>

and these rules of visibility, which `./pants lint`, `test`, `package` … refuse to break:

    - between packages: only what `may_import` names, and of that only interfaces: `trellax/<p>/__init__.py` and
      `trellax/<p>/<family>/__init__.py`
    - within a package: a folder (family) under `trellax/<p>/` keeps its files other than `__init__.py` to itself;
      files directly under `trellax/<p>/` are there for the whole package
    - tests and benchmarks reach everything in their package, and the interfaces of what their package may import

Third-party gates are beside the requirements, in 3rdparty/python/BUILD.
"""


def trellax_package(
    version,
    description,
    may_import=(),
    called_as_exported=(),
    imports_by_name=False,
    third_party=True,
    entry_points=None,
    oldest_python="3.12",
):
    """Declares one package; call it once, in packages/<p>/BUILD.

    Args:
        version: Of the wheel. Other wheels of this repository ask for `~=version`.
        description: One line for the package index.
        may_import: Names of the packages that sources, tests and benchmarks may import.
        called_as_exported: Files under trellax/<p>/ that hold a function of their own name, which an `__init__.py`
            exports. Pants cannot tell `from trellax.p import name` for the function from the same for the module, so
            these files count as part of the interface.
        imports_by_name: Whether sources import one another by names found at run time, which Pants cannot infer. Each
            then comes with the whole package.
        third_party: Whether sources may import any third-party module at all.
        entry_points: Of the wheel, as `python_distribution` takes them.
        oldest_python: That the wheel runs on. The build runs on 3.12; .ci/jax_versions tests what is older.
    """
    home = build_file_dir()
    package = str(home).split("/")[-1]
    code = f"//packages/{package}/trellax/{package}"

    python_sources(
        name="src",
        sources=["trellax/**/*.py"],
        dependencies=[":data", ":src"] if imports_by_name else [":data"],
    )
    resources(
        name="data",
        sources=["trellax/**/*", "!trellax/**/*.py", "!trellax/**/BUILD"],
    )
    python_tests(
        name="tests",
        sources=["tests/*/**/*_test.py", "tests/*/**/test_*.py"],
        dependencies=[":test_data", ":docs"],
        # Test modules are called alike in different packages, which mypy cannot tell apart.
        skip_mypy=True,
    )
    python_tests(
        name="all_tests",
        sources=["tests/*_test.py", "tests/test_*.py"],
        dependencies=[":src", ":test_data", ":docs", "//:docs"],
        skip_mypy=True,
    )
    python_test_utils(
        name="test_utils",
        sources=["tests/**/*.py", "!tests/**/*_test.py", "!tests/**/test_*.py"],
        dependencies=[":test_data"],
        skip_mypy=True,
    )
    resources(
        name="test_data",
        sources=["tests/**/*", "!tests/**/*.py", "!tests/**/BUILD"],
    )
    python_sources(
        name="benchmarks",
        sources=["benchmarks/**/*.py"],
        skip_mypy=True,
    )
    resources(name="docs", sources=["*.md"])
    python_distribution(
        name="dist",
        dependencies=[":src"],
        provides=python_artifact(
            name=f"trellax-{package}",
            version=version,
            description=description,
            author="The Trellax authors",
            license="Apache-2.0",
            python_requires=f">={oldest_python}",
            classifiers=[
                "License :: OSI Approved :: Apache Software License",
                "Programming Language :: Python :: 3.12",
                "Topic :: Scientific/Engineering :: Artificial Intelligence",
            ],
        ),
        long_description_path=f"packages/{package}/README.md",
        entry_points=entry_points or {},
        sdist=False,
    )

    interfaces = [f"//packages/{name}/trellax/{name}/**" for name in may_import]
    own_tests = [f"//packages/{package}/tests/**", f"//packages/{package}/benchmarks/**"]
    __dependencies_rules__(
        # What sources import. That of another package only its interface is meant is that package's own rule, below.
        (
            f"{code}/**",
            f"//packages/{package}/**",
            *interfaces,
            *(["//3rdparty/python/**"] if third_party else []),
            "!*",
        ),
        # What tests, benchmarks and the wheel need.
        (
            "*",
            f"//packages/{package}/**",
            *interfaces,
            "//:docs",
            "//3rdparty/python/**",
            "!*",
        ),
    )
    __dependents_rules__(
        # The interfaces, which a package that may import this one can see.
        ([f"{code}/{path}" for path in ("__init__.py", "*/__init__.py", *called_as_exported)], "*"),
        # A family's other files: for the family ("." is the folder of the file itself), tests and benchmarks.
        *[
            (
                f"{code}/{folders}/*",
                f"{up}/**",
                *own_tests,
                # The targets of this BUILD file, which own the files.
                f"//packages/{package}",
                "!*",
            )
            for folders, up in (("*", "."), ("*/*", ".."), ("*/*/*", "../.."))
        ],
        # Files that the whole package shares, and its test helpers and data.
        ([f"{code}/*", f"//packages/{package}/*/**"], f"//packages/{package}/**", "!*"),
        # The targets of the BUILD file: the wheel above all.
        ("*", "*"),
    )


# Experiments that can be run by their name: those of the registry in packages/experiments.
EXPERIMENTS = (
    "llama2_13b",
    "llama2_70b_tpu",
    "llama2_7b_tpu",
    "llama3_1_405b",
    "llama3_1_70b",
    "llama3_1_8b",
    "llama3_2_1b",
    "llama3_2_3b",
    "llama3_8b",
    "llama_30m_local",
    "mixtral_8x7b",
    "qwen3_0_6b",
    "qwen3_14b",
    "qwen3_1_7b",
    "qwen3_30b_a3b",
    "qwen3_32b",
    "qwen3_4b",
    "qwen3_8b",
    "smollm2_135m",
)


def experiment_targets(code):
    """Declares a target for each experiment.

    Args:
        code: Address of the sources of packages/experiments.
    """
    for name in EXPERIMENTS:
        experiment(name=name, dependencies=[code])
