"""How a text is cut into documents: each rule is a component, so a source takes any of them.

    AtHeadings.default_config().set(heading=r"^CHAPTER .+$")  # one document a chapter

Rules only cut. No rule changes a character within a document, but white space around it is dropped
and documents that are empty after that are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from trellax.config import REQUIRED, Configurable, Required


class Splitter(Configurable):
    """Interface of all rules."""

    class Config(Configurable.Config):
        """Fields of every rule: none."""

    def split(self, text: str) -> list[str]:
        """Returns the documents of `text`, in order; none of them is empty."""
        stripped = (piece.strip() for piece in self._pieces(text))
        return [piece for piece in stripped if piece]

    def _pieces(self, text: str) -> Iterator[str]:
        raise NotImplementedError


class WholeText(Splitter):
    """A file is one document."""

    def _pieces(self, text: str) -> Iterator[str]:
        yield text


class AtHeadings(Splitter):
    """A document starts at each heading and holds it; text before the first one is a document."""

    class Config(Splitter.Config):
        """The rule.

        Attributes:
            heading: regular expression; `^` and `$` match at lines.
        """

        heading: Required[str] = REQUIRED

        def check(self) -> None:
            check_pattern(self.heading)

    cfg: Config

    def _pieces(self, text: str) -> Iterator[str]:
        starts = [m.start() for m in re.finditer(self.cfg.heading, text, re.MULTILINE)]
        for start, stop in zip([0, *starts], [*starts, len(text)]):
            yield text[start:stop]


class AtSeparators(Splitter):
    """Documents are what lies between separators; the separators are dropped."""

    class Config(Splitter.Config):
        """The rule.

        Attributes:
            separator: regular expression; `^` and `$` match at lines. The default is a line that
                holds `<|endoftext|>` alone.
        """

        separator: str = r"^<\|endoftext\|>$"

        def check(self) -> None:
            check_pattern(self.separator)

    cfg: Config

    def _pieces(self, text: str) -> Iterator[str]:
        start = 0
        for match in re.finditer(self.cfg.separator, text, re.MULTILINE):
            yield text[start : match.start()]
            start = match.end()
        yield text[start:]


class ParagraphGroups(Splitter):
    """Documents are runs of whole paragraphs (separated by blank lines)."""

    class Config(Splitter.Config):
        """The rule.

        Attributes:
            min_characters: a document ends with the paragraph that reaches this length; 1 makes
                every paragraph a document.
        """

        min_characters: int = 2000

        def check(self) -> None:
            if self.min_characters < 1:
                raise ValueError(f"min_characters is {self.min_characters}; it must be positive.")

    cfg: Config

    def _pieces(self, text: str) -> Iterator[str]:
        start = 0
        for blank in re.finditer(r"\n[ \t]*\n\s*", text):
            if blank.start() - start >= self.cfg.min_characters:
                yield text[start : blank.start()]
                start = blank.end()
        yield text[start:]


def check_pattern(pattern: str) -> None:
    """Raises ValueError unless `pattern` is a regular expression."""
    try:
        re.compile(pattern, re.MULTILINE)
    except re.error as e:
        raise ValueError(f"{pattern!r} is not a regular expression: {e}.") from None
