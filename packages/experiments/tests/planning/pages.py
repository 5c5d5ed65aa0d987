"""A page taken apart: whether its tags match, its text, its elements, the JSON that it holds."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

_VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})


class Page(HTMLParser):
    """Reads a page; `ValueError` where an end tag matches no start tag.

    Attributes:
        elements: (tag, attributes) of each element, in order.
        texts: the text of each element's own, by tag.
    """

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        if self._open:
            raise ValueError(f"never closed: {self._open}")

    def of_class(self, css: str) -> list[dict[str, str | None]]:
        """Returns the attributes of the elements with a class."""
        return [a for _, a in self.elements if css in (a.get("class") or "").split()]

    def json(self) -> Any:
        """Returns what the page's block of JSON holds."""
        return json.loads("".join(self.texts["script"]))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            raise ValueError(f"</{tag}> at {self.getpos()} closes nothing")

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.setdefault(self._open[-1], []).append(data)
