"""What the `openai` client sees of a real server on real weights: one check a function, the outcome as JSON.

    FOLDER/openai/bin/python openai_checks.py URL

Runs in an environment that has the client and nothing of ours; the client is as it was published. A check is a function
whose name begins with `the_`: it raises if what its name says does not hold, and returns what it saw.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
import traceback
import urllib.request
from collections.abc import Callable
from typing import Any

import openai  # pants: no-infer-dep

STORY = "Once upon a time there was"
HELLO = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "likes": {"type": "array", "items": {"enum": ["tea", "rain"]}, "maxItems": 2},
    },
    "required": ["name", "age", "likes"],
    "additionalProperties": False,
}


class Server:
    """A server as the client sees it."""

    def __init__(self, url: str):
        self.url = url
        self.client = openai.OpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=300
        )
        self.model = self.client.models.list().data[0].id

    def complete(self, prompt: Any = STORY, *, extra: Any = None, **fields: Any) -> Any:
        """Returns a completion, greedy unless told."""
        fields = {"max_tokens": 16, "temperature": 0} | fields
        return self.client.completions.create(
            model=self.model, prompt=prompt, extra_body=extra, **fields
        )

    def chat(self, messages: Any = HELLO, *, extra: Any = None, **fields: Any) -> Any:
        """The same of a chat."""
        fields = {"max_completion_tokens": 24, "temperature": 0} | fields
        return self.client.chat.completions.create(
            model=self.model, messages=messages, extra_body=extra, **fields
        )

    def text(self, *args: Any, **fields: Any) -> str:
        return self.complete(*args, **fields).choices[0].text

    def ids(self, *args: Any, extra: Any = None, **fields: Any) -> list[int]:
        """Returns the tokens of a completion."""
        extra = {"return_token_ids": True} | (extra or {})
        return self.complete(*args, extra=extra, **fields).choices[0].token_ids

    def tokens(self, text: str) -> list[int]:
        """Returns the tokens of a text."""
        request = urllib.request.Request(
            f"{self.url}/tokenize",
            data=json.dumps({"prompt": text}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["tokens"]

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read().decode()

    def gauge(self, name: str) -> float:
        return sum(
            map(float, re.findall(rf"^trellax:{name}{{.*}} (\S+)$", self.get("/metrics"), re.M))
        )


# ---- models, plain text, streams --------------------------------------------------------------------------------


def the_model_is_listed_and_described(server: Server) -> Any:
    card = server.client.models.retrieve(server.model)
    assert card.object == "model" and card.id == server.model
    return card.id


def the_likeliest_text_is_the_same_each_time(server: Server) -> Any:
    assert server.text() == server.text()
    return server.text()


def the_stream_of_a_completion_is_the_completion(server: Server) -> Any:
    whole = server.complete()
    chunks = list(server.complete(**USAGE))
    *pieces, last = chunks
    assert "".join(chunk.choices[0].text for chunk in pieces) == whole.choices[0].text
    assert pieces[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert last.choices == [] and last.usage.completion_tokens == whole.usage.completion_tokens
    return {"chunks": len(chunks), "usage": last.usage.model_dump(exclude_none=True)}


def the_stream_of_a_chat_is_the_chat(server: Server) -> Any:
    whole = server.chat()
    *pieces, last = list(server.chat(**USAGE))
    assert pieces[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in pieces)
    assert text == whole.choices[0].message.content
    assert last.choices == [] and last.usage.total_tokens == whole.usage.total_tokens
    return text


def the_stream_without_include_usage_has_no_usage(server: Server) -> Any:
    chunks = list(server.complete(stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    return len(chunks)


def the_client_s_own_assembly_of_a_stream_is_the_chat(server: Server) -> Any:
    with server.client.chat.completions.stream(
        model=server.model, messages=HELLO, temperature=0, max_completion_tokens=24
    ) as stream:
        content = stream.get_final_completion().choices[0].message.content
    assert content == server.chat().choices[0].message.content
    return content


def the_content_of_a_message_may_be_parts(server: Server) -> Any:
    parts = [{"role": "user", "content": [{"type": "text", "text": HELLO[0]["content"]}]}]
    assert server.chat(parts).choices[0].message == server.chat().choices[0].message


def the_prompt_may_be_tokens(server: Server) -> Any:
    tokens = server.tokens(STORY)
    assert server.text(tokens) == server.text()
    both = server.complete([tokens, tokens[:3]])
    assert [choice.text for choice in both.choices] == [
        server.text(tokens),
        server.text(tokens[:3]),
    ]
    assert [c.text for c in server.complete([STORY, "One"]).choices] == [
        server.text(),
        server.text("One"),
    ]
    return tokens


# ---- how tokens are drawn ---------------------------------------------------------------------------------------


def the_seed_decides_the_draws(server: Server) -> Any:
    texts = [server.text(temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    return texts


def the_samples_of_a_request_differ(server: Server) -> Any:
    for answer in (
        server.complete(temperature=1.0, n=4, seed=5),
        server.complete(temperature=1.0, n=4),
        server.complete(["One", "Two"], temperature=1.0, n=2),
    ):
        assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
        assert len({choice.text for choice in answer.choices}) == 4
    texts: dict[int, str] = {}
    for chunk in server.complete(temperature=1.0, n=4, seed=5, stream=True):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    whole = server.complete(temperature=1.0, n=4, seed=5)
    assert [texts[i] for i in range(4)] == [choice.text for choice in whole.choices]
    chats = server.chat(temperature=1.0, n=3).choices
    assert len({choice.message.content for choice in chats}) > 1
    return texts


def the_narrowest_top_p_top_k_and_min_p_leave_the_likeliest(server: Server) -> Any:
    greedy = server.text()
    assert server.text(temperature=1.0, top_p=1e-6) == greedy
    assert server.text(temperature=1.0, extra={"top_k": 1}) == greedy
    assert server.text(temperature=1.0, extra={"min_p": 1.0}) == greedy
    assert server.text(temperature=1.0, seed=3, top_p=0.9, extra={"top_k": 40, "min_p": 0.02})


def the_penalties_keep_text_from_repeating(server: Server) -> Any:
    prompt = "yes yes yes yes yes yes yes yes yes yes yes yes"
    distinct = {"none": len(set(server.ids(prompt, max_tokens=24)))}
    for name in ("frequency_penalty", "presence_penalty"):
        distinct[name] = len(set(server.ids(prompt, max_tokens=24, **{name: 2.0})))
    distinct["repetition_penalty"] = len(
        set(server.ids(prompt, max_tokens=24, extra={"repetition_penalty": 1.8}))
    )
    assert all(
        count > distinct["none"] for name, count in distinct.items() if name != "none"
    ), distinct
    return distinct


def the_logit_bias_forces_and_forbids_tokens(server: Server) -> Any:
    first = server.ids(max_tokens=1)[0]
    assert server.ids(max_tokens=4, logit_bias={"260": 100}) == [260] * 4
    assert server.ids(max_tokens=1, logit_bias={str(first): -100})[0] != first
    return first


# ---- where text ends --------------------------------------------------------------------------------------------


def the_number_of_tokens_is_exact(server: Server) -> Any:
    for count in (1, 2, 33):
        answer = server.complete(max_tokens=count, extra={"ignore_eos": True})
        assert (
            answer.usage.completion_tokens == count and answer.choices[0].finish_reason == "length"
        )


def the_end_token_ends_a_chat_unless_it_is_ignored(server: Server) -> Any:
    ended = server.chat(max_completion_tokens=64)
    assert ended.choices[0].finish_reason == "stop" and ended.usage.completion_tokens < 64
    ignored = server.chat(max_completion_tokens=64, extra={"ignore_eos": True})
    assert ignored.choices[0].finish_reason == "length" and ignored.usage.completion_tokens == 64
    least = ended.usage.completion_tokens + 5
    longer = server.chat(max_completion_tokens=64, extra={"min_tokens": least})
    assert longer.usage.completion_tokens >= least
    return ended.choices[0].message.content


def the_stop_strings_and_ids_end_text(server: Server) -> Any:
    text, tokens = server.text(max_tokens=24), server.ids(max_tokens=24)
    stop = text[8:14]
    for stops in (stop, ["no such text", stop]):
        answer = server.complete(max_tokens=24, stop=stops).choices[0]
        assert answer.text == text.partition(stop)[0] and answer.finish_reason == "stop"
    streamed = "".join(
        c.choices[0].text for c in server.complete(max_tokens=24, stop=stop, stream=True)
    )
    assert streamed == text.partition(stop)[0]
    assert server.text(
        max_tokens=24, stop=stop, extra={"include_stop_str_in_output": True}
    ).endswith(stop)
    ended = server.complete(max_tokens=24, extra={"stop_token_ids": [tokens[5]]})
    assert ended.choices[0].finish_reason == "stop" and ended.choices[0].stop_reason == tokens[5]
    return {"text": text, "stop": stop}


# ---- log-probabilities ------------------------------------------------------------------------------------------


def the_log_probabilities_of_greedy_tokens_are_the_highest(server: Server) -> Any:
    logprobs = server.complete(logprobs=5).choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) == 16
    for token, value, top in zip(
        logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True
    ):
        assert value <= 0 and len(top) == 5 and top[token] == max(top.values()) == value
    streamed = [c.choices[0].logprobs for c in server.complete(logprobs=5, stream=True)]
    found = [value for part in streamed if part for value in part.token_logprobs]
    assert all(abs(a - b) < 1e-3 for a, b in zip(found, logprobs.token_logprobs, strict=True))
    content = server.chat(logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert all(entry.top_logprobs[0].token == entry.token for entry in content)
    assert all(len(entry.top_logprobs) == 3 and entry.logprob <= 0 for entry in content)
    return logprobs.token_logprobs[:4]


def the_prompt_is_echoed_and_scored(server: Server) -> Any:
    echoed = server.complete(echo=True, logprobs=1, max_tokens=4).choices[0]
    assert echoed.text == STORY + server.text(max_tokens=4)
    scored = server.complete(echo=True, logprobs=1, max_tokens=0)
    values = scored.choices[0].logprobs.token_logprobs
    assert scored.choices[0].text == STORY and scored.usage.completion_tokens == 0
    assert values[0] is None and all(value <= 0 for value in values[1:])
    # What was drawn scores the same as a prompt.
    drawn = server.complete(max_tokens=8, logprobs=1, extra={"return_token_ids": True}).choices[0]
    whole = server.tokens(STORY) + drawn.token_ids
    again = server.complete(whole, echo=True, logprobs=1, max_tokens=0).choices[0].logprobs
    for a, b in zip(drawn.logprobs.token_logprobs, again.token_logprobs[-8:], strict=True):
        assert abs(a - b) < 1e-2, (drawn.logprobs.token_logprobs, again.token_logprobs[-8:])
    return values


# ---- what text must be ------------------------------------------------------------------------------------------


def the_text_fits_a_json_schema(server: Server) -> Any:
    form = {
        "type": "json_schema",
        "json_schema": {"name": "person", "schema": PERSON, "strict": True},
    }
    people = []
    for seed in (1, 2, 3):
        asked = [{"role": "user", "content": "Describe a person as JSON."}]
        options: Any = {"response_format": form, "temperature": 1.0, "seed": seed}
        answer = server.chat(asked, max_completion_tokens=100, **options).choices[0]
        person = json.loads(answer.message.content)
        assert answer.finish_reason == "stop" and set(person) == {"name", "age", "likes"}
        assert len(person["name"]) <= 12 and 0 <= person["age"] <= 120
        assert set(person["likes"]) <= {"tea", "rain"} and len(person["likes"]) <= 2
        chunks = server.chat(asked, max_completion_tokens=100, stream=True, **options)
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == answer.message.content
        people.append(person)
    return people


def the_text_matches_a_regex_a_choice_or_a_grammar(server: Server) -> Any:
    seen = {}
    for field, value, fits in (
        ("regex", r"[0-9]{3}-[a-f]{4}", re.compile(r"[0-9]{3}-[a-f]{4}").fullmatch),
        ("choice", ["red", "green", "blue"], {"red", "green", "blue"}.__contains__),
        ("grammar", 'start: "a" | "b" start', re.compile("b*a").fullmatch),
        ("json", {"type": "integer", "minimum": 3, "maximum": 5}, {"3", "4", "5"}.__contains__),
    ):
        for extra in ({"structured_outputs": {field: value}}, {f"guided_{field}": value}):
            text = server.text(max_tokens=64, temperature=1.0, seed=1, extra=extra)
            assert fits(text), (field, text)
        seen[field] = text
    return seen


def the_text_is_json_if_told(server: Server) -> Any:
    asked = [{"role": "user", "content": "Give me a small JSON object with one key."}]
    answer = server.chat(asked, response_format={"type": "json_object"}, max_completion_tokens=200)
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict)
    return answer.choices[0].message.content


def the_tools_are_called_when_they_must(server: Server) -> Any:
    asked = [{"role": "user", "content": "How is the weather in Paris?"}]
    named = {"type": "function", "function": {"name": "get_weather"}}
    calls = []
    for choice, reason in (("required", "tool_calls"), (named, "stop")):
        options: Any = {"tools": [TOOL], "tool_choice": choice, "max_completion_tokens": 80}
        whole = server.chat(asked, **options).choices[0]
        with server.client.chat.completions.stream(
            model=server.model, messages=asked, temperature=0, **options
        ) as stream:
            streamed = stream.get_final_completion().choices[0]
        for answer in (whole, streamed):
            assert answer.finish_reason == reason
            function = answer.message.tool_calls[0].function
            assert function.name == "get_weather" and set(json.loads(function.arguments)) == {
                "city"
            }
        calls.append(function.arguments)
    assert server.chat(asked, tools=[TOOL], tool_choice="auto").choices[0].finish_reason
    assert (
        server.chat(asked, tools=[TOOL], tool_choice="none").choices[0].message.tool_calls is None
    )
    return calls


# ---- leaving, failing, many at once -----------------------------------------------------------------------------


def the_request_of_a_closed_stream_ends(server: Server) -> Any:
    stream = server.complete(max_tokens=1000, stream=True, extra={"ignore_eos": True})
    for _, _chunk in zip(range(3), stream):
        pass
    assert server.gauge("num_requests_running") == 1
    start = time.monotonic()
    stream.close()
    while server.gauge("num_requests_running") or server.gauge("kv_cache_usage_perc"):
        assert time.monotonic() - start < 10, "still running"
        time.sleep(0.02)
    return {"gone_after_s": round(time.monotonic() - start, 2)}


def the_request_of_a_client_that_gives_up_ends(server: Server) -> Any:
    try:
        server.client.with_options(timeout=0.3).completions.create(
            model=server.model, prompt=STORY, max_tokens=1000, extra_body={"ignore_eos": True}
        )
    except openai.APITimeoutError:
        pass
    else:
        raise AssertionError("it had time enough")
    start = time.monotonic()
    while server.gauge("num_requests_running"):
        assert time.monotonic() - start < 10, "still running"
        time.sleep(0.02)


def the_refusals_are_the_client_s_own_exceptions(server: Server) -> Any:
    seen = {}
    for error, fields in (
        (openai.BadRequestError, {"temperature": -1}),
        (openai.BadRequestError, {"max_tokens": 10**6}),
        (openai.BadRequestError, {"extra_body": {"guided_regex": "("}}),
        (openai.NotFoundError, {"model": "other"}),
    ):
        try:
            server.client.completions.create(**{"model": server.model, "prompt": "a"} | fields)
        except error as raised:
            assert raised.body["message"]
            seen[next(iter(fields))] = raised.body["message"]
        else:
            raise AssertionError(f"{fields} was taken")
    return seen


def the_fields_that_are_unknown_are_ignored(server: Server) -> Any:
    assert server.text(user="me", extra={"no_such_field": {"a": 1}}) == server.text()


def the_many_requests_at_once_get_their_own_answers(server: Server) -> Any:
    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            ask = lambda number: client.completions.create(
                model=server.model,
                prompt=f"{number} and {number + 1} and",
                max_tokens=8,
                temperature=0,
            )
            answers = await asyncio.gather(*(ask(number % 8) for number in range(24)))
            return [answer.choices[0].text for answer in answers]

    texts = asyncio.run(ask_all())
    assert texts[:8] == texts[8:16] == texts[16:]
    assert texts[:8] == [
        server.text(f"{number} and {number + 1} and", max_tokens=8) for number in range(8)
    ]
    return texts[:3]


# ---- all of them ------------------------------------------------------------------------------------------------


def outcome(check: Callable[[Server], Any], server: Server) -> dict[str, Any]:
    """Returns a check's outcome."""
    start = time.monotonic()
    row: dict[str, Any] = {"check": check.__name__.replace("_", " ").replace(" s ", "'s ")}
    try:
        row |= {"passed": True, "seen": check(server)}
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        row |= {"passed": False, "error": f"{type(error).__name__}: {error}", "line": frame.line}
    return row | {"seconds": round(time.monotonic() - start, 2)}


def main() -> None:
    server = Server(sys.argv[1])
    checks = [value for name, value in globals().items() if name.startswith("the_")]
    print(json.dumps([outcome(check, server) for check in checks]))


if __name__ == "__main__":
    main()
