"""Writes the golden files of every registered experiment anew, for a reviewer to see what changed.

./pants run packages/experiments/tests/refresh_goldens.py
"""

from __future__ import annotations

from pathlib import Path

from trellax.experiments import experiment_names
from trellax.experiments.goldens import golden_texts

FOLDER = Path(__file__).parent / "goldens"


def expected_files() -> dict[str, str]:
    """Returns {file name: text} of all golden files."""
    return {
        f"{name}.{suffix}": text
        for name in experiment_names()
        for suffix, text in golden_texts(name).items()
    }


def main() -> None:
    """Writes what differs, removes what no experiment has any more, and says so."""
    expected = expected_files()
    FOLDER.mkdir(exist_ok=True)
    present = {file.name: file.read_text() for file in FOLDER.glob("*.txt")}
    for name in sorted(present.keys() - expected.keys()):
        (FOLDER / name).unlink()
        print(f"removed {name}")
    for name, text in expected.items():
        if present.get(name) != text:
            (FOLDER / name).write_text(text)
            print(f"wrote {name}")
    print(f"{len(expected)} golden files are up to date in {FOLDER}")


if __name__ == "__main__":
    main()
