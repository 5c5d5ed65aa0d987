"""Templates write what the model was trained on; what clients send is data to them, checked and bounded."""

from __future__ import annotations

import datetime
import re
from typing import Any

import pytest

from trellax.inference.requests import RequestError
from trellax.inference.text import ChatTemplate

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}

# As SmolLM2's: a default system message, contents put together as strings.
CHATML = """{% for message in messages %}
    {%- if loop.first and message['role'] != 'system' %}{{ '<|start|>system\\nBe kind.<|end|>\\n' }}{% endif %}
    {{- '<|start|>' + message['role'] + '\\n' + message['content'] + '<|end|>' + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{- '<|start|>assistant\\n' }}
{%- endif %}"""

# As Llama 3's: tokens by name, trimmed contents, today's date, tools as JSON, a system message taken out.
HEADERS = """{{- bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '[system]' + system + '\\nToday: ' + strftime_now('%Y') + '\\n' }}
{%- if tools is not none %}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- '\\n' }}{%- endfor %}
{%- endif %}
{%- for message in messages %}
    {%- if message.role not in ['user', 'assistant', 'tool'] %}
        {{- raise_exception('No such role here: ' + message.role) }}
    {%- endif %}
    {%- if 'tool_calls' in message %}
        {%- for call in message.tool_calls %}
            {{- '[call]' + call.function.name }}
            {%- for name, value in call.function.arguments | items %}{{- ' ' + name + '=' + value | string }}{%- endfor %}
        {%- endfor %}
    {%- else %}
        {{- '[' + message['role'] + ']' + message['content'] | trim + eos_token }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '[assistant]' }}{%- endif %}"""

# As Qwen3's: the last question is searched from behind, earlier thoughts are left out, thinking can be turned off.
THINKING = """{%- set ns = namespace(found=false, last=0) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if not ns.found and message.role == "user" and message.content is string
        and not message.content.startswith('<tool_response>') %}
        {%- set ns.found = true %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == "assistant" and '</think>' in content %}
        {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- if loop.index0 > ns.last %}{%- set content = '<think>' + thought + '</think>' + content %}{%- endif %}
    {%- endif %}
    {{- message.role + ': ' + content + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- 'assistant: ' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think></think>' }}{%- endif %}
{%- endif %}"""


def chat(source: str | None, **limits: Any) -> ChatTemplate:
    return ChatTemplate(source, special_tokens=SPECIAL, **limits)


def said(*texts: str) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


# ---- templates as published models have them ----------------------------------------------------


def test_messages_are_put_together_with_a_system_message_of_the_template() -> None:
    assert chat(CHATML).render(said("Hi.", "Hello.", "Who is Emma?")) == (
        "<|start|>system\nBe kind.<|end|>\n<|start|>user\nHi.<|end|>\n<|start|>assistant\nHello.<|end|>\n"
        "<|start|>user\nWho is Emma?<|end|>\n<|start|>assistant\n"
    )


def test_special_tokens_tools_and_dates_are_the_templates_to_use() -> None:
    tools = [{"type": "function", "function": {"name": "find", "parameters": {"é<&>": []}}}]
    call = {
        "type": "function",
        "function": {"name": "find", "arguments": '{"who": "Emma", "n": 2}'},
    }
    messages = [
        {"role": "system", "content": " Be kind. "},
        {"role": "user", "content": " Find Emma."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "Hartfield"},
    ]
    text = chat(HEADERS).render(messages, tools=tools)
    assert text == (
        f"<s>[system]Be kind.\nToday: {datetime.date.today().year}\n"
        '{\n    "type": "function",\n    "function": {\n        "name": "find",\n        "parameters": {\n'
        '            "é<&>": []\n        }\n    }\n}\n'
        "[user]Find Emma.</s>[call]find who=Emma n=2[tool]Hartfield</s>[assistant]"
    )


def test_earlier_thoughts_are_left_out_and_thinking_is_turned_off() -> None:
    messages = said("One?", "<think>\nHm.\n</think>\n\nTwo.", "Three?")
    kwargs = {"enable_thinking": False}
    assert chat(THINKING).render(messages, template_kwargs=kwargs) == (
        "user: One?\nassistant: Two.\nuser: Three?\nassistant: <think></think>"
    )
    assert chat(THINKING).render(messages[:2], add_generation_prompt=False) == (
        "user: One?\nassistant: <think>Hm.</think>Two.\n"
    )


def test_blocks_are_trimmed_and_loops_are_left_as_huggingface_does() -> None:
    source = "{% for m in messages %}\n  {% if loop.index > 2 %}\n    {% break %}\n  {% endif %}\n{{ m.content }}\n"
    source += "  {% generation %}\n{{ loop.index }}\n  {% endgeneration %}\n{% endfor %}\n"
    assert chat(source).render(said("a", "b", "c")) == "a\n1\nb\n2\n"


# ---- what clients send --------------------------------------------------------------------------


def test_parts_of_a_message_are_joined() -> None:
    parts = [{"type": "text", "text": "Who is"}, {"type": "text", "text": "Emma?"}]
    text = chat("{{ messages[0].content }}").render([{"role": "user", "content": parts}])
    assert text == "Who is\nEmma?"


def test_a_template_that_wants_parts_gets_them() -> None:
    source = "{% for part in messages[0].content %}{{ part.type }}={{ part['text'] }};{% endfor %}"
    assert chat(source).render(said("Hi.")) == "text=Hi.;"


def test_developers_are_the_system_to_templates_that_do_not_know_them() -> None:
    messages = [{"role": "developer", "content": "Be brief."}, *said("Hi.")]
    assert chat(CHATML).render(messages).startswith("<|start|>system\nBe brief.<|end|>")
    assert chat("{{ messages[0].role }}{# developer #}").render(messages) == "developer"


@pytest.mark.parametrize(
    "hostile",
    [
        "{{ 7 * 7 }}",
        "{% raw %}{{ x }}",
        "{# gone #}",
        "{{ ''.__class__.__mro__ }}",
        "{% include 'x' %}",
    ],
)
def test_jinja_in_messages_is_text(hostile: str) -> None:
    text = chat(CHATML).render([{"role": "user", "content": hostile}])
    assert f"<|start|>user\n{hostile}<|end|>" in text
    tools = [{"type": "function", "function": {"name": hostile}}]
    assert hostile in chat(HEADERS).render(said("Hi."), tools=tools)


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        (None, "messages is None"),
        ([], "messages is list"),
        ("Hi.", "messages is 'Hi.'"),
        ({"role": "user"}, "messages is dict"),
        (["Hi."], "messages[0] is 'Hi.'"),
        ([{"content": "Hi."}], "messages[0].role is None"),
        ([*said("Hi."), {"role": "wizard", "content": ""}], "messages[1].role is 'wizard'"),
        ([{"role": ["user"], "content": ""}], "messages[0].role is list"),
        ([{"role": "user"}], "messages[0].content is None"),
        ([{"role": "user", "content": 3}], "messages[0].content is 3"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "content[0].type is 'image_url'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "content[0].text is None"),
        ([{"role": "user", "content": [[]]}], "content[0].type is None"),
        ([{"role": "assistant", "tool_calls": "x"}], "messages[0].tool_calls is 'x'"),
        ([{"role": "assistant", "tool_calls": [{}]}], "messages[0].tool_calls[0] is dict"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
            "tool_calls[0].function.arguments is '{'",
        ),
    ],
)
def test_what_are_no_messages_is_refused_by_name(messages: Any, complaint: str) -> None:
    with pytest.raises(RequestError, match=re.escape(complaint)) as error:
        chat(CHATML).render(messages)
    assert error.value.param == "messages"


def test_what_the_template_says_against_messages_is_the_clients_to_know() -> None:
    messages = [*said("Hi."), {"role": "system", "content": "Late."}]
    with pytest.raises(RequestError, match="No such role here: system"):
        chat(HEADERS).render(messages)


def test_a_template_that_trips_over_a_message_refuses_it() -> None:
    with pytest.raises(RequestError, match="does not take these messages") as error:
        chat("{{ messages[0].content }}{{ messages[0].name + 1 }}").render(said("Hi."))
    assert error.value.param == "messages"


@pytest.mark.parametrize("tools", ["f", [3], [{}], [{"function": {}}], {"function": {"name": "f"}}])
def test_what_are_no_tools_is_refused(tools: Any) -> None:
    with pytest.raises(RequestError, match="tools") as error:
        chat(HEADERS).render(said("Hi."), tools=tools)
    assert error.value.param == "tools"


def test_tools_are_refused_where_the_template_would_leave_them_out() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    with pytest.raises(RequestError, match="knows no tools"):
        chat(CHATML).render(said("Hi."), tools=tools)
    assert chat(CHATML).render(said("Hi."), tools=[]) == chat(CHATML).render(said("Hi."))


@pytest.mark.parametrize("name", ["messages", "bos_token", "add_generation_prompt"])
def test_names_that_the_template_relies_on_cannot_be_set(name: str) -> None:
    with pytest.raises(RequestError, match=name) as error:
        chat(CHATML).render(said("Hi."), template_kwargs={name: "x"})
    assert error.value.param == "chat_template_kwargs"


# ---- bounds -------------------------------------------------------------------------------------


def test_a_model_without_a_template_says_so() -> None:
    with pytest.raises(RequestError, match="no chat template"):
        chat(None).render(said("Hi."))


def test_a_template_that_is_no_jinja_is_refused_when_it_is_compiled() -> None:
    with pytest.raises(ValueError, match="line 2"):
        chat("{% for m in messages %}\n{% oops %}")


def test_a_long_text_is_refused() -> None:
    template = chat(CHATML, max_characters=1000)
    assert template.render(said("a" * 900))
    with pytest.raises(RequestError, match="longer than 1000 characters"):
        template.render(said("a" * 990))


def test_a_template_that_takes_long_is_stopped() -> None:
    source = "{% for a in messages %}{% for b in messages %}{{ b.role }}{% endfor %}{% endfor %}"
    with pytest.raises(RequestError, match="more than 0.05 s"):
        chat(source, max_seconds=0.05).render(said(*["x"] * 3000))


def test_deeply_nested_values_are_refused() -> None:
    nested: Any = {}
    for _ in range(200_000):
        nested = {"a": nested}
    tools = [{"type": "function", "function": {"name": "f", "parameters": nested}}]
    with pytest.raises(RequestError, match="nested too deep"):
        chat(HEADERS).render(said("Hi."), tools=tools)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% set _ = messages.append(1) %}",
        "{{ cycler.__init__.__globals__ }}",
    ],
)
def test_templates_do_not_reach_out_of_the_sandbox(source: str) -> None:
    with pytest.raises(RequestError, match="does not take these messages"):
        chat(source).render(said("Hi."))
