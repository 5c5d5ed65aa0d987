"""`ServerSettings` and `Limits`: everything that can be chosen about the server.

ServerSettings(api_keys=("one", "two"), limits=Limits(body_bytes=1 << 20))
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much a client may ask for, and how long it may take. Durations are in seconds.

    Attributes:
        body_bytes: of a request's body.
        json_depth: of lists and objects in each other.
        prompts: in one request.
        messages: in one conversation.
        samples: `n`.
        choices: prompts times samples.
        stops: stop texts, and stop tokens.
        logit_bias: tokens with a bias.
        tools: in one request.
        connections: open at once; more are closed unanswered.
        header_bytes: of a request's line and headers.
        header_s: to receive them.
        body_s: to receive the body.
        stall_s: how long a client may take nothing of its answer; then its connection is closed.
        request_s: to answer; a longer one is aborted.
        active_requests: sequences that run or wait, of all clients.
        active_tokens: tokens of their prompts.
        key_requests: sequences that run or wait, of one API key.
        key_tokens: tokens of their prompts.
    """

    body_bytes: int = 8 << 20
    json_depth: int = 64
    prompts: int = 256
    messages: int = 2048
    samples: int = 128
    choices: int = 512
    stops: int = 16
    logit_bias: int = 1024
    tools: int = 256
    connections: int = 2048
    header_bytes: int = 64 << 10
    header_s: float = 10.0
    body_s: float = 60.0
    stall_s: float = 60.0
    request_s: float = 1800.0
    active_requests: int = 4096
    active_tokens: int = 8 << 20
    key_requests: int = 4096
    key_tokens: int = 8 << 20

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(f"limits.{field.name} must be above 0.")


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """
    Attributes:
        api_keys: one of them must come with a request, as `Authorization: Bearer KEY`; none: no key is asked for.
        open_paths: need no key.
        model_aliases: further names that the model answers to.
        allowed_origins: whose web pages may call the server from a browser; "*" for all.
        limits: of requests.
        keep_alive_s: a stream that is silent for so long gets an empty line; headers go out by then too.
        retry_after_s: what clients are told that were refused because the server is full or stops.
        drain_notice_s: after SIGTERM the server goes on to answer, and to say that it is not healthy, for at least so long.
        drain_grace_s: running requests may take so long to finish after SIGTERM.
        show_page: whether `/` has the page to chat with the model.
    """

    api_keys: tuple[str, ...] = ()
    open_paths: tuple[str, ...] = ("/", "/health", "/ping", "/ready")
    model_aliases: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    limits: Limits = dataclasses.field(default_factory=Limits)
    keep_alive_s: float = 15.0
    retry_after_s: float = 2.0
    drain_notice_s: float = 0.0
    drain_grace_s: float = 30.0
    show_page: bool = True

    def __post_init__(self) -> None:
        if not all(self.api_keys):
            raise ValueError("An API key is empty; leave it out, or api_keys=() to ask for none.")
        for name in ("keep_alive_s", "retry_after_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0.")
        for name in ("drain_notice_s", "drain_grace_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0.")
