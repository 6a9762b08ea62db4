# SPDX-License-Identifier: Apache-2.0
"""quern bench and quern profile: their rows, their sums, their traces, what they refuse."""
import json
import os
import pathlib
import tempfile

from cli import GOLDEN, check, finish, one_line, run, skip

SMALL = GOLDEN / "models" / "qwen3-untied-f32"
OTHER = GOLDEN / "models" / "qwen2-tied-f16"
MOE = GOLDEN / "models" / "qwen2moe-sparse"


def key(row):
    return tuple(row.get(k) for k in ("row", "in", "out", "depth", "batch"))


def test_usage():
    cases = [
        (["bench"], "want -m MODEL or --op"),
        (["bench", "-m", "x", "-p", "0", "-n", "0"], "something to measure"),
        (["bench", "-m", "x", "-p", "1,,2"], "up to 16 whole numbers"),
        (["bench", "-m", "x", "-b", "0"], "found '0'"),
        (["bench", "-m", "x", "--drop-cache"], "--load"),
        (["bench", "-m", "x", "--op", "roofs"], "needs no model"),
        (["bench", "--op", "sort"], "one of layout|moe|attention|barrier|roofs"),
        (["profile"], "-m MODEL"),
        (["profile", "-m", "x", "--in", "0", "--out", "0"], "something to profile"),
        (["profile", "-m", "x", "--fuse", "on,off"], "one of on|off|off,on"),
    ]
    for args, text in cases:
        rc, out, err = run(*args)
        check("usage " + " ".join(args), rc == 2 and out == "" and one_line(err) and text in err, (rc, out, err))
    cases = [
        (["bench", "--op", "layout", "--shape", "12"], "--shape: found '12'"),
        (["bench", "--op", "moe", "--shape", "12x0"], "--shape: found '12x0'"),
        (["bench", "--op", "moe", "--shape", "20x64"], "multiples of 32"),
        (["bench", "--op", "moe", "--experts", "2", "--topk", "3"], "--topk: found 3"),
        (["bench", "--op", "attention", "--heads", "3x2x64"], "--heads: found 3x2x64"),
        (["bench", "-m", "no/such.gguf"], "no/such.gguf"),
        (["profile", "-m", "no/such.gguf"], "no/such.gguf"),
    ]
    for args, text in cases:
        rc, out, err = run(*args)
        check("fails " + " ".join(args), rc == 1 and out == "" and one_line(err) and text in err, (rc, out, err))


def test_rows():
    args = ["bench", "-m", SMALL, "-p", "20,70", "-n", "4", "-d", "0,30", "-b", "1,3", "--in", "9", "--out", "3", "--load",
            "--drop-cache", "-r", "2"]
    rc, out, err = run(*args, "--json")
    data = json.loads(out) if rc == 0 else {"models": [{"rows": []}], "roofs": {}}
    rows = data["models"][0]["rows"]
    want = [("load", None, None, None, None), ("load to first token", None, None, None, None)]
    for d in (0, 30):
        for p, b in ((20, 1), (70, 3)):
            want += [("prefill", p, None, d, 1), ("decode", None, 4, d, b)]
    want += [("time to first token", 9, None, None, None), ("answer", None, 3, None, None),
             ("prompt and answer", 9, 3, None, None)]
    check("bench rows", rc == 0 and [key(r) for r in rows] == want and err == "", ([key(r) for r in rows], err))
    check("bench times", all(0 < r["ms_min"] <= r["ms"] <= r["ms_max"] for r in rows), rows)
    check("bench rates", all(abs(r["tok_s"] * r["ms"] / 1e3 - r["in"]) < 1e-2 * r["in"]
                             for r in rows if r["row"] == "prefill"), rows)
    check("bench roofs", all(data["roofs"][k] > 0 for k in ("read_bytes_s", "int8_ops_s", "f32_flops_s")), data["roofs"])
    decode = {(r["depth"], r["batch"]): r for r in rows if r["row"] == "decode"}
    if len(decode) == 4:
        check("a batch reads the weights once", decode[0, 3]["weight_bytes"] <= 1.01 * decode[0, 1]["weight_bytes"], decode)
        check("and each sequence's K/V", decode[30, 3]["kv_bytes"] == 3 * decode[30, 1]["kv_bytes"], decode)
    rc, out, err = run(*args)
    check("bench text", rc == 0 and "decode 4 at 30, batch 3" in out and out.count("\n") == len(want) + 3, out + err)
    rc, out, err = run("bench", "-m", SMALL, "-m", OTHER, "-p", "20", "-n", "4", "-r", "1")
    check("two models", rc == 0 and "by roofs" in out and out.count("prefill 20 ") == 3, out + err)
    rc, out, err = run("bench", "-m", SMALL, "-p", "600", "-c", "512", "-r", "1")
    check("a prompt over the context", rc == 1 and out == "" and one_line(err) and "600" in err, (rc, out, err))


def test_ops():
    cases = [
        ("roofs", [], {"read_gb_s", "int8_gops", "f32_gflops"}, 2),
        ("barrier", ["-t", "2"], {"run_ns", "barrier_ns"}, 2),
        ("attention", ["-d", "10,100", "--heads", "4x2x64"], {"ms_1", "gb_s_1", "gflops_1", "ms_512", "gflops_512"}, 6),
        ("moe", ["--shape", "64x96", "--experts", "6", "--topk", "2", "--tokens", "1,9"],
         {"naive_ms", "grouped_ms", "speedup", "experts_used", "naive_gb_s", "grouped_gb_s", "grouped_gops"}, 2),
        ("layout", ["--shape", "64x256"], {"mb", "extra_mb", "ms_1", "gb_s_1", "ms_512", "gops_512"}, 11),
    ]
    for op, args, columns, least in cases:
        rc, out, err = run("bench", "--op", op, "-r", "2", "--json", *args)
        rows = json.loads(out)["rows"] if rc == 0 else []
        check(f"--op {op}", rc == 0 and err == "" and len(rows) >= least and all(
            r["op"] == op and set(r) - {"op", "what"} == columns for r in rows), out + err)
        check(f"--op {op} figures", all(v >= 0 for r in rows for k, v in r.items() if k in columns - {"extra_mb"}), rows)
        if op == "moe" and len(rows) == 2:
            check("experts used", rows[0]["experts_used"] == 2 and 2 <= rows[1]["experts_used"] <= 6, rows)
    rc, out, err = run("bench", "--op", "layout", "--shape", "64x256", "-r", "1")
    check("--op layout text", rc == 0 and "Q4_0, as stored, float32" in out and "Q4_0, panels, int8" in out, out + err)


def sums(part):
    return abs(sum(r["percent"] for r in part["operations"]) - 100) < 0.01 and \
        abs(sum(r["ms"] for r in part["operations"]) - part["ms"]) < 1e-3 * part["ms"]


def test_profile():
    for model in (SMALL, MOE):
        rc, out, err = run("profile", "-m", model, "--in", "40", "--out", "6", "-b", "2", "--json")
        data = json.loads(out) if rc == 0 else {}
        check(f"profile {model.name}", rc == 0 and err == "" and data["prompt"]["tokens"] == 80 and
              data["prompt"]["steps"] == 2 and data["decode"]["tokens"] == 12 and data["decode"]["steps"] == 6, out + err)
        if rc:
            continue
        check("shares add up to 100 %", sums(data["prompt"]) and sums(data["decode"]), out)
        for part in ("prompt", "decode"):
            names = [r["operation"] for r in data[part]["operations"]]
            check(f"{part} has every kind of row", names[-2:] == ["sampling", "between operations"] and
                  "attention" in names and "embed" in names, names)
            check(f"{part} is ordered by time", [r["ms"] for r in data[part]["operations"][:-2]] ==
                  sorted((r["ms"] for r in data[part]["operations"][:-2]), reverse=True), names)
        memory = data["memory"]
        check("memory adds up", sum(h["bytes"] for h in memory["holders"]) == memory["total_bytes"] <
              memory["process_bytes"], memory)
    rc, out, err = run("profile", "-m", SMALL, "--in", "5", "--out", "2", "--layers")
    check("profile --layers", rc == 0 and "0 attention" in out and "1 attention" in out and out.count("100.00") >= 2, out)
    rc, out, err = run("profile", "-m", SMALL, "--in", "0", "--out", "2")
    check("profile without a prompt", rc == 0 and "\ndecode:" in out and "\nprompt:" not in out, out + err)


def test_fuse():
    rc, out, err = run("profile", "-m", MOE, "--in", "20", "--out", "3", "--fuse", "off,on", "--json")
    data = json.loads(out) if rc == 0 else {}
    check("--fuse off,on", rc == 0 and [p["fused"] for p in data["profiles"]] == [False, True] and
          data["compare"]["operations"][0] > data["compare"]["operations"][1], out + err)
    check("both plans give the same logits", rc == 0 and data["compare"]["largest_logit_difference"] <= 1e-5, out[-300:])
    rc, out, err = run("profile", "-m", SMALL, "--in", "20", "--out", "3", "--fuse", "off,on")
    check("--fuse off,on text", rc == 0 and "plan plain" in out and "plan fused" in out and
          "largest logit difference" in out, out + err)
    rc, out, err = run("profile", "-m", SMALL, "--in", "20", "--out", "3", "--fuse", "off")
    check("--fuse off", rc == 0 and "silu_mul" in out and "linear+" not in out, out + err)


def test_trace():
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "trace.json")
        rc, _, err = run("profile", "-m", SMALL, "--in", "20", "--out", "3", "--trace", path)
        events = json.loads(pathlib.Path(path).read_text())["traceEvents"] if rc == 0 else []
        spans = [e for e in events if e["ph"] == "X"]
        check("trace", rc == 0 and err == "" and len(spans) > 20 and all(
            isinstance(e["name"], str) and e["dur"] >= 0 and e["ts"] >= 0 and e["pid"] == 1 and e["tid"] == 1
            for e in spans), err)
        steps = [e for e in spans if e["name"] == "step"]
        check("trace has a span for each step", [e["cat"] for e in steps] == ["prompt"] + ["decode"] * 3, steps)
        ops = [e for e in spans if e["name"] != "step"]
        check("operations lie in their steps, one after the other", all(
            any(s["ts"] - 0.002 <= e["ts"] and e["ts"] + e["dur"] <= s["ts"] + s["dur"] + 0.002 for s in steps)
            for e in ops) and all(a["ts"] + a["dur"] <= b["ts"] + 0.002 for a, b in zip(ops, ops[1:])), ops[:3])
        check("their arguments", all(e["args"]["rows"] > 0 and e["args"]["bytes"] >= 0 for e in ops), ops[:3])
        rc, out, err = run("profile", "-m", SMALL, "--in", "5", "--trace", os.path.join(d, "no", "trace.json"))
        check("a trace that cannot be written", rc == 1 and out == "" and one_line(err) and "trace.json" in err, (rc, err))


if SMALL.is_dir() and OTHER.is_dir() and MOE.is_dir():
    for test in (test_usage, test_rows, test_ops, test_profile, test_fuse, test_trace):
        test()
else:
    skip("bench and profile", "no tests/golden/models")
finish()
