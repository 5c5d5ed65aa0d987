"""`ConstraintCompiler`: constraints of requests to matchers over a model's tokens.

    compiler = ConstraintCompiler(tokenizer, vocab_size=49152)
    matcher = compiler.compile(Constraint("regex", "yes|no"))  # In any thread; it takes up to seconds.
    compiler.fill_masks([matcher, None], out)  # In the engine's.

Masks are those of the llguidance library: an Earley parser over a lexer of regular-expression derivatives, walked
along the trie of the vocabulary. Shapes: W = ceil(V / 32) words of the mask of V tokens, R sequences.
"""

from __future__ import annotations

import dataclasses
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trellax.inference.constraints.grammars import grammar_of
from trellax.inference.constraints.matcher import Masks, Matcher, fill_masks, reason
from trellax.inference.requests import Constraint, RequestError
from trellax.inference.text import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits


_PLACE = re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: )?")

_NAMES = {
    "json_schema": "The JSON schema",
    "json_object": "JSON output",
    "regex": "The regular expression",
    "grammar": "The grammar",
    "choice": "The list of choices",
}


@dataclasses.dataclass(frozen=True)
class ConstraintLimits:
    """What a client's constraint may cost. The library counts work in units that do not depend on the machine.

    Attributes:
        max_characters: of the constraint's text.
        max_grammar_size: symbols in the grammar's rules.
        initial_lexer_fuel: work to build the lexer, about 50,000 a millisecond.
        step_lexer_fuel: the lexer's work for one token, about 14,000 a millisecond.
        step_max_items: the parser's items for one token, about 20,000 a millisecond.
        max_items_in_row: the parser's items at one byte. An optional property of an object takes four.
        max_lexer_states: of one sequence, of 1 to 2 kB each.
    """

    max_characters: int = 200_000
    max_grammar_size: int = 50_000
    initial_lexer_fuel: int = 1_000_000
    step_lexer_fuel: int = 200_000
    step_max_items: int = 50_000
    max_items_in_row: int = 2_000
    max_lexer_states: int = 50_000

    def for_library(self) -> LLParserLimits:
        from llguidance import LLParserLimits

        limits = dataclasses.asdict(self)
        del limits["max_characters"]
        return LLParserLimits(verbose_errors=False, precompute_large_lexemes=True, **limits)


class ConstraintCompiler:
    """Makes matchers, and keeps the last ones for requests with the same constraint. Safe for threads."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        vocab_size: int,
        limits: ConstraintLimits | None = None,
        cache_size: int = 64,
        num_threads: int | None = None,
    ):
        """Reads the vocabulary, which takes about a second for 150,000 tokens.

        Args:
            tokenizer: the model's.
            vocab_size: V of the model's logits, at least the tokenizer's. Ids that no token has are never allowed.
            limits: of each constraint; None for the usual ones.
            cache_size: how many compiled constraints are kept.
            num_threads: that fill masks; None for four of five processors.

        Raises:
            ImportError: llguidance is not installed.
            ValueError: the tokenizer does not fit.
        """
        try:
            from llguidance import LLExecutor, LLTokenizer
        except ImportError:
            raise ImportError(
                "Constrained output needs the llguidance library; install trellax-inference[constraints]."
            ) from None
        end_ids = sorted(tokenizer.eos_ids)
        if not end_ids:
            raise ValueError("The tokenizer has no end token; constrained output ends by one.")
        if max(tokenizer.vocab_size - 1, *end_ids) >= vocab_size:
            raise ValueError(
                f"The tokenizer has ids up to {max(tokenizer.vocab_size - 1, *end_ids)} and the model {vocab_size} "
                "logits; give the tokenizer that the model was trained with."
            )
        self._tokenizer = LLTokenizer(tokenizer.to_json(), n_vocab=vocab_size, eos_token=end_ids)
        self._executor = LLExecutor(num_threads)
        self._end_ids = frozenset(end_ids)
        self._limits = limits or ConstraintLimits()
        self._cache_size = cache_size
        self._cache: OrderedDict[Constraint, Matcher | str] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, constraint: Constraint, *, param: str = "response_format") -> Matcher:
        """Returns a matcher at the beginning of a text.

        Args:
            constraint: what the text must match.
            param: the request's field that it came from, for errors.

        Raises:
            RequestError: it is not understood, matches nothing, or is beyond the limits; says which.
        """
        made = self._cached(constraint)
        if made is None:
            made = self._make(constraint)
            self._keep(constraint, made)
        if isinstance(made, str):
            raise RequestError(f"{_NAMES[constraint.kind]} cannot be used: {made}.", param=param)
        return made.clone()

    def fill_masks(self, matchers: Sequence[Matcher | None], out: Masks) -> None:
        """Fills a row of the mask for each of R matchers, in parallel; rows without one allow everything."""
        fill_masks(self._executor, matchers, out)

    def _cached(self, constraint: Constraint) -> Matcher | str | None:
        with self._lock:
            if constraint in self._cache:
                self._cache.move_to_end(constraint)
            return self._cache.get(constraint)

    def _keep(self, constraint: Constraint, made: Matcher | str) -> None:
        with self._lock:
            self._cache[constraint] = made
            while len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)

    def _make(self, constraint: Constraint) -> Matcher | str:
        """Returns a matcher, or why there is none."""
        if len(constraint.text) > self._limits.max_characters:
            return f"it is longer than {self._limits.max_characters} characters"
        try:
            constraint.text.encode()
            grammar = grammar_of(constraint)
        except ValueError as e:
            return reason(str(e))
        library = self._parser(grammar)
        # Some faults show at the first mask, which is also the most expensive one: clones have it from here.
        if not library.is_error():
            library.compute_bitmask()
        if library.is_error():
            found = reason(library.get_error())
            # Only grammars are the client's own lines; the others are written here.
            return found if constraint.kind == "grammar" else _PLACE.sub("", found)
        return Matcher(library, end_ids=self._end_ids)

    def _parser(self, grammar: str) -> LLMatcher:
        from llguidance import LLMatcher

        return LLMatcher(self._tokenizer, grammar, log_level=0, limits=self._limits.for_library())
