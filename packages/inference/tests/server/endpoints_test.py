"""Models, tokens, embeddings, keys, ids and the page."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Sequence
from typing import Any

import pytest

from tests.server.fakes import BOS, FakeEngine
from tests.server.serving import ask
from trellax.inference.server import ServerSettings

KEYS = ServerSettings(api_keys=("first", "second"))


class EmbeddingFake(FakeEngine):
    """Embeds a prompt as its length and its first token."""

    async def embed(self, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        return [[len(ids), ids[0]] for ids in prompts]


# ---- models -------------------------------------------------------------------------------------


def test_the_model_and_its_aliases_are_listed() -> None:
    settings = ServerSettings(model_aliases=("gpt-4",))
    models = ask("/v1/models", settings=settings).json()
    assert models["object"] == "list"
    assert [m["id"] for m in models["data"]] == ["fake/model", "gpt-4"]
    assert models["data"][1]["root"] == "fake/model"
    assert models["data"][0]["max_model_len"] == 512
    answer = ask("/v1/completions", {"model": "gpt-4", "prompt": "a"}, settings=settings)
    assert answer.status_code == 200


def test_a_model_is_described_by_its_name() -> None:
    assert ask("/v1/models/fake/model").json()["id"] == "fake/model"
    assert ask("/v1/models/other").status_code == 404


# ---- tokens -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        ({"prompt": "hi"}, [BOS, 104, 105]),
        ({"prompt": "hi", "add_special_tokens": False}, [104, 105]),
        ({"prompt": ""}, []),
        ({"messages": [{"role": "user", "content": "a"}]}, [*b"user: a\nassistant:"]),
    ],
)
def test_texts_and_conversations_are_tokenized(body: dict[str, Any], ids: list[int]) -> None:
    answer = ask("/tokenize", body).json()
    assert answer == {"count": len(ids), "max_model_len": 512, "tokens": ids, "token_strs": None}


def test_tokens_texts_come_along_if_asked_for() -> None:
    body = {"prompt": "hé", "return_token_strs": True}
    strings = ask("/tokenize", body).json()["token_strs"]
    assert strings == ["<s>", "h", "bytes:\\xc3", "bytes:\\xa9"]


def test_what_was_tokenized_is_detokenized() -> None:
    ids = ask("/tokenize", {"prompt": "héllo", "add_special_tokens": False}).json()["tokens"]
    assert ask("/detokenize", {"tokens": ids}).json() == {"prompt": "héllo"}


@pytest.mark.parametrize(
    "body", [{}, {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}]
)
def test_either_a_text_or_a_conversation_is_tokenized(body: dict[str, Any]) -> None:
    assert ask("/tokenize", body).status_code == 400


def test_tokens_that_the_tokenizer_has_not_are_refused() -> None:
    answer = ask("/detokenize", {"tokens": [1, 999]})
    assert answer.status_code == 400 and "999" in answer.text


# ---- embeddings ---------------------------------------------------------------------------------


def test_a_model_without_embeddings_says_so() -> None:
    answer = ask("/v1/embeddings", {"input": "a"})
    assert answer.status_code == 501
    assert answer.json()["error"]["message"].endswith("gives no embeddings; it continues text.")


def test_embeddings_are_lists_or_packed_floats() -> None:
    body = {"input": ["a", [7, 8, 9]]}
    answer = ask("/v1/embeddings", body, engine=EmbeddingFake()).json()
    assert [item["embedding"] for item in answer["data"]] == [[2.0, 256.0], [3.0, 7.0]]
    assert answer["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    packed = ask("/v1/embeddings", body | {"encoding_format": "base64"}, engine=EmbeddingFake())
    data = base64.b64decode(packed.json()["data"][1]["embedding"])
    assert struct.unpack("<2f", data) == (3.0, 7.0)


def test_a_wrong_input_is_named_as_clients_call_it() -> None:
    error = ask("/v1/embeddings", {"input": [[]]}, engine=EmbeddingFake()).json()["error"]
    assert error["param"] == "input" and error["message"].startswith("input[0]")


# ---- keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        None,
        "first",
        "Bearer",
        "Bearer ",
        "Bearer third",
        "Bearer firs",
        "Basic first",
        "Bearer first second",
    ],
)
def test_without_a_key_there_is_a_401(header: str | None) -> None:
    headers = {} if header is None else {"authorization": header}
    for path in ("/v1/models", "/metrics", "/stats", "/nothing"):
        answer = ask(path, headers=headers, settings=KEYS)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["Bearer first", "bearer second"])
def test_any_of_the_keys_opens(header: str) -> None:
    assert ask("/v1/models", headers={"authorization": header}, settings=KEYS).status_code == 200


def test_health_and_the_page_need_no_key_and_what_else_is_chosen() -> None:
    for path in ("/", "/health", "/ping", "/ready"):
        assert ask(path, settings=KEYS).status_code == 200
    settings = ServerSettings(api_keys=("first",), open_paths=("/metrics",))
    assert ask("/metrics", settings=settings).status_code == 200
    assert ask("/health", settings=settings).status_code == 401


# ---- ids, origins, version ----------------------------------------------------------------------


def test_a_request_s_id_comes_back() -> None:
    answer = ask("/v1/completions", {"prompt": "a"}, headers={"x-request-id": "trace-1"})
    assert answer.headers["x-request-id"] == "trace-1"
    assert answer.json()["id"] == "cmpl-trace-1"
    assert ask("/nothing", headers={"x-request-id": "t2"}).headers["x-request-id"] == "t2"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "ü".encode().decode("latin-1")])
def test_an_id_that_is_none_gets_another(given: str) -> None:
    answer = ask("/health", headers={"x-request-id": given.encode("latin-1")})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


def test_pages_of_chosen_origins_may_ask() -> None:
    settings = ServerSettings(allowed_origins=("https://a.example",), api_keys=("first",))
    headers = {"origin": "https://a.example", "access-control-request-method": "POST"}
    answer = ask("/v1/completions", method="OPTIONS", headers=headers, settings=settings)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    other = headers | {"origin": "https://b.example"}
    answer = ask("/v1/completions", method="OPTIONS", headers=other, settings=settings)
    assert "access-control-allow-origin" not in answer.headers
    assert "access-control-allow-origin" not in ask("/health", headers=headers).headers


def test_version_and_load_are_told() -> None:
    assert ask("/version").json()["version"]
    assert ask("/load").json() == {"server_load": 0}


# ---- the page -----------------------------------------------------------------------------------


def test_the_page_has_all_it_needs_in_itself() -> None:
    answer = ask("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    addresses = re.findall(r"""(?:src|href)=["']([^"']+)""", answer.text)
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert (
        "http://" not in answer.text.replace("http://www.w3.org", "")
        and "@import" not in answer.text
    )
    assert set(re.findall(r'fetch\("?([\w/]+)', answer.text)) == {
        "stats",
        "v1/chat/completions",
        "v1/completions",
    }


def test_the_page_can_be_left_out() -> None:
    assert ask("/", settings=ServerSettings(show_page=False)).status_code == 404


def test_the_page_finds_what_it_shows_in_stats() -> None:
    source = ask("/").text
    fields = set(re.findall(r"\bstats\.(\w+)", source))
    assert fields and fields <= set(ask("/stats").json())
