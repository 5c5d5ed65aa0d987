"""Requests and outputs travel as JSON without loss, and what is no request is refused with its path."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trellax.inference.disaggregation import from_json, to_json
from trellax.inference.requests import Constraint, Output, Request, SamplingParams, TokenLogprobs

ids = st.integers(0, 2**31 - 1)
numbers = st.floats(allow_nan=False)
texts = st.text()

logprobs = st.builds(
    TokenLogprobs,
    token_id=ids,
    logprob=numbers,
    rank=ids,
    top=st.lists(st.tuples(ids, numbers), max_size=3).map(tuple),
)


@st.composite
def sampling_params(draw):
    max_tokens = draw(st.integers(1, 2**31))
    kinds = st.sampled_from(["json_schema", "json_object", "regex", "grammar", "choice"])
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=draw(st.floats(0, 100) | st.integers(0, 100)),
        top_k=draw(ids),
        top_p=draw(st.floats(0, 1, exclude_min=True)),
        min_p=draw(st.floats(0, 1)),
        presence_penalty=draw(st.floats(-2, 2)),
        frequency_penalty=draw(st.floats(-2, 2)),
        repetition_penalty=draw(st.floats(0, 100, exclude_min=True)),
        logit_bias=draw(st.lists(st.tuples(ids, st.floats(-100, 100)), max_size=3).map(tuple)),
        seed=draw(st.none() | st.integers(-(2**63), 2**64)),
        stop=draw(st.lists(st.text(min_size=1), max_size=3).map(tuple)),
        stop_token_ids=draw(st.lists(ids, max_size=3).map(tuple)),
        ignore_eos=draw(st.booleans()),
        min_tokens=draw(st.integers(0, max_tokens)),
        include_stop=draw(st.booleans()),
        logprobs=draw(st.none() | st.integers(0, 20)),
        prompt_logprobs=draw(st.none() | st.integers(0, 20)),
        constraint=draw(st.none() | st.builds(Constraint, kind=kinds, text=texts)),
        skip_special_tokens=draw(st.booleans()),
    )


requests = st.builds(
    Request,
    id=texts,
    prompt_ids=st.lists(ids, min_size=1, max_size=20).map(tuple),
    params=sampling_params(),
    priority=st.integers(-5, 5),
    cache_salt=texts,
)

outputs = st.builds(
    Output,
    request_id=texts,
    token_ids=st.lists(ids, max_size=4).map(tuple),
    text=texts,
    logprobs=st.none() | st.lists(logprobs, max_size=2).map(tuple),
    prompt_logprobs=st.none() | st.lists(st.none() | logprobs, max_size=2).map(tuple),
    num_cached_tokens=ids,
    finish_reason=st.sampled_from([None, "stop", "length", "abort", "error"]),
    stop_reason=st.none() | texts | ids,
    error=st.none() | texts,
)


@given(requests | outputs | logprobs)
def test_values_come_back_as_they_were(value):
    data = json.loads(json.dumps(to_json(value)))
    assert from_json(type(value), data) == value


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("prompt_ids",), [1, "2"], r"Request\.prompt_ids\[1\] is '2'; expected int"),
        (("prompt_ids",), [True], r"Request\.prompt_ids\[0\] is 'True'; expected int"),
        (
            ("params", "temperature"),
            "hot",
            r"Request\.params\.temperature is 'hot'; expected float",
        ),
        (("params", "temperature"), 101, "temperature is 101; it must be from 0 to 100"),
        (("params", "stop"), "ab", r"Request\.params\.stop is 'ab'; expected tuple"),
        (("params", "logit_bias"), [[1]], r"Request\.params\.logit_bias\[0\]"),
        (("params", "constraint"), {"kind": "xml", "text": ""}, r"constraint\.kind is 'xml'"),
        (("params", "top_q"), 1, r"Request\.params has missing or unknown fields \['top_q'\]"),
        (("params",), None, r"Request\.params is 'None'; expected SamplingParams"),
    ],
)
def test_what_is_no_request_is_refused_with_its_path(path, value, complaint):
    data = to_json(Request(id="a", prompt_ids=(1,)))
    parent = data
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    with pytest.raises(ValueError, match=complaint):
        from_json(Request, data)


def test_a_field_that_is_missing_is_named():
    data = to_json(Request(id="a", prompt_ids=(1,)))
    del data["priority"]
    with pytest.raises(ValueError, match=r"missing or unknown fields \['priority'\]"):
        from_json(Request, data)


def test_every_field_travels():
    for cls in (Request, SamplingParams, Output):
        value = (
            Request("a", (1,))
            if cls is Request
            else cls() if cls is SamplingParams else Output("a")
        )
        assert to_json(value).keys() == {field.name for field in dataclasses.fields(cls)}
