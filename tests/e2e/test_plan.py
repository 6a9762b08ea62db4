#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""quern plan: sizes add up, follow the options, and are what a run takes.   usage: test_plan.py QUERN"""
import json
import sys
from pathlib import Path

from cli import GOLDEN, check, demo_model, finish, one_line, run, skip

MOE = GOLDEN / "gguf" / "qwen3moe.gguf"


def plan(*args):
    code, out, err = run("plan", "--json", "-m", *args)
    check(f"plan {args}", code == 0, err)
    return json.loads(out)["rows"] if code == 0 else []


def main():
    rows = plan(MOE, "--max-ctx", "256", "--max-seqs", "1")
    check("a row as it is and five others", [r["type"] for r in rows[1:]] == ["F32", "BF16", "Q8_0", "Q4_K_M", "Q4_0"], rows)
    for r in rows:
        parts = r["weights"] + r["kv"] + r["activations"] + r["other"]
        check(f"{r['type']} adds up", parts == r["total"], r)
    weights = [r["weights"] for r in rows[1:]]
    check("fewer bits, fewer bytes", weights == sorted(weights, reverse=True) and weights[0] > 1.9 * weights[1], weights)
    wide = plan(MOE, "--max-ctx", "4096", "--max-seqs", "1")
    check("a longer context, a larger cache", wide[0]["kv"] > 3 * rows[0]["kv"] and wide[0]["weights"] == rows[0]["weights"])
    exact = plan(MOE, "--max-ctx", "256", "--max-seqs", "1", "--exact")
    check("exact: K/V in float32", exact[0]["kv"] > 1.9 * rows[0]["kv"], exact[0])
    code, out, err = run("plan", "-m", MOE)
    check("as a table", code == 0 and "as it is" in out and out.count("\n") == 8, out + err)
    code, _, err = run("plan")
    check("no model", code == 2 and one_line(err), err)
    demo = demo_model()
    if not demo:
        skip("the demo model", "it is not in the cache folder")
        return
    if b"__asan_init" in Path(sys.argv[1]).read_bytes():
        skip("the demo model", "the address sanitizer's own memory would count")
        return
    code, out, err = run("plan", "-m", demo, "--check", "--json", "--max-ctx", "2048", "--max-seqs", "2")
    if check("plan --check", code == 0, err):
        m = json.loads(out)
        check("within 3 %", abs(m["error_percent"]) <= 3 and m["peak"] > 4e8, m)


main()
finish()
