"""`serve --role`: processes of three roles answer clients as one engine would, while workers are killed and ended.

One set of processes for all of it: two prefill workers, a decode worker and a router, on loopback.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import jax
import pytest

from tests.programs import MAIN, environment
from tests.serving import tiny_served
from trellax.experiments.serving import Served, engine_config, served_weights, start_core
from trellax.inference.requests import Request, SamplingParams
from trellax.inference.text import PromptBuilder
from trellax.parallel import hardware_named

NAME = f"{tiny_served.__name__}:tiny"
ENGINE = (
    "max_sequences=4",
    "max_tokens_per_step=64",
    "tile_length=16",
    "page_size=8",
    "weights=plain",
    "warms_up=false",
)
PROMPTS = (
    "She was glad of it,",
    "He was not, and said nothing.",
    "They walked on to the lane " * 4,
)
SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0, "max_tokens": 24},
    "drawn": {"temperature": 1.0, "seed": 7, "max_tokens": 24},
}
TIMEOUT_S = 120.0


class Answer(NamedTuple):
    text: str
    logprobs: list[float]


class Process:
    """The command line as a process; what it says goes to a file."""

    def __init__(self, folder: Path, name: str, *flags: str):
        self.log = folder / f"{name}.log"
        engine = [f"engine.{change}" for change in ENGINE]
        with self.log.open("w") as log:
            self.running = subprocess.Popen(
                [sys.executable, "-c", MAIN, "serve", NAME, "--port=0", *flags, *engine],
                env=environment(
                    TRELLAX_CACHE_DIR=str(folder / "cache"), JAX_DISABLE_MOST_OPTIMIZATIONS="1"
                ),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def told(self, pattern: str) -> tuple[str, ...]:
        """Waits until it says this; returns the groups."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (match := re.search(pattern, self.log.read_text())):
            assert self.running.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        return match.groups()

    def send(self, *signals: signal.Signals) -> None:
        for one in signals:
            self.running.send_signal(one)

    def ended(self) -> int:
        """Waits for its exit code."""
        return self.running.wait(TIMEOUT_S)


class Deployment(NamedTuple):
    prefill: tuple[Process, Process]
    decode: Process
    router: Process
    client: httpx.Client
    probes: list[str]
    fused: Fused


class Fused:
    """What one engine answers."""

    def __init__(self, served: Served):
        limits: dict[str, int] = {
            "vocab_size": served.vocab_size,
            "max_tokens": tiny_served.MAX_LENGTH,
        }
        self._prompts = PromptBuilder(served.tokenizer, **limits)
        self._core = start_core(engine_config(hardware_named("cpu"), served, ENGINE), served)

    def answer(self, prompt: str, **params: Any) -> Answer:
        (ids,) = self._prompts.completion(prompt)
        self._core.add(Request("r", tuple(ids), SamplingParams(logprobs=0, **params)))
        pieces = []
        while self._core.has_work:
            pieces += self._core.step()
        logprobs = [token.logprob for piece in pieces for token in piece.logprobs or ()]
        return Answer("".join(piece.text for piece in pieces), logprobs)


def answered(client: httpx.Client, prompt: str, **params: Any) -> httpx.Response:
    body = {"prompt": prompt, "logprobs": 0, **params}
    return client.post("/v1/completions", json=body, timeout=TIMEOUT_S)


def assert_same(response: httpx.Response, expected: Answer) -> None:
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    assert choice["text"] == expected.text
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(expected.logprobs, abs=1e-5)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation() -> Iterator[None]:
    """What these tests cost is compilation, not arithmetic; the processes have the same in their environment."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("roles")
    weights, secret = folder / "weights", folder / "secret"
    tiny_served.write_folder(weights)
    secret.write_text("known to all\n")
    flags = (f"--weights={weights}", f"--transport_secret_file={secret}")
    processes: list[Process] = []

    def start(name: str, role: str, *more: str) -> Process:
        processes.append(process := Process(folder, name, f"--role={role}", *flags, *more))
        return process

    try:
        prefill = [start(f"prefill-{i}", "prefill", "--control_port=0") for i in range(2)]
        decode = start("decode", "decode", "--control_port=0", "--page_port=0")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRELLAX_CACHE_DIR", str(folder / "cache"))
            fused = Fused(served_weights(NAME, str(weights)))
        ready = [
            process.told(r"Ready after .* at (\S+) \(and for probes at (\S+)\)")
            for process in (*prefill, decode)
        ]
        (first, _), (second, _), (decoding, _) = ready
        router = start(
            "router",
            "router",
            f"--prefill_workers={first},{second}",
            f"--decode_workers={decoding}",
            "--drain_grace=1",
        )
        (url,) = router.told(r"Ready: .* at (\S+) \(")
        with httpx.Client(base_url=url) as client:
            probes = [probe for _, probe in ready]
            yield Deployment((prefill[0], prefill[1]), decode, router, client, probes, fused)
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.send(signal.SIGCONT, signal.SIGKILL)
            process.ended()


# The tests go on from each other: the last ones leave no worker.


@pytest.mark.parametrize("how", SAMPLING)
def test_clients_get_what_one_engine_gives(deployed: Deployment, how: str) -> None:
    for prompt in PROMPTS:
        response = answered(deployed.client, prompt, **SAMPLING[how])
        assert_same(response, deployed.fused.answer(prompt, **SAMPLING[how]))


def test_probes_find_workers_well(deployed: Deployment) -> None:
    assert [httpx.get(probe).status_code for probe in deployed.probes] == [200] * 3


def test_workers_tell_what_their_engines_do(deployed: Deployment) -> None:
    answered(deployed.client, PROMPTS[2], **SAMPLING["greedy"])
    told = [httpx.get(probe.replace("/ready", "/metrics")).text for probe in deployed.probes]
    computed = [
        float(re.findall(r"^trellax:iteration_tokens_total_sum{.*} (\S+)$", t, re.M)[0])
        for t in told
    ]
    *prefill, decode = computed
    assert sum(prefill) >= len(PROMPTS[2]) and decode >= SAMPLING["greedy"]["max_tokens"] - 1
    assert all('trellax:kv_cache_usage_perc{engine="0",model_name=' in text for text in told)


def test_what_can_never_run_is_refused_by_the_router(deployed: Deployment) -> None:
    response = answered(deployed.client, "too long", max_tokens=tiny_served.MAX_LENGTH)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "max_tokens"


def test_prompts_of_a_worker_that_is_killed_are_answered_by_another(deployed: Deployment) -> None:
    killed, other = deployed.prefill
    prompts = [f"{i}: {prompt}" for i, prompt in enumerate(PROMPTS)]
    with ThreadPoolExecutor() as pool:
        for process in deployed.prefill:
            process.send(signal.SIGSTOP)  # Each has a prompt or more, and computes none.
        responses = [
            pool.submit(answered, deployed.client, prompt, **SAMPLING["greedy"])
            for prompt in prompts
        ]
        deadline = time.monotonic() + TIMEOUT_S
        while deployed.client.get("/load").json()["server_load"] < len(prompts):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.2)  # From the router's queue to its workers.
        killed.send(signal.SIGKILL)
        other.send(signal.SIGCONT)
        for prompt, response in zip(prompts, responses, strict=True):
            assert_same(response.result(), deployed.fused.answer(prompt, **SAMPLING["greedy"]))
    assert killed.ended() == -signal.SIGKILL
    assert "A worker rests: " in deployed.router.log.read_text()


def test_a_decode_worker_ends_once_it_has_finished_what_it_has(deployed: Deployment) -> None:
    body = {"prompt": PROMPTS[0], "temperature": 0.0, "max_tokens": 400, "stream": True}
    texts: list[str] = []
    with deployed.client.stream("POST", "/v1/completions", json=body, timeout=TIMEOUT_S) as stream:
        for line in stream.iter_lines():
            if not line.startswith("data: {"):
                continue
            texts.append(json.loads(line.removeprefix("data: "))["choices"][0]["text"])
            if len(texts) == 2:  # The signal is there before the next token is.
                deployed.decode.send(signal.SIGSTOP, signal.SIGTERM, signal.SIGCONT)
    assert "".join(texts) == deployed.fused.answer(PROMPTS[0], temperature=0.0, max_tokens=400).text
    assert deployed.decode.ended() == 0


def test_a_request_that_no_worker_takes_is_refused_when_the_router_ends(
    deployed: Deployment,
) -> None:
    with ThreadPoolExecutor() as pool:
        response = pool.submit(answered, deployed.client, PROMPTS[0], **SAMPLING["greedy"])
        while not deployed.client.get("/load").json()["server_load"]:
            assert not response.done()
            time.sleep(0.02)
        deployed.router.send(signal.SIGTERM)
        assert response.result().status_code == 503
        assert response.result().headers["retry-after"]
    assert deployed.router.ended() == 0


def test_a_worker_with_nothing_to_do_ends_at_once(deployed: Deployment) -> None:
    worker = deployed.prefill[1]
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0
