#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""quern doctor and quern tune: findings, roofs, what is kept and used.   usage: test_machine.py QUERN"""
import json
import os
import pathlib
import tempfile

from cli import GOLDEN, check, finish, one_line, run

MODEL = GOLDEN / "gguf/qwen2.gguf"
SMALL = ["--max-ctx", "128", "--max-seqs", "2"]


def doctor():
    code, text, err = run("doctor", "--json", "-m", MODEL)
    d = json.loads(text) if code == 0 else {"findings": [], "roofs": []}
    names = [f["name"] for f in d["findings"]]
    for name in ("cpu", "instructions", "caches", "threads", "quota", "memory", "huge pages", "clock governor", "stolen time",
                 "throttled", "other programs", "model"):
        check(f"doctor: {name}", name in names, (names, err))
    check("doctor: advice exactly where it is not good", all((f["advice"] == "") == f["good"] for f in d["findings"]), text)
    check("doctor: roofs", 1 <= len(d["roofs"]) <= 2 and all(v > 1e6 for r in d["roofs"] for k, v in r.items() if k != "threads"), text)
    check("doctor: threads", d.get("threads", 0) >= 1 and d["roofs"][0]["threads"] == 1, text)
    code, text, err = run("doctor", "--hardware")
    check("doctor --hardware", code == 0 and "roofs of one thread" in text and "stolen time" not in text, text + err)
    code, _, err = run("doctor", "-m", "/nowhere.gguf")
    check("doctor: no such model", code == 1 and one_line(err), err)


def tune(folder):
    os.environ["XDG_CACHE_HOME"] = folder
    code, text, err = run("tune", "-m", MODEL, *SMALL, "-p", "32", "-r", "1", "--json")
    kept = pathlib.Path(folder) / "quern/tune.json"
    made = json.loads(text) if code == 0 else {}
    check("tune", made.get("base", {}).get("prefill_tok_s", 0) > 0, text + err)
    check("tune: kept", kept.exists() and json.loads(kept.read_text())["max_batch_tokens"] == made["max_batch_tokens"], text)
    # what is kept is used, and only on the machine that it names
    bench = ["bench", "-m", MODEL, *SMALL, "-p", "8", "-n", "1", "-r", "1", "--json"]
    data = json.loads(kept.read_text())
    for machine, option, want in ((data["machine"], [], 1), (data["machine"], ["-t", "2"], 2)):
        kept.write_text(json.dumps(dict(data, machine=machine, threads=1)))
        code, text, err = run(*bench, *option)
        check(f"tuned threads {option}", code == 0 and json.loads(text)["models"][0]["threads"] == want, text + err)
    kept.write_text(json.dumps(dict(data, machine=data["machine"], threads=3)))
    three = json.loads(run(*bench)[1])["models"][0]["threads"]
    kept.write_text(json.dumps(dict(data, machine="another", threads=3)))
    check("another machine's is not used", three == 3 and json.loads(run(*bench)[1])["models"][0]["threads"] != 3, three)
    for broken in ("", "[", "[]", '{"machine": 3}', json.dumps(dict(data, threads=100000))):
        kept.write_text(broken)
        code, text, err = run(*bench)
        check(f"broken {broken!r:.20}", code == 0 and json.loads(text)["models"][0]["threads"] < 1000, err)
    code, text, err = run("tune", "-m", MODEL, "--max-ctx", "128", "--max-seqs", "4", "-r", "1", "--json", "batch")
    rows = json.loads(text) if code == 0 else []
    check("tune batch", [r["batch"] for r in rows] == [1, 2, 4] and sum(r["knee"] for r in rows) == 1, text + err)
    for args in (["tune"], ["tune", "-m", MODEL, "bach"]):
        code, _, err = run(*args)
        check(f"usage {args[-1]}", code == 2 and one_line(err), err)


def main():
    doctor()
    with tempfile.TemporaryDirectory() as folder:
        tune(folder)
    finish()


main()
