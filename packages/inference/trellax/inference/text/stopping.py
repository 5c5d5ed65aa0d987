"""`StopWatcher`: lets text pass until a stop text is complete.

    watcher = StopWatcher(("\\n\\n", "User:"))
    watcher.feed("Hello.\\n")  # ("Hello.", None): the line break may begin a stop text
    watcher.feed("\\nBye")  # ("", "\\n\\n")

The stop text that is complete first ends the text; of several that are complete at the same character,
the longest does. So the result depends on the text alone, not on how it was cut into pieces. The
automaton is that of Aho and Corasick (1975): each character costs a constant, whatever the stop texts.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence


class StopWatcher:
    """Cuts a text that arrives in pieces where a stop text begins.

    Attributes:
        stopped_by: the stop text that was found, None if none was.
    """

    def __init__(self, stop: Sequence[str], *, include_stop: bool = False):
        """Starts at the beginning of a text.

        Args:
            stop: the stop texts, none of them empty.
            include_stop: whether the text keeps the one that ends it.
        """
        assert all(stop), "an empty stop text would end every text at once"
        self.stopped_by: str | None = None
        self._stop = tuple(stop)
        self._include_stop = include_stop
        self._nodes = _automaton(self._stop)
        self._node = self._nodes[0]
        self._held = ""
        self._beginnings = frozenset(text[0] for text in stop)

    def feed(self, text: str) -> tuple[str, str | None]:
        """Takes the next piece; returns what is sure to be text, and the stop text that ends it, if one does.

        What may be the beginning of a stop text is held back until it is known not to be. Pieces that
        follow a stop text are dropped.
        """
        if self.stopped_by is not None:
            return "", self.stopped_by
        if not self._held and self._beginnings.isdisjoint(text):
            return text, None  # The usual case, without a look at each character.
        seen = self._held + text
        for end, character in enumerate(text, start=len(self._held) + 1):
            self._node = self._after(character)
            if self._node.stop is not None:
                return self._end(seen, end)
        passed = len(seen) - self._node.depth
        self._held = seen[passed:]
        return seen[:passed], None

    def flush(self) -> str:
        """Returns what is held back, for a text that ends here."""
        held, self._held = self._held, ""
        self._node = self._nodes[0]
        return held

    def _after(self, character: str) -> _Node:
        node = self._node
        while character not in node.children:
            if node.depth == 0:
                return node
            node = self._nodes[node.fallback]
        return self._nodes[node.children[character]]

    def _end(self, seen: str, end: int) -> tuple[str, str]:
        assert self._node.stop is not None
        self.stopped_by = self._stop[self._node.stop]
        self._held = ""
        return seen[: end if self._include_stop else end - len(self.stopped_by)], self.stopped_by


@dataclasses.dataclass
class _Node:
    """A beginning of a stop text, reached when it is the longest one that the text so far ends with.

    Attributes:
        depth: its length.
        children: next character → the longer beginning.
        fallback: the longest beginning that it ends with, itself left out.
        stop: the longest stop text that it ends with, None if with none.
    """

    depth: int = 0
    children: dict[str, int] = dataclasses.field(default_factory=dict)
    fallback: int = 0
    stop: int | None = None


def _automaton(stop: Sequence[str]) -> list[_Node]:
    """Returns the nodes; the first is the empty beginning."""
    nodes = [_Node()]
    for index, text in enumerate(stop):
        at = 0
        for depth, character in enumerate(text, start=1):
            if character not in nodes[at].children:
                nodes[at].children[character] = len(nodes)
                nodes.append(_Node(depth))
            at = nodes[at].children[character]
        if nodes[at].stop is None:
            nodes[at].stop = index
    _link(nodes)
    return nodes


def _link(nodes: list[_Node]) -> None:
    """Sets `fallback` and `stop`, shorter beginnings before longer ones."""
    queue = deque(nodes[0].children.values())
    while queue:
        node = nodes[queue.popleft()]
        if node.stop is None:
            node.stop = nodes[node.fallback].stop
        for character, child in node.children.items():
            at = node.fallback
            while at and character not in nodes[at].children:
                at = nodes[at].fallback
            nodes[child].fallback = nodes[at].children.get(character, 0)
            queue.append(child)
