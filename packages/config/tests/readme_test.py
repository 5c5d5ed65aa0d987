"""The examples of README.md run, in order, and print what it says they print."""

import contextlib
import io
import re
import sys
import types
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_examples_run_and_print_what_the_readme_says():
    text = README.read_text()
    module = types.ModuleType("readme_examples")
    sys.modules[module.__name__] = module  # Annotations are looked up in the module of a class.
    try:
        blocks = list(
            re.finditer(
                r"^```python\n(.*?)^```\n(\n?prints\n\n((?: {4}[^\n]*\n|\n)*))?", text, re.M | re.S
            )
        )
        assert len(blocks) >= 8
        for block in blocks:
            _check(block, module)
    finally:
        del sys.modules[module.__name__]


def _check(block, module):
    line = block.string.count("\n", 0, block.start()) + 1
    code = compile("\n" * line + block[1], str(README), "exec")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, module.__dict__)
    said = re.sub(r"^ {4}", "", block[3] or "", flags=re.M)
    assert printed.getvalue().strip() == said.strip()
