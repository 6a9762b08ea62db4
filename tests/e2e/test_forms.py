#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What forms allow (src/sample/form.h), judged from outside: each schema of schemas.json takes its documents and no others, what
is drawn at random from it is valid for Python's jsonschema, or it is refused at the right place; regular expressions against
Python's re; schemas that want too much end in an error, soon.

usage: test_forms.py QUERN [--full [MODEL]]; the program `forms` stands beside it (--full: 20 answers to each schema of a model that says
    nonsense, and of MODEL if there is one; else two of the former)"""
import concurrent.futures
import decimal
import importlib.util
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import time

from cli import GOLDEN, QUERN, check, finish, skip
from server import Server

FORMS = pathlib.Path(QUERN).parent / "forms"
SCHEMAS = json.loads((pathlib.Path(__file__).parent / "schemas.json").read_text(encoding="utf-8"), parse_float=decimal.Decimal)
SEED = int(os.environ.get("QN_SEED", "1"))


def text_of(v):
    """As json.dumps, numbers with the digits that they have."""
    if isinstance(v, decimal.Decimal):
        return str(v)
    if isinstance(v, dict):
        return "{" + ", ".join(f"{json.dumps(k, ensure_ascii=False)}: {text_of(x)}" for k, x in v.items()) + "}"
    if isinstance(v, list):
        return "[" + ", ".join(map(text_of, v)) + "]"
    return json.dumps(v, ensure_ascii=False)


def ask(requests):
    lines = "".join(json.dumps(r) + "\n" for r in requests)
    p = subprocess.run([FORMS], input=lines.encode(), capture_output=True, timeout=600, check=False)
    answers = [json.loads(line) for line in p.stdout.decode().split("\n") if line]
    check("forms ends well", p.returncode == 0 and len(answers) == len(requests), (p.returncode, p.stderr.decode()[-500:]))
    return answers + [{"status": "none", "error": ""}] * (len(requests) - len(answers))


def patterns(v):
    if isinstance(v, dict):
        if isinstance(v.get("pattern"), str):
            yield v["pattern"]
        if isinstance(v.get("patternProperties"), dict):
            yield from v["patternProperties"]
        for x in v.values():
            yield from patterns(x)
    elif isinstance(v, list):
        for x in v:
            yield from patterns(x)


def python_knows(pattern):
    try:
        re.compile(pattern)
    except re.error:
        return False
    return "\\ud" not in pattern


def judge():
    """A function (schema, document) -> reason or None, or None where there is no judge."""
    if not importlib.util.find_spec("jsonschema"):
        return None
    import jsonschema
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    checker.checkers.pop("relative-json-pointer", None)  # jsonschema's takes no digit behind a zero: "10#1"

    def reason(schema, document):
        v = jsonschema.Draft202012Validator(schema, format_checker=checker)
        error = next(v.iter_errors(document), None)
        return error and f"{error.json_path}: {error.message[:200]}"
    return reason


def schemas():
    reason = judge()
    for is_compact in (False, True):
        requests = [{"kind": "schema", "text": text_of(c["schema"]), "draws": 24, "seed": SEED + i, "compact": is_compact,
                     "tries": [text_of(d) if not is_compact else compact(d) for d in c.get("yes", []) + c.get("no", [])]}
                    for i, c in enumerate(SCHEMAS)]
        judged = 0
        for case, ask_, got in zip(SCHEMAS, requests, ask(requests)):
            name = ask_["text"][:200]
            if "refused" in case:
                check(f"refused {name}", got["status"] in ("unsupported", "bad argument", "too long")
                      and got["error"].startswith(case["refused"]) and "\n" not in got["error"], got)
                continue
            if not check(f"compiles {name}", got["status"] == "ok", got):
                continue
            n_yes = len(case["yes"])
            for text, is_taken in zip(ask_["tries"][:n_yes], got["tries"]):
                check(f"{name} takes {text[:80]}", is_taken)
            for text, is_taken in zip(ask_["tries"][n_yes:], got["tries"][n_yes:]):
                check(f"{name} does not take {text[:80]}", not is_taken)
            check(f"{name} is drawn", any(d is not None for d in got["draws"]), got)
            if reason and all(map(python_knows, patterns(case["schema"]))):
                judged += len(got["draws"])
                for d in got["draws"]:
                    if d is None:  # the walk did not find its end
                        continue
                    try:
                        why = reason(case["schema"], json.loads(d, parse_float=decimal.Decimal))
                    except ValueError as e:
                        why = str(e)
                    if why:
                        check(f"{name} drawn: {d}", False, why)
        check(f"{judged} documents drawn", judged > 7000 or not reason)
    if not reason:
        skip("validity of what is drawn", "no jsonschema")


def compact(d):
    return text_of(d).replace(", ", ",").replace(": ", ":") if not isinstance(d, str) else text_of(d)


def random_regex(r, depth=0):
    kinds = ["char"] * 3 + ["class", "dot", "shorthand"] + (["group", "alt", "repeat", "seq", "seq"] if depth < 4 else [])
    kind = r.choice(kinds)
    if kind == "char":
        return r.choice("abAB01 -_é")
    if kind == "class":
        return r.choice(["[ab]", "[^a]", "[a-c0]", "[\\d_]", "[^\\w]", "[\\s\\S]", "[-b]", "[^\\Wa]"])
    if kind == "dot":
        return "."
    if kind == "shorthand":
        return r.choice(["\\d", "\\w", "\\s", "\\D", "\\W", "\\S"])
    if kind == "group":
        return "(" + random_regex(r, depth + 1) + ")"
    if kind == "alt":
        return "(?:" + "|".join(random_regex(r, depth + 1) for _ in range(r.randint(2, 3))) + ")"
    if kind == "repeat":
        return "(?:" + random_regex(r, depth + 1) + ")" + r.choice(["*", "+", "?", "{2}", "{0,2}", "{1,3}?", "{2,}"])
    return "".join(random_regex(r, depth + 1) for _ in range(r.randint(1, 4)))


def regexes():
    """Texts of few characters, on which both languages agree, must be taken if and only if Python finds them."""
    r = random.Random(SEED)
    texts = ["", "a", "b", "ab", "ba", "aab", "abab", "A0", "0", "a b", "-", "_a", "1", "  ", "aaa", "a-b", "B1_", "abc", "\t"]
    requests = []
    for i in range(400):
        re_ = random_regex(r)
        kind = r.choice(["regex", "find"])
        if kind == "find":
            re_ = r.choice(["^", ""]) + re_ + r.choice(["$", ""])
        requests.append({"kind": kind, "text": re_, "draws": 8, "seed": SEED + i, "tries": texts})
    n_large = 0
    for q, got in zip(requests, ask(requests)):
        python = re.compile(q["text"])
        find = python.fullmatch if q["kind"] == "regex" else python.search
        if got["status"] == "too long":  # an automaton of it has too many states
            n_large += 1
            continue
        if not check(f"regex {q['text']}", got["status"] == "ok" or "nothing" in got["error"] or "no text" in got["error"], got):
            continue
        for text, is_taken in zip(texts, got.get("tries", [])):
            check(f"{q['kind']} {q['text']} of {text!r}", is_taken == bool(find(text)), is_taken)
        for d in got.get("draws", []):
            if d is not None and not find(d):
                check(f"{q['kind']} {q['text']} drawn {d!r}", False)
    check("few of them are too large", n_large < len(requests) / 50, n_large)


def bombs():
    deep = {"type": "object"}
    for _ in range(40):
        deep = {"properties": {"a": deep}}
    doubling = {"$ref": "#/$defs/a0", "$defs": {f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(60)}}
    doubling["$defs"]["a60"] = {"type": "integer"}
    cases = {"anyOf doubled": {"allOf": [{"anyOf": [{"minimum": i}, {"maxLength": i}]} for i in range(1, 40)]},
             "objects doubled": {"$ref": "#/$defs/a0", "$defs": {**{f"a{i}": {"type": "object", "properties": {"l": {"$ref": f"#/$defs/a{i + 1}"}, "r": {"$ref": f"#/$defs/a{i + 1}"}},
                                 "required": ["l", "r"], "additionalProperties": False} for i in range(40)}, "a40": {"type": "integer"}}},
             "depth": deep, "allOf doubled": doubling,
             "a chain": {"$ref": "#/$defs/a0", "$defs": {**{f"a{i}": {"$ref": f"#/$defs/a{i + 1}"} for i in range(3000)}, "a3000": {"type": "null"}}},
             "a large enum": {"enum": ["x%06d" % i for i in range(20000)]},
             "long texts": {"enum": ["x" * 100000, "y" * 100000]},
             "oneOf": {"oneOf": [{"type": "object", "properties": {f"p{i}": {}}} for i in range(200)]},
             "not": {"not": {"allOf": [{"not": {"anyOf": [{"minimum": i}, {"maximum": i}]}} for i in range(60)]}},
             "pattern": {"type": "string", "pattern": "(a{1000}){1000}"}, "patterns": {"type": "string", "allOf": [{"pattern": f"a.{{{i}}}b"} for i in range(15, 25)]},
             "bounds": {"type": "array", "minItems": 100000, "items": {"type": "array", "minItems": 100000}},
             "counted": {"properties": {f"p{i}": {} for i in range(500)}, "minProperties": 250, "type": "object", "additionalProperties": False},
             "optional": {"properties": {f"p{i}": {"type": "string", "maxLength": 50} for i in range(500)}, "type": "object"},
             "prefixItems": {"prefixItems": [{"enum": [i]} for i in range(5000)]}, "length": {"type": "string", "minLength": 1000000, "pattern": "^(ab)*$"},
             "anchors": {"$ref": "#x0", "$defs": {f"d{i}": {"$anchor": f"x{i}", "$ref": f"#x{i + 1}"} for i in range(1000)}}}
    for name, schema in cases.items():
        begin = time.monotonic()
        got = ask([{"kind": "schema", "text": json.dumps(schema)}])[0]
        took = time.monotonic() - begin
        print(f"bomb: {name}: {took * 1000:.0f} ms, {got['status']} {got.get('error', '')[:120]}")
        check(f"bomb: {name}", got["status"] in ("ok", "unsupported", "bad argument", "too long"), got)
    for name, text in {"deep": "[" * 100000, "deep objects": '{"not":' * 100000, "half": '{"type":', "bytes": '{"a\\ud800":1}', "long": '"' + "x" * 300000 + '"', "empty": ""}.items():
        got = ask([{"kind": "schema", "text": text}])[0]
        check(f"text: {name}", got["status"] in ("bad argument", "too long") and got["error"].startswith("#"), got)


def answered(model, n, *args):
    """What a server answers at temperature 1: whole documents that are valid, or the beginning of one cut at max_tokens, or 400."""
    reason = judge()
    ends = {"stop": 0, "length": 0, "refused": 0}

    def answers(s, case):
        got = {"choices": []}
        while len(got["choices"]) < n:
            status, _, text = s.request("POST", "/v1/chat/completions", text_of({
                "messages": [{"role": "user", "content": "Answer with JSON of this schema: " + text_of(case["schema"])[:1000]}],
                "n": min(n, 10), "temperature": 1, "seed": SEED + len(got["choices"]), "max_tokens": 200,
                "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": case["schema"], "strict": True}}}).encode())
            if status != 200:
                return status, text
            got["choices"] += json.loads(text)["choices"]
        return 200, got

    with Server("-m", model, "-q", *args) as s, concurrent.futures.ThreadPoolExecutor(4) as pool:
        cases = [c for c in SCHEMAS if isinstance(c["schema"], dict)]
        for case, (status, got) in zip(cases, pool.map(lambda c: answers(s, c), cases)):
            name = text_of(case["schema"])[:200]
            if status != 200:
                ends["refused"] += 1
                check(f"refused {name}", status == 400 and "refused" in case, got)
                continue
            check(f"answered {name}", "refused" not in case and len(got["choices"]) == n, got)
            for c in got["choices"]:
                ends[c["finish_reason"]] += 1
                if c["finish_reason"] == "length":
                    continue
                try:
                    document = json.loads(c["message"]["content"], parse_float=decimal.Decimal)
                    why = reason(case["schema"], document) if reason and all(map(python_knows, patterns(case["schema"]))) else None
                except ValueError as e:
                    why = str(e)
                if why:
                    check(f"{name} answered: {c['message']['content']}", False, why)
        check("some are whole", ends["stop"] > 0, ends)
        check("clean end", s.stop() == 0, s.log[-3:])
    print(f"{pathlib.Path(model).name}: {n} answers to each of {len(cases) - ends['refused']} schemas: {ends['stop']} whole and valid, "
          f"{ends['length']} cut at max_tokens; {ends['refused']} schemas refused")


schemas()
regexes()
bombs()
full = "--full" in sys.argv
answered(GOLDEN / "models" / "qwen3-tied-bf16", 20 if full else 2, "-c", "4096")
for path in [a for a in sys.argv[2:] if a != "--full"]:
    answered(path, 20, "-c", "4096", "--kv-blocks", "600")
finish()
