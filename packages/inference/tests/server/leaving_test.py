"""Clients that leave, send slowly, or ask for too much at once; and the end of the server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Sequence

import httpx
import pytest

from tests.server.fakes import FakeEngine
from tests.server.serving import Listening, ask, eventually, listening
from trellax.inference.requests import Output, Request
from trellax.inference.server import Limits, ServerSettings, run_server

BODY = {"prompt": "abc", "max_tokens": 400}
URL = "/v1/completions"


@pytest.fixture
def slow() -> FakeEngine:
    return FakeEngine(step_s=0.02)


def connect(server: Listening) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=5)


def request_bytes(body: bytes, *, more: bytes = b"", length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\n%bContent-Length: %d\r\n\r\n"
    return head % (more, length) + body


def received(connection: socket.socket) -> bytes:
    """Returns all that comes until the server hangs up."""
    data = b""
    while piece := connection.recv(1 << 16):
        data += piece
    return data


# ---- leaving ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [b"true", b"false"])
def test_a_client_that_leaves_aborts_its_requests_within_a_step(
    slow: FakeEngine, stream: bytes
) -> None:
    with listening(slow) as server:
        body = b'{"prompt": ["a", "b"], "n": 2, "max_tokens": 400, "stream": %b}' % stream
        with connect(server) as connection:
            connection.sendall(request_bytes(body))
            assert eventually(lambda: len(slow.running) == 4)
        assert eventually(lambda: not slow.running, within_s=0.5)
        assert len(slow.aborted) == 4
        metrics = httpx.get(server.url + "/metrics").text
        assert (
            'request_success_total{engine="0",finished_reason="abort",model_name="fake/model"} 4.0'
            in metrics
        )
        assert httpx.get(server.url + "/load").json() == {"server_load": 0}


@pytest.mark.parametrize(
    "limits", [Limits(stall_s=0.3), Limits(request_s=1.5, stall_s=0.3)], ids=["stall", "limit"]
)
def test_a_client_that_takes_nothing_of_its_answer_is_hung_up_on(limits: Limits) -> None:
    engine = FakeEngine(step_s=0.0, max_length=100_000)
    with listening(engine, ServerSettings(limits=limits)) as server, connect(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = b'{"prompt": "a", "max_tokens": 30000, "stream": true}'
        connection.sendall(request_bytes(body))
        # So many tokens take a busy machine a while; and it may be over before anybody looks.
        assert eventually(lambda: bool(engine.seen), within_s=30)
        assert eventually(lambda: not engine.running, within_s=30)
        assert eventually(lambda: not server.server.server_state.tasks, within_s=30)


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_takes_too_long_is_ended(slow: FakeEngine, stream: bool) -> None:
    settings = ServerSettings(limits=Limits(request_s=0.2))
    with listening(slow, settings) as server:
        answer = httpx.post(server.url + URL, json=BODY | {"stream": stream})
        assert answer.status_code == (200 if stream else 504)
        assert '"code":"request_timeout"' in answer.text and "[DONE]" not in answer.text
        assert stream or answer.headers["x-should-retry"] == "false"
        assert eventually(lambda: not slow.running)


# ---- too much -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "status", "code"),
    [
        (Limits(active_requests=2), 503, "queue_full"),
        (Limits(active_tokens=8), 503, "queue_full"),
        (Limits(key_requests=2), 429, "rate_limit_exceeded"),
        (Limits(key_tokens=8), 429, "rate_limit_exceeded"),
    ],
)
def test_what_is_too_much_is_refused_until_there_is_room(
    slow: FakeEngine, limits: Limits, status: int, code: str
) -> None:
    with listening(slow, ServerSettings(limits=limits)) as server:
        with httpx.stream("POST", server.url + URL, json=BODY | {"n": 2, "stream": True}) as first:
            lines = first.iter_lines()
            next(lines)
            answer = httpx.post(server.url + URL, json=BODY)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
            assert answer.headers["retry-after"] == "2"
        assert eventually(lambda: not slow.running)
        assert httpx.post(server.url + URL, json=BODY | {"max_tokens": 1}).status_code == 200
        never = httpx.post(server.url + URL, json=BODY | {"n": 5})
        assert never.status_code == 400, "what there is never room for is not to be tried again"


def test_keys_have_limits_of_their_own(slow: FakeEngine) -> None:
    settings = ServerSettings(api_keys=("a", "b"), limits=Limits(key_requests=1))
    with listening(slow, settings) as server:

        def headers(key: str) -> dict[str, str]:
            return {"authorization": f"Bearer {key}"}

        body = BODY | {"stream": True}
        with httpx.stream("POST", server.url + URL, json=body, headers=headers("a")) as first:
            lines = first.iter_lines()
            next(lines)
            one = {"prompt": "a", "max_tokens": 1}
            statuses = [
                httpx.post(server.url + URL, json=one, headers=headers(key)).status_code
                for key in "ab"
            ]
    assert statuses == [429, 200]


# ---- slow and endless ---------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"GET /health HTT", b"GET /health HTTP/1.1\r\nA: b\r\n"])
def test_headers_that_do_not_come_end_the_connection(sent: bytes) -> None:
    with (
        listening(FakeEngine(), ServerSettings(limits=Limits(header_s=0.3))) as server,
        connect(server) as connection,
    ):
        connection.sendall(sent)
        start = time.monotonic()
        received(connection)
        assert 0.1 < time.monotonic() - start < 3


def test_headers_that_trickle_end_the_connection() -> None:
    with (
        listening(FakeEngine(), ServerSettings(limits=Limits(header_s=0.3))) as server,
        connect(server) as connection,
    ):
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        start = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - start < 3:
                connection.sendall(b"X: y\r\n")
                time.sleep(0.05)
        assert time.monotonic() - start < 2


def test_headers_without_end_end_the_connection() -> None:
    with listening(FakeEngine(), ServerSettings(limits=Limits(header_bytes=4096))) as server:
        with connect(server) as connection, pytest.raises(OSError):
            connection.sendall(b"GET /health HTTP/1.1\r\n")
            for _ in range(1000):
                connection.sendall(b"X: " + b"y" * 1000 + b"\r\n")
                time.sleep(0.002)
        assert httpx.get(server.url + "/health").status_code == 200


def test_a_long_stream_is_not_taken_for_slow_headers(slow: FakeEngine) -> None:
    with listening(slow, ServerSettings(limits=Limits(header_s=0.2))) as server:
        answer = httpx.post(
            server.url + URL, json={"prompt": "a", "max_tokens": 30, "stream": True}
        )
        assert answer.text.endswith("[DONE]\n\n")


def test_a_body_that_trickles_is_a_408() -> None:
    with (
        listening(FakeEngine(), ServerSettings(limits=Limits(body_s=0.3))) as server,
        connect(server) as connection,
    ):
        connection.sendall(request_bytes(b'{"prompt"', length=100))
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 408") and b"body_timeout" in answer


def test_a_body_that_is_too_large_is_not_read_to_its_end() -> None:
    with (
        listening(FakeEngine(), ServerSettings(limits=Limits(body_bytes=1000))) as server,
        connect(server) as connection,
    ):
        connection.sendall(request_bytes(b"x" * 2000, length=10**12))
        assert received(connection).startswith(b"HTTP/1.1 413")


def test_clients_that_send_too_much_hear_why_before_the_connection_ends() -> None:
    with listening(FakeEngine(), ServerSettings(limits=Limits(body_bytes=100_000))) as server:
        answer = httpx.post(server.url + URL, content=b"x" * 500_000)
        assert answer.status_code == 413


def test_connections_beyond_the_limit_are_closed_and_others_served() -> None:
    with listening(FakeEngine(), ServerSettings(limits=Limits(connections=3))) as server:
        held = [connect(server) for _ in range(3)]
        time.sleep(0.1)
        with connect(server) as further, contextlib.suppress(ConnectionResetError):
            assert further.recv(10) == b""
        for connection in held:
            connection.close()
        time.sleep(0.1)
        assert httpx.get(server.url + "/health").status_code == 200


@pytest.mark.parametrize(
    "junk", [b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01"]
)
def test_what_is_not_http_is_survived(junk: bytes) -> None:
    with listening(FakeEngine(), ServerSettings(limits=Limits(header_s=0.3))) as server:
        with connect(server) as connection:
            connection.sendall(junk)
            received(connection)
        assert httpx.get(server.url + "/health").status_code == 200


# ---- the end ------------------------------------------------------------------------------------


def streamed(url: str, tokens: int) -> tuple[threading.Thread, list[str]]:
    """Returns a thread that reads a stream, which has begun, and the lines that it has read."""
    lines: list[str] = []

    def read() -> None:
        body = {"prompt": "a", "max_tokens": tokens, "stream": True}
        with httpx.stream("POST", url + URL, json=body, timeout=20) as answer:
            lines.extend(line for line in answer.iter_lines() if line)

    thread = threading.Thread(target=read)
    thread.start()
    return thread, lines


def begun(engine: FakeEngine) -> bool:
    return eventually(lambda: bool(engine.running))


def is_unhealthy(server: Listening) -> bool:
    return httpx.get(server.url + "/health").status_code == 503


def ended(server: Listening) -> bool:
    return eventually(lambda: bool(server.exit_codes))


def test_told_to_end_it_finishes_what_runs_and_refuses_what_is_new(slow: FakeEngine) -> None:
    with listening(slow) as server:
        reader, lines = streamed(server.url, 60)
        assert begun(slow)
        server.server.handle_exit(signal.SIGTERM, None)
        assert is_unhealthy(server), "the first thing that anybody sees"
        answer = httpx.post(server.url + URL, json={"prompt": "a"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
        assert answer.headers["retry-after"]
        reader.join()
        assert ended(server) and server.exit_codes == [0]
    assert lines[-1] == "data: [DONE]" and len(lines) == 61


def test_what_does_not_finish_within_the_grace_is_told_so(slow: FakeEngine) -> None:
    with listening(slow, ServerSettings(drain_grace_s=0.3)) as server:
        reader, lines = streamed(server.url, 500)
        assert begun(slow)
        server.server.handle_exit(signal.SIGTERM, None)
        reader.join()
        assert ended(server) and server.exit_codes == [0]
    assert '"code":"draining"' in lines[-1] and len(lines) < 100
    assert not slow.running


def test_told_to_end_it_waits_for_no_body() -> None:
    with listening(FakeEngine()) as server, connect(server) as connection:
        connection.sendall(request_bytes(b'{"prompt"', length=100))
        assert eventually(lambda: bool(server.server.server_state.tasks))
        start = time.monotonic()
        server.server.handle_exit(signal.SIGTERM, None)
        answer = received(connection)
        assert ended(server) and server.exit_codes == [0]
        assert time.monotonic() - start < 1.5
    assert answer.startswith(b"HTTP/1.1 503") and b'"draining"' in answer
    assert b"\r\nconnection: close\r\n" in answer


def test_a_second_signal_waits_no_longer(slow: FakeEngine) -> None:
    with listening(slow, ServerSettings(drain_grace_s=60)) as server:
        reader, lines = streamed(server.url, 500)
        assert begun(slow)
        for _ in range(2):
            server.server.handle_exit(signal.SIGINT, None)
        reader.join()
        assert ended(server) and server.exit_codes == [0]
    assert '"code":"draining"' in lines[-1]


@pytest.mark.parametrize("notice_s", [0.0, 0.7])
def test_an_idle_server_ends_at_once_unless_it_is_to_give_notice(notice_s: float) -> None:
    with listening(FakeEngine(), ServerSettings(drain_notice_s=notice_s)) as server:
        start = time.monotonic()
        server.server.handle_exit(signal.SIGTERM, None)
        assert not notice_s or is_unhealthy(server)
        assert ended(server)
        assert notice_s <= time.monotonic() - start < notice_s + 1.5


PROCESS = """
import sys
from tests.server.fakes import FakeEngine
from trellax.inference.server import run_server
begin = lambda host, port: print(port, flush=True)
sys.exit(run_server(FakeEngine(step_s=0.02), port=0, on_start=begin))
"""


def test_sigterm_is_answered_by_exit_code_0_after_what_runs_has_finished() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", PROCESS]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{int(process.stdout.readline())}"
            reader, lines = streamed(url, 60)
            load = lambda: httpx.get(url + "/load").json()["server_load"]
            assert eventually(lambda: load() == 1)
            process.send_signal(signal.SIGTERM)
            reader.join()
            assert lines[-1] == "data: [DONE]" and process.wait(10) == 0
        finally:
            process.kill()


class DyingEngine(FakeEngine):
    """Answers nothing any more once it is dead."""

    async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Output, None]:
        async for output in super().generate(requests):
            while not self.healthy:
                await asyncio.sleep(0.1)
            yield output


def test_when_the_engine_dies_clients_are_told_and_the_server_ends_with_a_code() -> None:
    engine = DyingEngine(step_s=0.02)
    with listening(engine) as server:
        reader, lines = streamed(server.url, 400)
        assert begun(engine)
        time.sleep(0.1)
        engine.healthy = False
        reader.join()
        assert ended(server) and server.exit_codes == [1]
    assert '"code":"engine_stopped"' in lines[-1]


def test_a_dead_engine_is_not_healthy_and_takes_nothing() -> None:
    engine = FakeEngine()
    engine.healthy = False
    for path in ("/health", "/ping", "/ready"):
        assert ask(path, engine=engine).status_code == 503
    answer = ask(URL, BODY, engine=engine)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_stopped")


def test_an_address_that_is_taken_is_a_code_and_no_traceback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert run_server(FakeEngine(), port=taken.getsockname()[1]) == 1
