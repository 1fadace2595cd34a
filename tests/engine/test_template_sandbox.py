"""Chat templates are rendered as transformers renders them, to the byte, whatever of Jinja they use."""

# ruff: noqa: E501 (a template a line)

import jinja2
import pytest
from transformers.utils.chat_template_utils import _compile_jinja_template

from engine.text.chat_templates import ChatTemplate, chat_environment

MESSAGES = [
    {"role": "system", "content": " Be <b>brief</b> & kind. "},
    {"role": "user", "content": "Wie groß?\n\tZwei \U0001f300"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "f", "arguments": {"é": [1, None]}}}],
    },
]
TEMPLATES = [
    "{% for m in messages %}\n  {% if loop.first %}A{% endif %}\n{{ m.role + ': ' + m.content | trim + '\n' }}{% endfor %}",
    "{{ messages | tojson }}{{ messages | tojson(indent=2, sort_keys=true) }}{{ tools }}{{ documents }}",
    "{% set ns = namespace(n=0, s='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% set ns.s = ns.s ~ m.role ~ ns.n %}{% endfor %}{{ ns.s }} {{ ns.n * 2 }} {{ ns.n ** 2 }} {{ ns.n % 2 }} {{ ns }}",
    "{% macro say(m, end='.') %}[{{ m.content }}]{{ end }}{{ caller() if caller else '' }}{% endmacro %}"
    "{{ say(messages[0]) }}{% call say(messages[1], end='!') %}x{% endcall %}",
    "{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}",
    "{% generation %}{% set a = 1 %}{{ messages[0].content }}{% endgeneration %}{{ a is defined }}",
    "{{ ['a', 'b'] + [1, 2.5, none, true] }}{{ ('x', 1) }}{{ {'k': [1], 'l': {}} }}{{ 'a' 'b' }}{{ [1] * 3 }}{{ 'ab' * 2 }}",
    "{{ '%s and %05.2f' % ('a', 1.5) }}{{ '{0:>6}|{x}'.format('b', x=2) }}{{ '%s' | format('z') }}",
    "{{ ' , '.join(['a', 'b']) }}{{ messages | map(attribute='role') | join(', ') }}{{ [1, 2] | join }}",
    "{{ messages[1:] | selectattr('role', 'equalto', 'user') | list | length }}{{ messages | last }}",
    "{% set x %}a{{ 1 + 1 }}{{ 'b' | upper }}{% endset %}{{ x ~ x }}{{ x | indent(3, true) }}{{ x.replace('a', 'bb') }}",
    "{{ 'a\nb' | indent }}{{ 'x'.center(9) }}{{ 'x' | center(9) }}{{ 1.256 | round(2) }}{{ 'a b' | title | replace('A', 'c') }}",
    "{{ undefined_one }}{{ undefined_one is defined }}{{ messages[0].nothing or 'none' }}{{ messages | string }}",
    "{% autoescape true %}{{ '<a>' ~ '&' }}{{ '<' | safe ~ '>' }}{{ ['<', '>'] | join('&') }}{% endautoescape %}",
    "{% for k, v in messages[2].tool_calls[0].function.items() %}{{ k }}={{ v }};{% endfor %}{{ -(messages | length) }}",
    "{% filter upper %}{{ messages[0].role }}{% endfilter %}{{ range(4) | batch(3, 'x') | list }}{{ joiner('|')() }}",
    "{{ messages | groupby('role') }}{{ dict(a=1, b=messages[0]) }}{{ cycler('a', 'b').next() }}{{ 7 // 2 }}{{ 7 / 2 }}",
    "{{ [[1], [2]] | sum(start=[0]) }}{{ messages | sum('role', '') if false }}{{ [1, 2.5] | sum }}"
    "{{ [{'a': [1]}, {'a': [2]}] | sum('a', []) }}{{ 'ff' | int(base=16) // 2 }}{{ 'a-b c' | title | list }}",
]
FAILING = [
    "{{ raise_exception('no ' + 'way') }}",
    "{{ 1 + 'a' }}",
    "{{ x.y.z }}",
    "{{ messages.pop() }}",
    "{{ 1 / 0 }}",
]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("prompted", [True, False])
def test_a_rendering_is_that_of_transformers(template, prompted):
    values = {"messages": MESSAGES, "tools": None, "documents": None, "add_generation_prompt": prompted}
    template += "{% if add_generation_prompt %}{{ bos_token }}\n{% endif %}"
    expected = _compile_jinja_template(template).render(**values, bos_token="<s>")
    assert ChatTemplate(template).render(values | {"bos_token": "<s>"}) == expected


@pytest.mark.parametrize("template", FAILING)
def test_a_refusal_says_what_transformers_says(template):
    with pytest.raises(Exception) as theirs:
        _compile_jinja_template(template).render(messages=MESSAGES)
    with pytest.raises(Exception) as ours:
        ChatTemplate(template).render({"messages": MESSAGES})
    assert str(theirs.value) in str(ours.value)


def test_the_environment_has_what_that_of_transformers_has():
    """But for the day, which the recipe says (model.date)."""
    theirs = _compile_jinja_template("").environment
    ours = chat_environment()
    assert ours.filters.keys() == theirs.filters.keys() and ours.tests.keys() == theirs.tests.keys()
    assert ours.globals.keys() == theirs.globals.keys() - {"strftime_now"}
    for option in ("trim_blocks", "lstrip_blocks", "keep_trailing_newline", "undefined", "autoescape"):
        assert getattr(ours, option) == getattr(theirs, option)
    assert len(ours.extensions) == len(theirs.extensions)
    assert isinstance(ours, jinja2.sandbox.ImmutableSandboxedEnvironment)
