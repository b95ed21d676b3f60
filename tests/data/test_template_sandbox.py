"""A template builds what Jinja would, and no template of a few lines takes gigabytes or hours: it
is refused with one sentence, soon."""

import time
from resource import RUSAGE_SELF, getrusage

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from seekjax.data import DataError
from seekjax.data.chat import compile_chat

TALK = [
    {"role": "user", "content": "hello\n<b>"},
    {"role": "assistant", "content": "a", "tool_calls": [{"name": "f", "arguments": {"x": "<é>"}}]},
]

REFUSED = (
    r"^the chat template (fails on this conversation|is not valid Jinja, or uses a feature that "
    r"seekjax does not allow): .+--template.$"
)


def grows(step, start="'x' ~ 'xxxxxxxxxxxxxxx'", times=60, then="{{ n.x }}"):
    """A template in which n.x takes a step again and again."""
    return (
        f"{{% set n = namespace(x={start}) %}}{{% for i in range({times}) %}}{step}{{% endfor "
        f"%}}{then}"
    )


BIG = {
    "wide filters": [
        "{{ 'x'|center(10**9) }}",
        "{{ '%0999999999d'|format(1) }}",
        "{{ ['x']|map('center', 10**9)|list }}",
        "{{ 'x'|wordwrap(1, wrapstring='yy') }}",
        "{{ 'a\\nb'|indent(10**9) }}",
        "{{ ['a']|tojson(indent=10**9) }}",
        "{{ [1]|batch(10**9, 'x')|list }}",
        "{{ [1]|slice(10**9)|list }}",
        "{{ 1.5|round(10**9, 'ceil') }}",
        "{{ 'x'|truncate(10**9) }}",
        "{{ [1]|sum(start=[]) }}",
        "{{ ('x'|attr('ljust'))(10**9) }}",
    ],
    "wide methods": [
        "{{ 'x'.ljust(10**9) }}",
        "{{ 'x'['rjust'](10**9) }}",
        "{{ 'x'.zfill(10**9) }}",
        "{{ 'a\\tb'.expandtabs(10**9) }}",
        "{{ (5).to_bytes(10**9, 'big') }}",
        "{{ 'x'.translate({120: 'y'}) }}",
        "{{ '{:>999999999}'.format_map({}) }}",
    ],
    "wide fields": [
        "{{ '{:>999999999}'.format('x') }}",
        "{{ '{:>{w}}'.format('x', w=999999999) }}",
        "{{ '{:.999999999f}'.format(1.0) }}",
    ],
    "operators": [
        "{{ 'a' * 999999999 }}",
        "{{ '%999999999s' % 'a' }}",
        "{{ 9 ** 999999999 }}",
        "{{ [1] * 999999999 }}",
    ],
    "repetition": [
        "{{ 999999999 * 'a' }}",
        grows("{% set n.x = n.x * 16 %}"),
        grows("{% set n.x = '%s%s' % (n.x, n.x) %}"),
        grows("{% set n.x = '%(a)s%(a)r' % {'a': n.x} %}"),
        grows("{% set n.x = '%s%s'|format(n.x, n.x) %}"),
        "{{ '%*d' % (999999999, 1) }}",
        "{{ '%.999999999f' % 1.0 }}",
        "{{ strftime_now('%999999999d') }}",
        "{{ strftime_now('%-0999999999Y') }}",
        grows("{% set n.x = strftime_now(n.x ~ n.x) %}", "'%c'"),
    ],
    "spread lists": [
        "{% set t = range(9999)|join %}{% set b = range(60000)|list %}{% for i in b %}"
        + body
        + "{% endfor %}"
        for body in (
            "{{ loop.cycle(*b) }}",
            "{{ loop.changed(t) }}",
            "{{ 'a'.format(*b) }}",
            "{{ range(*b) }}",
            "{{ 1|default(*b) }}",
            "{{ 1 is divisibleby(*b) }}",
            "{{ dict(**b) }}",
        )
    ]
    + [
        "{% macro f() %}{{ varargs|length }}{% endmacro %}{% set b = range(60000)|list %}"
        "{% for i in b %}{{ f(*b) }}{% endfor %}",
    ],
    "ranges": [
        "{{ range(10**9)|join }}",
        "{{ range(99999)|map('string')|join(range(99999)|join) }}",
    ],
    "doubling": [
        grows(f"{{% set n.x = {step} %}}")
        for step in (
            "n.x + n.x",
            "n.x ~ n.x",
            "n.x|replace('x', n.x)",
            "n.x.replace('', n.x)",
            "n.x.join(n.x)",
            "n.x|join(n.x)",
            "'{0}{0}'.format(n.x)",
            "'{0!r}{0}'.format(n.x)",
            "[n.x]|tojson + n.x",
        )
    ]
    + [grows("{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}")],
    "numbers": [
        grows("{% set n.x = n.x * n.x %}", "9"),
        grows("{% set n.x = n.x + n.x %}", "9", 999),
        grows("{% set n.x = n.x ** 16 %}", "9"),
    ],
    "lists in lists": [
        grows("{% set n.x = (n.x, n.x) %}", "(1,)", 60, then)
        for then in (
            "{{ n.x }}",
            "{{ n.x|string }}",
            "{{ n.x|tojson }}",
            "{{ n.x|unique|list }}",
            "{{ {n.x: 1} }}",
            "{{ {}[n.x] }}",
            "{{ {}.get(n.x) }}",
            "{{ n.x in [1] }}",
            "{{ '{}'.format(n.x) }}",
        )
    ]
    + [
        grows("{% set n.x = (n.x,) %}", "(1,)", 9999, then)
        for then in ("{{ n.x }}", "{{ {n.x: 1} }}")
    ],
    "copies": [
        grows("{% set n.x = n.x + [big[1:]] %}", "[]", 999, "").replace(
            "{%", "{% set big = range(9999)|join %}{%", 1
        )
    ],
    "loops": [
        "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
        "{% for i in range(9999) %}{% for j in range(9999) if false %}{% endfor %}{% endfor %}",
        "{% for i in range(9999) %}" + 999 * "x" + "{% endfor %}",
        "{% for x in [[1]] recursive %}{{ loop([[1], [1]]) }}{% endfor %}",
    ],
    "macros": [
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
        "{% macro f(n) %}"
        + 999 * "x"
        + "{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% macro f(n) %}{% if n %}{{ f(n-1, varargs, varargs) }}{% else %}{{ varargs "
        "}}{% endif %}{% endmacro %}{{ f(40, 1) }}",
    ],
    "source": [
        "{{ " + "<".join(9000 * ["a"]) + " }}",
        "{{ [" + 9000 * "1," + "] }}",
        9000 * "{{ a }}",
        "{{ " + 5000 * "9" + " }}",
        "{{ " + 9999 * "(" + " }}",
        60 * "{% for i in [1] %}" + 60 * "{% endfor %}",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    [source for sources in BIG.values() for source in sources],
    ids=lambda source: source[-60:],
)
def test_what_would_take_gigabytes_or_hours_is_refused(source):
    began, peak_before = time.perf_counter(), getrusage(RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=REFUSED):
        compile_chat(source).render(TALK)
    assert getrusage(RUSAGE_SELF).ru_maxrss - peak_before < 2**18  # KiB
    assert time.perf_counter() - began < 30  # a second or two, but for a busy machine


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content|trim|upper }}{{ 'a' ~ 1 ~ none }}",
        "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m['content'][1:-1] "
        "}}{% endfor %}",
        "{% macro f(x, y=2) %}[{{ x + y }}{{ caller() if caller }}]{% endmacro %}{{ f(1) "
        "}}{% call f(1, 1) %}c{% endcall %}",
        "{{ {'a': [1, (2, 3.5)]} }}{{ -7 % 3 }}{{ 2**10 }}",
        "{{ messages|map(attribute='role')|join(', ') }}{{ "
        "messages|selectattr('tool_calls', 'defined')|list|length }}{{ "
        "range(3)|list|reverse|list }}",
        "{% set n = namespace(x='') %}{% for m in messages %}{% set n.x = n.x + "
        "m.content.split('l')[-1] %}{% endfor %}{{ n.x.strip() }}",
        "{{ '{:>5}|{x!r}'.format(3, x='é') }}",
        "{{ 'a-b'.replace('-', '+') }}{{ 'x\ny'|indent(2, true) }}{{ '%'|replace('%', '') }}",
        "{% filter upper %}a{{ undefined }}{% endfilter %}{{ 1 in [1] and 'a' in 'ab' }}",
        "{% for k, v in messages[1].items() %}{{ k }}{% endfor %}{{ messages[0].get('x', "
        "'none') }}{{ 5 // 2 }}{{ [1] + [2] }}{{ 'b' > 'a' }}{{ [3, 1]|sort }}",
    ],
)
def test_builds_what_jinja_builds(source):
    expected = (
        ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        .from_string(source)
        .render(messages=TALK)
    )
    assert compile_chat(source).render(TALK) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ '-' * 3 }}{{ 3 * 'ab' }}{{ [1, 2] * 2 }}{{ 'a' * -1 }}", "---ababab[1, 2, 1, 2]"),
        (
            "{{ '%s: %05.1f%%' % ('é', 2) }}{{ '%s'|format(3) }}{{ '%(a)s' % {'a': 1} }}",
            "é: 002.0%31",
        ),
        ("{% generation %}\n{{ messages[1].content }}{% endgeneration %}!", "a!"),
        ("{{ strftime_now('%%Y') }}{{ dict(a=1)['a'] }}{{ 'a=b'.partition('=')[2] }}", "%Y1b"),
        (
            "{% for i in [1, 1, 2] %}{{ loop.changed(i) }}{{ loop.cycle('x', 'y') }}{% endfor %}",
            "TruexFalseyTruex",
        ),
    ],
)
def test_builds_what_transformers_builds(source, expected):
    assert compile_chat(source).render(TALK) == expected


def test_a_date_is_todays():
    assert compile_chat("{{ strftime_now('%Y') }}").render(TALK) == time.strftime("%Y")


def test_json_is_as_transformers_writes_it():
    source = (
        "{{ '<sep>' + messages[1].tool_calls[0].arguments|tojson + '<end>' }}{{ "
        "[1]|tojson(indent=1) }}{% for i in [1, 2] %}{{ i }}{% break %}{% endfor %}"
    )
    assert compile_chat(source).render(TALK) == '<sep>{"x": "<é>"}<end>[\n 1\n]1'


def test_a_long_conversation_may_build_more():
    talk = [{"role": "user", "content": 10**6 * "x"}] * 8
    source = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    assert len(compile_chat(source).render(talk)) == 8 * (10**6 + 7)
