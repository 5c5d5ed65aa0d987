"""docs/support.md says what the matrix tests."""

from pathlib import Path

from tests.matrix.combinations import combinations
from tests.matrix.support_page import page, uses_by_kind

ROOT = Path(__file__).parents[3]


def test_the_page_is_what_the_matrix_makes() -> None:
    text = (ROOT / "docs" / "support.md").read_text()
    assert text == page(), "renew it: ./pants run packages/experiments/tests/matrix/support_page.py"


def test_the_matrix_is_as_large_as_advertised() -> None:
    names = [combination.name for combination in combinations()]
    assert len(set(names)) == len(names) >= 40
    assert min(uses_by_kind().values()) >= 6
