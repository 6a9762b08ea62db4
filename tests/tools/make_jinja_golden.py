#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/jinja.jsonl: templates of our own, their variables, and what jinja2 makes of them.

usage: make_jinja_golden.py > tests/golden/jinja.jsonl      (jinja2 3.1.6)

The environment is the one of transformers' chat templates. A line: t (template), v (variables, {} if absent), and
text, or raised (raise_exception's message), or error (any other failure; its words are Python's, ours differ).
"""
import datetime
import json
import re
import sys

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def strftime_now(form):
    return datetime.datetime(2024, 7, 15, 12, 34, 56).strftime(form)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = strftime_now
    return env


V = {"s": "Hello World", "u": "naïve 北京 😀", "e": "", "n": 5, "f": 2.5, "z": 0, "t": True, "no": None,
     "l": [3, 1, 2], "w": ["b", "a", "C"], "d": {"b": 1, "a": "x", "c": [1, {"k": None}]},
     "m": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo", "n": 2},
           {"role": "user", "content": "bye"}],
     "q": "it's \"q\"", "x": "  pad\t\n", "lines": "a\nb\n\nc\n"}


def exprs(*texts):
    """Each as one output."""
    return [("{{ " + t + " }}", V) for t in texts]


CASES = []
# white space
CASES += [(t, V) for t in (
    "", "\n", "a\n", "a\n\n", "a\r\nb\rc\n", "{{ 1 }}\n", "{% if t %}\na\n{% endif %}\nb", "  {% if t %}\n  a\n  {% endif %}\n  b",
    "x  {% if t %}  y  {% endif %}  z", "a {{- s -}} b", "a\n\n {{- s }}\n\nb", "a {%- if t -%}  b  {%- endif -%} c",
    "  {%+ if t %}a{% endif %}", "{% if t +%}\na{% endif %}", "{% if t -%}\n\n  a{% endif %}", "a{# c #}b", "a{# c #}\nb",
    "a  {#- c -#}  b", "  {# c #}\nb", "x {# c #}\nb", "a\n  {# c #}  \nb", "{#- c #} a", "{#+ c +#}\na", "{##}a", "{#-#} a",
    "{% raw %}{{ s }}{% x %}{% endraw %}", "{% raw %}\n a \n{% endraw %}\nb", "  {%- raw -%}  a  {%- endraw -%}  b",
    "a\n  {% raw %}b\n  {% endraw %}\nc", "{% for i in l %}\n  {{ i }}\n{% endfor %}\nend", "{% for i in l -%}\n  {{ i }}\n{%- endfor %}\nend",
    "\t{% set a = 1 %}\n{{ a }}", "\u00a0{% if t %}a{% endif %}", "a\u3000{%- if t %}b{% endif %}", "{{ '{%' }} {{ '}}' }}", "{ { } } {x}",
    "{{ {'a': {'b': 1}}.a.b }}", "{{ {'a':{'b':1}} }}", "{% if t %}a{% endif %}\n\n  {% if t %}b{% endif %}", "{{ s }}  {% if t %}\nb{% endif %}",
    "{% set a = 'x\ny' %}{{ a }}", "{% if t\n%}a{% endif %}", "{{ s\n}}", "   {{ s }}", "{% if t %}\n    {% if t %}\nx\n    {% endif %}\n{% endif %}")]
# literals and operators
CASES += exprs(
    "1", "1.0", "1e3", "1.5e-7", "1_000", "1e16", "1e15", "123456789.125", "0.1 + 0.2", "1e22", "5e-324", "1/3", "-0.0", "true", "True", "none", "None", "'a' 'b'",
    "'\\n\\t\\\\\\'\\x41\\u00e9\\q'", '"a\\"b"', "'\\101'", "[]", "[1, 'a', none, true, 1.5]", "(1,)", "()", "(1, 2)", "1, 2", "{}", "{'a': 1, 2: 'b'}", "[1, 2,]",
    "1 + 2 * 3", "(1 + 2) * 3", "7 // 2", "-7 // 2", "7 % 3", "-7 % 3", "7 % -3", "7.5 // 2", "-7.5 % 2", "2 ** 10", "2 ** -1", "2 ** 3 ** 2", "4 / 2", "1 - 2 - 3", "-n", "+n", "--n", "- f",
    "t + 1", "'a' + 'b'", "'ab' * 3", "3 * 'ab'", "[1] * 2", "[1] + [2]", "(1,) + (2,)", "'a' ~ 1 ~ none ~ true ~ 1.0", "1 ~ 2 + 3",
    "1 < 2 < 3", "1 < 3 < 2", "1 == 1.0", "1 == true", "'1' == 1", "'a' < 'b'", "[1, 2] < [1, 3]", "[1] == [1]", "(1,) == [1]", "{'a': 1} == {'a': 1.0}", "none == none", "1 != 2",
    "2 >= 2", "'a' in 'abc'", "'' in ''", "1 in [1, 2]", "'b' in d", "1 not in [1]", "not 'x' in 'y'", "not true", "not not 5", "1 and 0 or 2", "0 or ''", "'' or 'x'", "'a' and 'b'", "not n == 5",
    "'y' if t else 'n'", "'y' if z else 'n'", "'y' if z", "1 if z else 2 if z else 3", "(1 if t else 2) + 3", "n > 3 and f < 3", "missing", "missing == missing", "missing or 'd'", "1 in missing",
    "not missing", "missing ~ 'a'", "[missing]", "2 * 3 % 4", "10 - 2 ~ 3", "1 is odd", "-1 | abs", "-n | abs", "n is number and s is string", "1 + n is defined", "9223372036854775807", "-5 // 3 * 2",
    "0.1", "1e-5", "0.0001", "12345678901234.5", "1.0e100", "3.0 == 3", "true and false", "'\\u5317'", "(1)", "((1, 2), 3)", "1 .__class__ is defined" )
# items, attributes, slices
CASES += exprs(
    "d.b", "d['a']", "d.c[1].k", "d.nope", "d.nope is defined", "d['nope'] is undefined", "l[0]", "l[-1]", "l[9]", "l[9] is defined", "s[0]", "s[-1]", "u[6]", "u[6:8]", "l[1:]", "l[:2]", "l[::-1]",
    "l[::2]", "s[::-1]", "u[::-1]", "s[1:8:3]", "s[-3:]", "s[5:2]", "l[10:]", "l[-10:2]", "s[:-6]", "m[0].role", "m[-1]['content']", "m[1:]|length", "m[::-1][0].content", "d.items is callable",
    "d.keys()|list", "d.values()|list", "d.items()|list", "d.get('b')", "d.get('zz')", "d.get('zz', 7)", "d.get('b', 7)", "l.0", "m.1.n", "d.keys()", "d.items()", "{'items': 1}['items']",
    "{'items': 1}.items()|list", "none.x is defined", "n.x is defined", "l.append is defined", "l.index(2)", "l.count(3)", "(1, 2)[0]", "(1, 2, 3)[1:]", "range(5)[2]", "range(5)[1:3]|list", "u|length", "u[-1]", "l[true]", "d.copy().b",
    "l['x'] is defined", "s.upper()[0:2]", "'abc'[1]", "{1: 'a', 1.0: 'b', true: 'c'}", "{'a': 1, 'a': 2}", "{none: 1}[none]", "(m[0])['role']")
# string methods
CASES += exprs(
    "x.strip()", "x.lstrip()", "x.rstrip()", "'xxaxx'.strip('x')", "'abcba'.strip('ab')", "'xxa'.lstrip('x')", "'axx'.rstrip('x')", "'\\u3000a\\u2003'.strip()", "s.split()", "s.split(' ')", "s.split('o')", "s.split('o', 1)", "'a,b,,c'.split(',')",
    "'  a  b  '.split()", "'  a  b  '.split(' ')", "' a b c '.split(none, 1)", "'a b c'.split(maxsplit=1)", "'a b c'.rsplit(' ', 1)", "' a b c '.rsplit(none, 1)", "'a-b-c'.rsplit('-')", "'abc'.split('x')", "''.split(',')", "''.split()", "'a</think>b'.split('</think>')[-1]",
    "s.startswith('He')", "s.startswith(('x', 'He'))", "s.endswith('ld')", "s.endswith(('x',))", "s.startswith('e', 1)", "s.startswith('')", "s.replace('o', '0')", "s.replace('o', '0', 1)", "'aaa'.replace('aa', 'b')", "'ab'.replace('', '-')", "s.upper()", "s.lower()", "'hello world-x it\\'s'.title()",
    "'hELLO'.capitalize()", "'aBc'.swapcase()", "s.find('o')", "s.find('zz')", "s.find('o', 5)", "s.rfind('o')", "s.index('W')", "u.find('京')", "s.count('l')", "'aaa'.count('aa')", "'abc'.count('')", "', '.join(w)", "''.join([])", "'abc'.join('xyz')", "'a\\nb\\r\\nc'.splitlines()", "lines.splitlines()",
    "'a\\nb'.splitlines(true)", "'a=b=c'.partition('=')", "'a=b=c'.rpartition('=')", "'abc'.partition('x')", "'abc'.rpartition('x')", "'prefix-x'.removeprefix('prefix-')", "'x.py'.removesuffix('.py')", "'abc'.isalpha()", "'a1'.isalnum()", "'12'.isdigit()", "''.isdigit()", "'ab c'.islower()", "'AB'.isupper()",
    "' '.isspace()", "'Ab Cd'.istitle()", "'é'.upper()", "'ß'.upper()", "'É'.lower()", "'7'.zfill(3)", "'-7'.zfill(4)", "'a'.center(4)", "'a'.center(5, '*')", "'ab'.center(5)", "'a'.ljust(3) ~ '|'", "'a'.rjust(3)", "'abc'.isascii()", "'abcabc'.rindex('b')", "'a b'.split(' ', maxsplit=0)",
    "'北京'.split('京')", "u.upper()", "'x' in s.lower().split()", "'aXbX'.rstrip('X')", "'a  b'.split('  ')", "'abc'.endswith('c', 0, 2)", "'ab'.startswith('ab', 0, 1)")
# filters
CASES += exprs(
    "s|length", "l|count", "d|length", "e|length", "missing|length", "x|trim", "'xax'|trim('x')", "s|upper", "s|lower", "'foo bar-baz (qux)'|title", "'fOO'|capitalize", "s|replace('o', '0')", "s|replace('o', '0', 1)", "123|replace(1, 4)", "l|join", "l|join(', ')", "m|join(', ', attribute='role')", "s|join('-')",
    "d|tojson", "l|tojson", "none|tojson", "true|tojson", "1.0|tojson", "1e20|tojson", "q|tojson", "u|tojson", "'<a>&\\u0001\\x7f\\u2028/'|tojson", "d|tojson(indent=2)", "[]|tojson(indent=2)", "{}|tojson(indent=2)", "[[], {}]|tojson(indent=1)", "d|tojson(indent=0)", "d|tojson(ensure_ascii=true)", "u|tojson(true)",
    "d|tojson(separators=(',', ':'))", "d|tojson(sort_keys=true)", "{1: 2, none: 3, true: 4, 1.5: 5}|tojson", "(1, 2)|tojson", "d|tojson|safe", "s|safe", "5|safe", "l|first", "l|last", "[]|first is defined", "s|first", "s|last", "missing|default('d')", "e|default('d')", "e|default('d', true)", "no|default('d')", "no|d('d', boolean=true)",
    "missing|d", "n|string", "n|string is string", "no|string", "d|string", "w|string", "'12'|int", "'x'|int", "'x'|int(7)", "'12.7'|int", "2.9|int", "-2.9|int", "' 5 '|int", "'1.5'|float", "'x'|float", "3|float", "true|int", "none|int(default=3)", "d|items|list", "missing|items|list", "d|list", "s|list", "l|list",
    "m|map(attribute='role')|list", "m|map(attribute='n', default=0)|list", "w|map('upper')|list", "w|map('replace', 'a', 'z')|join(',')", "m|map(attribute='content')|map('length')|sum", "[[1, 2], [3]]|map('first')|list", "l|select('odd')|list", "l|reject('odd')|list", "l|select('gt', 1)|list", "[0, 1, '', 'a']|select|list", "[0, 1]|reject|list",
    "m|selectattr('role', 'equalto', 'user')|list|length", "m|selectattr('role', '==', 'user')|map(attribute='content')|join(',')", "m|rejectattr('role', 'eq', 'user')|map(attribute='content')|list", "m|selectattr('n')|list|length", "m|selectattr('n', 'defined')|list|length", "m|rejectattr('n', 'undefined')|list|length", "m|selectattr('role', 'in', ['user'])|list|length",
    "[1, 2, 1]|unique|list", "['a', 'A']|unique|list", "['a', 'A']|unique(true)|list", "l|sort", "l|sort(reverse=true)", "w|sort", "w|sort(case_sensitive=true)", "m|sort(attribute='content')|map(attribute='content')|list", "[(2, 'b'), (1, 'z')]|sort", "l|reverse|list", "s|reverse", "-5|abs", "-5.5|abs", "2.567|round(2)", "2.5|round", "3.5|round", "2.4|round(method='ceil')",
    "2.6|round(0, 'floor')", "5|round", "l|min", "l|max", "w|min", "w|max", "m|max(attribute='content')", "[]|max is defined", "l|sum", "[1.5, 2]|sum", "[{'a': 1}, {'a': 2}]|sum(attribute='a')", "l|sum(start=10)", "d.c|length", "{'b': 1, 'a': 2}|dictsort", "{'b': 1, 'a': 2}|dictsort(by='value')", "{'B': 1, 'a': 2}|dictsort(true)", "{'b': 1, 'a': 2}|dictsort(reverse=true)",
    "lines|indent", "lines|indent(2, true)", "lines|indent('> ')", "lines|indent(2, blank=true)", "'a b c'|wordcount", "'<a href=\"x\">&\\'</a>'|e", "d|attr('nope') is defined", "s|upper|lower|length", "-2|abs + 1", "l|length > 2", "(l|length) - 1", "l|length - 1", "w|first|upper", "'a'|default('b')|upper", "[3, 1]|sort|first", "1.0|int|string + 'x'",
    "l|map('string')|join('+')", "[1, [2, {'a': \"it's\"}], 'b\"c', 'd\\ne', 'é\\u200b']", "{'k': (1, 'x')}", "[1.0, 1e100, -0.5]", "[none, true]", "d", "['\\'\"']", "'%s' is string", "m|list|last|tojson", "range(3)|list", "range(3)", "range(1, 10, 3)|list", "range(5, 0, -2)|list", "range(0)|list", "dict(a=1, b='x')", "dict({'a': 1}, b=2)|tojson", "dict([('a', 1)])",
    "1|string", "l|sort|join(',')|length", "[[2, 1], [1, 2]]|map('sort')|list", "missing|upper", "missing|trim", "missing|list", "missing|join", "missing|string|length", "[missing|default(1)]", "'10'|int + 5", "3.7|int", "'a,b'.split(',')|map('upper')|list", "['x', 'y']|map('tojson')|join(' ')")
# tests
CASES += [("{{ %s is %s }}{{ %s is not %s }}" % (v, t, v, t), V) for v in ("missing", "no", "t", "n", "f", "s", "l", "d", "range(2)", "(1,)", "d.items()", "z") for t in (
    "defined", "undefined", "none", "boolean", "true", "false", "integer", "float", "number", "string", "mapping", "sequence", "iterable", "callable")]
CASES += exprs("4 is even", "3 is odd", "9 is divisibleby 3", "9 is divisibleby(2)", "1 is eq 1", "1 is equalto(2)", "1 is ne 2", "1 is lt 2", "2 is ge 2", "1 is in [1, 2]", "1 is not in [1]", "none is sameas none", "'a' is upper", "'a' is lower", "s is string and n is integer", "s is defined or missing.x",
               "raise_exception is callable", "1 is gt 0 and 1 is le 1", "not s is string", "n is defined and n is not none", "d is mapping", "'x' is in 'xyz'", "s.split is callable", "loop is defined", "range is defined", "namespace is defined", "m[0].content is string", "x if x is string else 1")
# statements
CASES += [(t, V) for t in (
    "{% if z %}a{% elif n == 5 %}b{% else %}c{% endif %}", "{% if z %}a{% elif no %}b{% else %}c{% endif %}", "{% if missing %}a{% endif %}x", "{% if l and not z %}y{% endif %}",
    "{% for x in l %}{{ x }}{% if not loop.last %},{% endif %}{% endfor %}", "{% for x in [] %}a{% else %}empty{% endfor %}", "{% for x in l if x > 1 %}{{ x }}{{ loop.index }}{{ loop.length }}{% endfor %}", "{% for x in l if x > 9 %}a{% else %}none{% endfor %}",
    "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }};{% endfor %}", "{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }}|{% endfor %}", "{% for x in l %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}",
    "{% for x in l %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for x in l %}{% for y in w %}{{ loop.index }}{{ y }}{% endfor %}{{ loop.index }};{% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k, v in d|items %}{{ k }}={{ v }};{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}", "{% for (a, b) in [(1, 2), (3, 4)] %}{{ a }}{{ b }}{% endfor %}",
    "{% for c in u %}[{{ c }}]{% endfor %}", "{% for x in missing %}a{% else %}b{% endfor %}", "{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}", "{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "{% for x in range(3) %}{{ x }}{% endfor %}", "{% for x in 1, 2 %}{{ x }}{% endfor %}", "{% for m in m %}{{ m.role }}{% endfor %}",
    "{% for x in l|reverse %}{{ x }}{{ loop.length }}{% endfor %}", "{% set a = 1 %}{{ a }}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a = 1, 2 %}{{ a }}", "{% set a = 1 %}{% for i in l %}{% set a = a + i %}{{ a }}{% endfor %}{{ a }}", "{% set a = 1 %}{% if t %}{% set a = 2 %}{% endif %}{{ a }}", "{% for i in l %}{% set last = i %}{% endfor %}{{ last is defined }}",
    "{% set ns = namespace(a=1, b='x') %}{% for i in l %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{{ ns.b }}", "{% set ns = namespace() %}{{ ns.x is defined }}{% set ns.x = 1 %}{{ ns.x }}", "{% set ns = namespace({'k': 1}) %}{{ ns.k }}{{ ns['k'] }}", "{% set x %}a{{ n }}b{% endset %}[{{ x }}]", "{% set x | upper %}abc{% endset %}{{ x }}", "{% set x | replace('a', 'b') | upper %}aaa{% endset %}{{ x }}",
    "{% set ns = namespace(t='') %}{% set ns.t %}body{% endset %}{{ ns.t }}", "{% macro f(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ f(1) }}|{{ f(1, 3) }}|{{ f(b=5, a=4) }}|{{ f() }}", "{% macro f(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}", "{% macro f() %}{{ g }}{% endmacro %}{% set g = 7 %}{{ f() }}", "{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
    "{% macro f() %}x{% endmacro %}{{ f() + 'y' }}{{ f()|upper }}{{ f() is string }}", "{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, a=3) }}", "{% macro f(a) %}[{{ caller() }}{{ a }}]{% endmacro %}{% call f(1) %}body{{ n }}{% endcall %}", "{% macro f(l) %}{% for i in l %}{{ caller(i) }}{% endfor %}{% endmacro %}{% call(x) f(l) %}<{{ x }}>{% endcall %}", "{% macro f() %}\n  a\n{% endmacro %}\n[{{ f() }}]",
    "{% macro f(x) %}{% set y = x %}{{ y }}{% endmacro %}{{ f(1) }}{{ y is defined }}", "{% set n = 1 %}{% macro f() %}{{ n }}{% endmacro %}{% for i in l %}{% set n = i %}{{ f() }}{% endfor %}", "{% filter upper %}abc{{ s }}{% endfilter %}", "{% filter replace('a', 'b')|upper %}a{% endfilter %}", "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}", "{% with %}{% set a = 1 %}{{ a }}{% endwith %}{{ a is defined }}",
    "{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}", "{{ strftime_now('%Y-%m-%d') }}", "{{ strftime_now('%d %B %Y, %H:%M %a %b %j %%') }}", "{{ strftime_now('%-d') }}", "{% set raise_exception = 5 %}{{ raise_exception }}", "{% for i in range(3) %}{% for j in range(3) %}{% if j == 1 %}{% break %}{% endif %}{{ i }}{{ j }} {% endfor %}{% endfor %}",
    "{% set x = m|selectattr('role', 'equalto', 'user')|list %}{{ x|length }}{{ x[-1].content }}", "{% set g = l|select('odd') %}{% for i in g %}{{ i }}{% endfor %};{% for i in g %}{{ i }}{% endfor %}", "{% for i in l %}{% set loop_i = loop.index %}{{ loop_i }}{% endfor %}", "{% if s == 'Hello World' %}{{- ' ok ' -}}{% endif %}", "{% set f = 'upper' %}{{ [s]|map(f)|first }}",
    "{% if m[0]['role'] == 'system' %}{% set sys = m[0]['content'] %}{% set rest = m[1:] %}{% else %}{% set sys = 'default' %}{% set rest = m %}{% endif %}{{ sys }}{{ rest|length }}", "{%if t%}a{%endif%}", "{% for i in [1,2,3][::-1] %}{{ i }}{% endfor %}", "{{ m }}", "{% for a in l %}{% else %}x{% endfor %}|", "{% macro outer() %}{% macro inner(x) %}({{ x }}){% endmacro %}{{ inner(1) }}{% endmacro %}{{ outer() }}",
    "{% for i in l %}{% macro f() %}{{ i }}{% endmacro %}{{ f() }}{% endfor %}", "{{ [1, 2, 3]|map('string')|map('length')|list }}", "{% set a = [] %}{% set a = a + [1] %}{% set a = a + [2] %}{{ a }}", "{% set d2 = dict(d, z=1) %}{{ d2.z }}{{ d2.b }}", "{% if 'a' in d and d.a is string %}{{ d.a }}{% endif %}", "{% for x in [[1, 2], [3, 4]] %}{{ x[0] }}{% for y in x %}{{ y }}{% endfor %}{% endfor %}",
    "{% for a, b in [[1, 2]] if b > 1 %}{{ a }}{{ b }}{% endfor %}", "{{ (m|last)['content'] }}", "{% if not (n > 3 and t) or z %}a{% else %}b{% endif %}", "{{ n if n is defined else 'none' }}{{ (n if n else 0) + 1 }}")]
# failures
CASES += [(t, V) for t in (
    "{{ raise_exception('No user turn.') }}", "{% if t %}{{ raise_exception('a ' ~ n ~ ' \"b\"') }}{% endif %}", "{{ missing.x }}", "{{ missing[0] }}", "{{ missing() }}", "{{ missing + 1 }}", "{{ d.nope.x }}", "{{ no.x.y }}", "{{ 1 + 'a' }}", "{{ 'a' + 1 }}", "{{ 'a' < 1 }}", "{{ 1 / 0 }}", "{{ 1 // 0 }}", "{{ 1 % 0 }}", "{{ none + 1 }}", "{{ -'a' }}",
    "{% for x in 5 %}{% endfor %}", "{% for a, b in [1] %}{% endfor %}", "{% for a, b in [[1]] %}{% endfor %}", "{{ l|nofilter }}", "{{ l is notest }}", "{{ l.append(1) }}", "{{ d.update({}) }}", "{{ 1 in 5 }}", "{{ 1 in 'a' }}", "{% if %}{% endif %}", "{% if t %}", "{% endif %}", "{% for x in l %}", "{% for %}{% endfor %}", "{{ }}", "{{ 1 + }}", "{{ (1 }}", "{{ [1 }}", "{{ 'a }}",
    "{# x", "{% raw %}x", "{% foo %}", "{{ 1 2 }}", "{% set x %}", "{% set 1 = 2 %}", "{% break %}", "{% set d.x = 1 %}", "{{ range(10 ** 10) }}", "{{ range(1, 2, 0) }}", "{{ missing|tojson }}", "{{ l|join(', ', foo=1) }}", "{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", "{% macro f(a) %}{% endmacro %}{{ f(b=2) }}", "{% macro f(a=1, b) %}{% endmacro %}", "{{ l[::0] }}", "{{ 5() }}", "{{ 's'.nope() }}",
    "{{ s.split('') }}", "{{ s.index('zz') }}", "{{ ', '.join(l) }}", "{{ l|items|list }}", "{{ [1, 'a']|sort }}", "{{ 5|length }}", "{{ {[]: 1} }}", "{{ 2 is divisibleby 0 }}", "{% else %}", "{% if t %}{% endfor %}", "{{ a b }}", "{{ f(a=1, 2) }}", "{{ 'a' is 'b' }}", "{{ @ }}", "{{ x. }}", "{{ x[ }}", "{% for x in l recursive %}{% endfor", "{{ no|length }}", "{% set ns = namespace(1) %}", "{{ no.split() }}",
    "{{ 1 is odd is even }}", "{{ d.items()[0] }}", "{{ d.items()[0].x }}", "{{ (l|map('upper')).x.y }}", "{{ l|map('nofilter')|list }}", "{{ m|selectattr('role', 'notest')|list }}")]


def main():
    env = environment()
    for template, variables in CASES:
        used = {k: v for k, v in variables.items() if re.search(rf"\b{k}\b", template)}
        row = {"t": template} | ({"v": used} if used else {})
        try:
            row["text"] = env.from_string(template).render(**used)
        except jinja2.exceptions.TemplateError as e:
            if type(e) is jinja2.exceptions.TemplateError:
                row["raised"] = str(e)
            else:
                row["error"] = type(e).__name__
        except Exception as e:  # noqa: BLE001 - whatever Python raises, the template fails
            row["error"] = type(e).__name__
        if " at 0x" in row.get("text", ""):
            sys.exit("an address in the output of " + template)
        print(json.dumps(row, ensure_ascii=False))


main()
