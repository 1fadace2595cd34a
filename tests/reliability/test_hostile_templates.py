"""No template hangs, eats the memory or runs anything: chat templates and instructions may be anybody's.

What a template may cost is measured here: the time of each trial and the memory of the process.
"""

import contextlib
import json
import resource
import threading
import time

import jinja2
import pytest

from engine.instructions import Instruction
from engine.text import Text, sandbox, weights
from engine.text.chat import TemplateError, TemplateLimitError
from engine.text.chat_templates import ChatTemplate
from engine.text.time_limit import OutOfTime, limited
from schemas.errors import UserError

MOST_SECONDS = 8.0  # of the wall, on a machine that does other things
MOST_MEMORY = 1 << 30

DOUBLED = (
    "{{% set ns = namespace(s={0}) %}}{{% for i in range(70) %}}{{% set ns.s = {1} %}}{{% endfor %}}"
    "{{{{ ns.s }}}}"
)
LOOP = "{% for a in range(99999) %}"
END = "{% endfor %}"
# Where memory would go, in one step or by doubling.
LARGE = [
    *("'a' * 10**10", "10**10 * 'a'", "[1] * 10**10", "(1,) * 10**10", "2 ** (10**9)", "(10**10) ** 9999999"),
    *("'%0999999999d' % 1", "'%*d' % (10**9, 1)", "'%999999999s' | format('a')", "'%.999999999f' % 1"),
    *("'{:>9999999999}'.format(1)", "'{:{w}}'.format(1, w=10**10)", "'{0:{1}}'.format(1, 10**10)"),
    *(
        "'x' | center(10**10)",
        "'x'.center(10**10)",
        "'x'.ljust(10**10)",
        "'x'.rjust(10**10)",
        "'1'.zfill(10**10)",
    ),
    *("'a\\nb' | indent(10**10)", "'a\\tb'.expandtabs(10**10)", "messages | tojson(indent=10**9)"),
    *(
        "[1] | batch(10**10, 'x') | list",
        "(5).to_bytes(10**10, 'big')",
        "1 | round(-10**9)",
        "1.5 | round(10**9)",
    ),
    *(
        "('a' * 10000).join(['b'] * 100000)",
        "(['b' * 1000] * 100000) | join",
        "range(100000) | join('x' * 100000)",
    ),
    *("('a' * 10**6).replace('a', 'b' * 10**6)", "('a' * 10**6) | replace('a', 'b' * 10**6)"),
    *("('a b ' * 10**5) | wordwrap(1, true, 'x' * 10**5)", "('a' * 10**6).translate({97: 'x' * 10**6})"),
    *(
        "('%(a)s' * 10**5) % {'a': 'b' * 10**5}",
        "('{0}' * 10**5).format('b' * 10**5)",
        "'a'.encode().center(10**10)",
    ),
    *(
        "['a'] | map('center', 10**10) | list",
        "(['a' * 10**6] * 10**4) | string",
        "(['a' * 10**6] * 10**4) ~ ''",
    ),
    # Whole numbers with which one step of a calculation takes long.
    *(
        "('f' * 400000) | int(base=16)",
        "(('f' * 400000) | int(base=16)) // (('f' * 200000) | int(base=16))",
        "(('f' * 400000) | int(base=16)) % (('f' * 200000) | int(base=16)) and 1",
        "(1).from_bytes(('a' * 400000).encode(), 'big')",
        "[('f' * 400000), 'f'] | map('int', base=16) | list",
        "[2 ** 99999, 2 ** 99999] | sum",
        "'%0999999999d'.encode() % 1",
    ),
    # Texts in millions of parts.
    *(
        "('( ' * 10**6) | title",
        "(',' * 2090000) | list",
        "(',' * 2090000) | sort",
    ),
    *("(',' * 2090000).split(',')", "(' ' * 2090000).split()", "('\n' * 2090000).splitlines()"),
]
DOUBLING = [
    *(
        ("'ab'", "ns.s ~ ns.s"),
        ("'ab'", "ns.s + ns.s"),
        ("[1]", "ns.s + ns.s"),
        ("'ab'", "[ns.s, ns.s] | join"),
    ),
    *(
        ("[1]", "[ns.s, ns.s]"),
        ("[1]", "(ns.s, ns.s)"),
        ("[1]", "{'a': ns.s, 'b': ns.s}"),
        ("1", "dict(a=ns.s, b=ns.s)"),
    ),
    *(
        ("1", "namespace(a=ns.s, b=ns.s)"),
        ("{'a': 1}", "{'a': ns.s.values(), 'b': ns.s.items()}"),
        ("'\"'", "ns.s | tojson"),
    ),
    *(
        ("'ab'", "ns.s.replace('a', 'aab')"),
        ("'ab'", "ns.s | replace('', ns.s)"),
        ("'ab'", "'%s%s' % (ns.s, ns.s)"),
    ),
    *(
        ("'ab'", "'{0}{0}'.format(ns.s)"),
        ("'ab'", "ns.s | indent(ns.s, true)"),
        ("'ab'", "ns.s.join([ns.s, ns.s])"),
    ),
]
# Where time would go.
ENDLESS = [
    LOOP * 3 + END * 3,
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(70) }}",
    f"{{% set x %}}{LOOP * 2}{{{{ a }}}}{END * 2}{{% endset %}}",
    f"{LOOP}{{{{ 'a' * 10000 }}}}{END}",
    f"{{% set x %}}{LOOP}{{{{ 'a' * 10000 }}}}{END}{{% endset %}}",
    "{{ lipsum(n=10**7) }}",
    "{{ ([[1] * 9] * 9999) | sum(start=[]) | length }}",
    "{% set ns = namespace(l=[]) %}{% for a in range(99999) %}{% set ns.l = ns.l + [a] %}{% endfor %}",
    "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}",
]
# What ends in an error of its own.
FAILING = [
    *(
        "{{ 1 / 0 }}",
        "{{ 10**400 / 3 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ),
    *("{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}", "{% block b %}{{ self.b() }}{% endblock %}"),
    *(
        "{{ range(10**9) }}",
        "{% include 'x' %}",
        "{% import 'os' as os %}",
        "{{ raise_exception('no') }}",
        "{{ x.y.z }}",
    ),
    *(
        "{{ messages | sum }}",
        "{{ 'a' + 1 }}",
        "{{ messages.append(1) }}",
        "{{ f() }}",
    ),
]
# What would run something.
ESCAPES = [
    *(
        "{{ cycler.__init__.__globals__.os.system('touch ' ~ file) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    ),
    *("{{ lipsum.__globals__['os'].popen('touch ' ~ file).read() }}", "{{ self.__init__.__globals__ }}"),
    *("{{ 'x' | attr('__class__') | attr('__mro__') | list }}", "{{ '{0.__class__.__mro__}'.format(1) }}"),
    *(
        "{{ namespace.__init__.__globals__ }}",
        "{{ messages.__class__.__base__ }}",
        "{{ joiner.__init__.__globals__.x }}",
    ),
    *(
        "{{ [''] | map(attribute='__class__') | map(attribute='__mro__') | first }}",
        "{{ raise_exception.__globals__.x }}",
    ),
    *(
        "{{ messages[0].update({'role': 'x'}) }}{{ messages[0].role }}",
        "{{ '%s' % cycler.__init__.__globals__ }}",
    ),
]
# What no compiler reads.
UNREADABLE = [
    *(
        "{% for %}",
        "{{ x | nofilter }}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + "-" * 50_000 + "1 }}",
    ),
    *(
        "{% if 1 %}" * 300 + "{% endif %}" * 300,
        "{{ x" + ".a" * 3000 + " }}",
        "{{ x" + " | list" * 3000 + " }}",
    ),
    *(
        "{{ " + "[" * 3000 + "]" * 3000 + " }}",
        "x" * 3_000_000,
        "{{ 1" + " * 1" * 3000 + " }}",
        "{{ '",
    ),
]


@pytest.fixture(autouse=True)
def limits(request, monkeypatch):
    """Small limits, since what is tried goes up to them; the real ones of memory in the long part."""
    monkeypatch.setattr(sandbox, "SECONDS", 0.05)
    if request.node.get_closest_marker("long") is None:
        monkeypatch.setattr(weights, "MOST", 2 << 20)
        monkeypatch.setattr(weights, "MOST_OF_ALL", 32 << 20)


def hostile_templates():
    yield from (f"{{{{ {expression} }}}}" for expression in LARGE)
    yield from (f"{{% set x = {expression} %}}" for expression in LARGE)
    yield from (DOUBLED.format(*both) for both in DOUBLING)
    yield from ENDLESS


def costs_little(work):
    """Do it; it must not take long or much."""
    begin = time.monotonic()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    work()
    assert time.monotonic() - begin < MOST_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - memory < MOST_MEMORY


MESSAGES = [{"role": "user", "content": "How much?"}, {"role": "assistant", "content": "Three."}]


both = pytest.mark.parametrize(
    "of", ["small limits", pytest.param("the real limits", marks=pytest.mark.long)]
)


@both
def test_a_chat_template_that_never_ends_or_grows_is_stopped(trials, of):
    with trials("a chat template that never ends, or grows without end") as trial:
        for text in hostile_templates():
            with trial(text[:200]):

                def render(text=text):
                    with pytest.raises(TemplateLimitError, match="the chat template is stopped: it"):
                        ChatTemplate(text).render({"messages": MESSAGES, "x": [1, 2]})

                costs_little(render)


def test_a_chat_template_that_fails_in_whatever_way_is_an_error_of_the_template(trials):
    with trials("a chat template that fails") as trial:
        for text in FAILING:
            with trial(text), pytest.raises(TemplateError, match=r"refuses the messages: ."):
                ChatTemplate(text).render({"messages": MESSAGES})


def test_a_template_that_reaches_for_more_than_it_is_given_gets_nothing(tmp_path, trials):
    file = tmp_path / "ran"
    with trials("a template that reaches for Python") as trial:
        for text in ESCAPES:
            with trial(text):
                messages = json.loads(json.dumps(MESSAGES))
                try:
                    said = ChatTemplate(text).render({"messages": messages, "file": str(file)})
                except TemplateError:
                    said = ""
                assert "class" not in said and "module" not in said
                assert messages == MESSAGES and not file.exists()
            path = tmp_path / "asked.txt"
            path.write_text(text.replace("messages", "conversation"))
            with trial(f"instruction: {text}"):
                try:
                    said = (
                        Instruction(str(path))
                        .question(conversation="q", file=str(file))
                        .messages[0]["content"]
                    )
                except UserError as error:
                    said = ""
                    assert "asked.txt" in str(error)
                assert "<class" not in said and "module" not in said and not file.exists()


def test_a_template_that_cannot_be_compiled_is_an_error(trials, model_path, tmp_path):
    with trials("a template that no compiler reads") as trial:
        for text in UNREADABLE:
            with trial(text[:100]), pytest.raises((jinja2.TemplateSyntaxError, TemplateLimitError)):
                ChatTemplate(text)
            path = tmp_path / "asked.txt"
            path.write_text(text)
            with (
                trial(f"instruction: {text[:100]}"),
                pytest.raises(UserError, match=r"asked\.txt.* is no template"),
            ):
                Instruction(str(path), "conversation")
        with (
            trial("of a model"),
            pytest.raises(UserError, match=f"of {model_path} is no template.*model.chat_temp"),
        ):
            Text(model_path, UNREADABLE[0])


@both
def test_an_instruction_that_never_ends_or_grows_is_stopped(tmp_path, trials, of):
    path = tmp_path / "asked.txt"
    with trials("an instruction that never ends, or grows without end") as trial:
        for text in hostile_templates():
            path.write_text(text.replace("messages", "[conversation]"))
            with trial(text[:200]):

                def ask():
                    with pytest.raises(UserError, match=r"asked\.txt cannot be filled: it"):
                        Instruction(str(path), "conversation", optional=("x",))

                costs_little(ask)
        for text in FAILING:
            path.write_text(text.replace("messages", "conversation"))
            with trial(text), pytest.raises(UserError, match=r"asked\.txt"):
                Instruction(str(path), "conversation", optional=("x",))


def test_a_template_that_no_short_dialogue_ends_is_named_at_planning(model_path):
    with pytest.raises(
        UserError, match=f"template of {model_path} cannot be used.*takes more than.*chat_template"
    ):
        Text(model_path, ENDLESS[0])


PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def test_a_template_that_grows_on_one_dialogue_refuses_that_one_alone(model_path, trials):
    growing = "{% if 'grow' in messages[0].content %}{{ 'a' * 10**10 }}{% endif %}" + PLAIN
    text = Text(model_path, growing)
    with trials("a row for which the chat template goes beyond its limits") as trial:
        for place in range(5):
            prompts = [[{"role": "user", "content": "grow" if row == place else "Why?"}] for row in range(5)]
            with trial(place):
                refused = [isinstance(ids, TemplateError) for ids in text.prompts(prompts)]
                assert refused == [row == place for row in range(5)]
                refused = [
                    isinstance(ids, TemplateError) for (ids,) in text.responses(prompts, [["Because."]] * 5)
                ]
                assert refused == [row == place for row in range(5)]


def test_a_template_that_is_slow_on_some_dialogues_is_given_up_after_a_few(model_path):
    slow = "{% if 'slow' in messages[0].content %}" + ENDLESS[0] + "{% endif %}" + PLAIN
    text = Text(model_path, slow)
    one = [{"role": "user", "content": "slow"}]
    assert isinstance(text.prompts([one])[0], TemplateLimitError)
    with pytest.raises(UserError, match=r"each of 3 dialogues it takes more than .*model.chat_template"):
        text.prompts([one] * 5)
    # What the message asks for helps.
    assert not isinstance(Text(model_path, PLAIN).prompts([one])[0], TemplateError)


def test_renderings_in_threads_are_stopped_each_by_itself(trials):
    """Three shards are made at a time: the one whose template hangs does not take the others with it."""
    endless, fine = ChatTemplate(ENDLESS[0]), ChatTemplate(PLAIN)
    outcomes: dict[int, object] = {}

    def render(number: int) -> None:
        template = endless if number % 2 else fine
        for _ in range(1 if number % 2 else 200):
            try:
                outcomes[number] = template.render({"messages": MESSAGES})
            except (TemplateError, UserError) as error:
                outcomes[number] = error

    with trials("renderings in threads") as trial:
        threads = [threading.Thread(target=render, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for number in range(6):
            with trial(number):
                assert isinstance(outcomes[number], Exception if number % 2 else str)


def test_the_time_limit_never_fires_after_the_work(trials):
    """Work that ends about when its time is over ends either way, and what comes after it is let alone."""
    with trials("work that ends about when its time is over") as trial:
        for number in range(60):
            with trial(number):
                begin = time.thread_time()

                def work(begin=begin, number=number):
                    while time.thread_time() - begin < 0.002 * (number % 8):
                        pass
                    return "done"

                with contextlib.suppress(OutOfTime):
                    assert limited(work, 0.001) == "done"
                assert sum(range(2000)) == 1999000


def test_nothing_of_what_is_weighed_is_refused_to_a_template_that_does_no_harm(monkeypatch):
    monkeypatch.undo()
    long = [{"role": "user", "content": "word " * 2000}] * 400  # four million letters
    text = ChatTemplate(
        "{% set ns = namespace(a=[]) %}{% for m in messages %}{% set ns.a = ns.a + [m] %}{% endfor %}"
        "{{ ns.a | tojson(indent=2) }}{{ messages | map(attribute='content') | join('\n') | trim }}"
        "{{ messages[0].content | title | length }}{{ messages[0].content.split() | length }}"
        "{{ messages[0].content | list | length }}{{ 10 ** 4000 // 10 ** 3999 }}{{ '7f' | int(base=16) / 2 }}"
        "{{ messages[0].content | indent(8) }}{{ messages[0].content.replace('w', 'W') }}"
    )
    rendered = text.render({"messages": long})
    assert json.loads(rendered[: rendered.index("]") + 1]) == long
    assert weights.weight(rendered) > 8_000_000
