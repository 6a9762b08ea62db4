#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The examples of docs/api.md against a real server: every command is run as it is printed, every answer must have the shape of the
printed one. With the demo model in the cache its texts must be those printed, too. Of the commands on all pages the options must be there.

usage: test_docs.py QUERN"""
import json
import re
import shlex
import shutil
import subprocess
import sys

from cli import GOLDEN, ROOT, check, demo_model, finish, run, skip
from server import Server

TINY = GOLDEN / "models" / "qwen3-tied-bf16"
PRINTED = "http://127.0.0.1:8080"
# What differs from one run to the next, or from one machine to the next.
CHANGES = {"id", "created", "created_at", "system_fingerprint", "digest", "modified_at", "logprob", "embedding", "embeddings", "relevance_score", "score"}
CUT = "..."


def blocks(text):
    """[(language, lines)] of the fenced blocks, with None between those that text parts."""
    out, at = [], 0
    for m in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        if text[at:m.start()].strip():
            out.append((None, []))
        out.append((m[1], m[2].rstrip("\n").split("\n")))
        at = m.end()
    return out


def examples(text):
    """[(command, the lines of its answer)]"""
    out, commands = [], []
    for language, lines in blocks(text):
        if language == "sh":
            commands = [line for line in lines if line.startswith("curl ")]
            out += [(c, []) for c in commands]
        elif language in ("json", "") and commands:
            out[-1] = (out[-1][0], lines)
            commands = []
        elif language is None:
            commands = []
    return out


def parse(line):
    """A printed object; what was cut is a member or an element "..."."""
    line = line.replace("{...}", '{"...":0}').replace("[...]", '["..."]')
    return json.loads(re.sub(r",\.\.\.(?=[,}])", r',"...":0', line))


def differs(want, got, exact, path="answer"):
    """Where an answer is not as printed; None: nowhere."""
    if isinstance(want, dict) and isinstance(got, dict):
        is_ids = all(k.isdigit() for k in want) and want  # keys that are tokens
        missing = [] if is_ids and not exact else [k for k in want if k not in got and k != CUT]
        more = [] if CUT in want or (is_ids and not exact) else [k for k in got if k not in want]
        if missing or more:
            return f"{path}: without {missing}, and also {more}"
        if is_ids and not exact:
            want, got = {"0": next(iter(want.values()))}, {"0": next(iter(got.values()))}
        for k in want:
            where = differs(want[k], got[k], exact and k not in CHANGES and k != "usage" and not k.endswith(("_ms", "_duration", "latency")),
                            f"{path}.{k}") if k != CUT else None
            if where:
                return where
        return None
    if isinstance(want, list) and isinstance(got, list):
        if exact and len(want) != len(got):
            return f"{path}: {len(got)} of them, not {len(want)}"
        return next(filter(None, (differs(w, g, exact, f"{path}[{i}]") for i, (w, g) in enumerate(zip(want, got)))), None)
    numbers = (int, float)
    same_kind = type(want) is type(got) or (isinstance(want, numbers) and isinstance(got, numbers) and not isinstance(got, bool))
    if not same_kind and (exact or None not in (want, got)):
        return f"{path}: {got!r}, not {want!r}"
    if exact and isinstance(want, str) and not want.endswith(CUT) and want != got:
        return f"{path}: {got!r}, not {want!r}"
    return None


def compare(name, printed, got, exact):
    """Line by line; a printed line "..." stands for any number."""
    got = [line for line in got.split("\n") if line]
    if CUT in printed:
        at = printed.index(CUT)
        n_tail = len(printed) - at - 1
        printed, got = printed[:at] + printed[at + 1:], got[:at] + (got[-n_tail:] if n_tail else [])
    if not check(f"{name}: as many lines", len(printed) == len(got) or not exact, (len(printed), got)):
        return
    for want, line in zip(printed, got):
        has_prefix = want.startswith("data: ")
        if not check(f"{name}: the same kind of line", has_prefix == line.startswith("data: "), line):
            return
        want, line = (want[6:], line[6:]) if has_prefix else (want, line)
        if want == "[DONE]" or line == "[DONE]":
            check(f"{name}: [DONE]", want == line or not exact, line)
            continue
        where = differs(parse(want), json.loads(line), exact)
        check(f"{name}: as printed", not where, where)


def curl(port, text, exact):
    if not shutil.which("curl"):
        skip("the examples for curl", "it is not installed")
        return
    for command, printed in examples(text):
        shown = re.sub(r"\s+", " ", command)[:100]
        is_reranker = '"reranker"' in command  # which the model beside it only plays
        p = subprocess.run(["bash", "-c", f"U=http://127.0.0.1:{port}\n{command.replace('curl ', 'curl -sS ', 1)}"], capture_output=True, text=True, check=False)
        if check(shown, p.returncode == 0 and p.stdout.endswith("\n"), (p.returncode, p.stdout[-300:], p.stderr)) and printed:
            compare(shown, printed, p.stdout, exact and not is_reranker)


def python(port, text):
    programs = ["\n".join(lines) for language, lines in blocks(text) if language == "python"]
    check("there are examples for Python", len(programs) >= 3, len(programs))
    for program in programs:
        p = subprocess.run([sys.executable, "-c", program.replace(PRINTED, f"http://127.0.0.1:{port}")], capture_output=True, text=True, check=False)
        name = program.split("\n", 1)[0]
        missing = re.search(r"ModuleNotFoundError: No module named '(\w+)'\s*$", p.stderr)
        if missing and missing[1] in name:
            skip(name, f"{missing[1]} is not installed")
            continue
        check(name, p.returncode == 0 and p.stdout.strip(), (p.stdout, p.stderr[-1000:]))


def options():
    """Every option of a command that a page shows is one of that command's."""
    helps, n = {}, 0
    for page in ("README.md", "README.zh.md", "docs/api.md", "docs/operate.md"):
        lines = [line for language, lines in blocks((ROOT / page).read_text()) if language == "sh" for line in lines]
        for line in lines:
            for command in re.findall(r"(?:^|[|&] *)(?:build/release/)?quern ([^|&#]*)", line):
                words = shlex.split(command)
                if words[0] not in helps:
                    helps[words[0]] = run(words[0], "--help")
                n += 1
                known = re.findall(r"(?<![\w-])--?[a-z][\w-]*", helps[words[0]][1])
                check(f"{page}: quern {command}", helps[words[0]][0] == 0
                      and all(w.split("=")[0] in known for w in words if re.match(r"--?[a-z]", w)), words)
    check("there are commands", n > 20, n)


def main():
    options()
    text = (ROOT / "docs" / "api.md").read_text()
    model = demo_model()
    check("there are examples", len([1 for _, printed in examples(text) if printed]) >= 20, examples(text))
    if not model:
        skip("the texts of the answers", "the demo model is not in the cache: the shapes are looked at")
    with Server("-m", f"demo={model or TINY}", "-m", f"reranker={TINY}") as s:
        curl(s.port, text, bool(model))
        python(s.port, text)
        check("the server is well and ends with 0", s.stop() == 0, s.log[-3:])
    finish()


main()
