"""`Service`: what all endpoints share, and whether the server takes new work."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.metadata
from collections.abc import Iterator
from typing import NoReturn

from starlette.requests import Request

from trellax.inference.requests import RequestError
from trellax.inference.server.admission import Admission
from trellax.inference.server.errors import ApiError, engine_stopped, overloaded
from trellax.inference.server.interface import Engine, Json
from trellax.inference.server.json_body import read_json
from trellax.inference.server.logprobs import LogprobShapes
from trellax.inference.server.metrics import Metrics
from trellax.inference.server.prompts import Prompts
from trellax.inference.server.settings import ServerSettings


class Running:
    """What goes on for clients, so that it can be ended."""

    def __init__(self) -> None:
        self._futures: set[asyncio.Future[NoReturn]] = set()

    @contextlib.contextmanager
    def entered(self) -> Iterator[asyncio.Future[NoReturn]]:
        """Gives a future that gets an exception when this is to end."""
        future: asyncio.Future[NoReturn] = asyncio.get_running_loop().create_future()
        self._futures.add(future)
        try:
            yield future
        finally:
            self._futures.remove(future)
            future.cancel()

    def end(self, error: ApiError) -> None:
        """Ends all with an error."""
        for future in self._futures:
            if not future.done():
                future.set_exception(error)


class Service:
    """The engine with what serves it.

    Attributes:
        running: answers that are being made.
        receiving: bodies that are being read.
        is_draining: whether the server is about to end: it takes nothing new.
    """

    def __init__(self, engine: Engine, settings: ServerSettings):
        self.engine = engine
        self.settings = settings
        self.metrics = Metrics(engine)
        self.admission = Admission(settings, self.metrics)
        self.prompts = Prompts(engine, settings.limits)
        self.logprob_shapes = LogprobShapes(engine.tokenizer)
        self.running = Running()
        self.receiving = Running()
        self.is_draining = False
        self.version = _version()
        seed = f"{engine.model.id} {engine.model.created} {self.version}"
        self.fingerprint = f"fp_{hashlib.sha256(seed.encode()).hexdigest()[:12]}"

    @property
    def is_ready(self) -> bool:
        """Whether new work is taken."""
        return not self.is_draining and self.engine.is_healthy()

    @property
    def model_names(self) -> tuple[str, ...]:
        """What the model answers to."""
        return (self.engine.model.id, *self.settings.model_aliases)

    async def json_body(self, http: Request) -> Json:
        """Returns the value of a request's body.

        Raises:
            ApiError: 400, 408, 413 or 415; 503 if the server ends before all of it is there.
        """
        with self.receiving.entered() as ended:
            reading = asyncio.create_task(read_json(http, self.settings.limits))
            try:
                await asyncio.wait({reading, ended}, return_when=asyncio.FIRST_COMPLETED)
                return reading.result() if reading.done() else ended.result()
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    def refusal(self) -> ApiError:
        """Returns what clients hear whose requests come once the server is about to end."""
        error = overloaded(
            "The server ends and takes no new requests.",
            retry_after_s=self.settings.retry_after_s,
            code="draining",
        )
        error.headers["connection"] = "close"
        return error

    def check_ready(self) -> None:
        """Raises ApiError, 503, if no new work is taken."""
        if self.is_draining:
            raise self.refusal()
        if not self.engine.is_healthy():
            raise engine_stopped()

    def check_model(self, name: str | None) -> None:
        """Raises ApiError, 404, if a model is named that is not served."""
        if name is not None and name not in self.model_names:
            raise ApiError(
                404,
                f"There is no model {name[:80]!r}; the one that is served is {self.engine.model.id!r}.",
                param="model",
                code="model_not_found",
            )

    def room_for(self, num_prompt_tokens: int, max_tokens: int | None, *, param: str) -> int:
        """Returns how many tokens may be drawn after a prompt.

        Args:
            num_prompt_tokens: of the prompt.
            max_tokens: how many were asked for; None for all that there is room for.
            param: what the field is called.

        Raises:
            RequestError: if that is more than the model can hold.
        """
        longest = self.engine.model.max_length
        room = longest - num_prompt_tokens
        if max_tokens is None:
            return room
        if max_tokens > room:
            raise RequestError(
                f"The prompt has {num_prompt_tokens} tokens and {param} asks for {max_tokens} more; "
                f"the model holds {longest} in all.",
                param=param,
            )
        return max_tokens


def _version() -> str:
    try:
        return importlib.metadata.version("trellax-inference")
    except importlib.metadata.PackageNotFoundError:
        return "0+source"
