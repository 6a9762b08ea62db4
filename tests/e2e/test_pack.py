#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""quern pack: a packed file is a model for every command, with the same results.   usage: test_pack.py QUERN"""
import json
import os
import pathlib
import tempfile

from cli import GOLDEN, check, demo_model, finish, one_line, run, skip

MODELS = ["gguf/qwen2.gguf", "gguf/qwen3moe.gguf", "models/qwen3moe-gptq4", "models/qwen2-awq4", "models/qwen2-sharded"]
SMALL = ["--max-ctx", "128", "--max-seqs", "2"]


def logits_of(model, folder):
    """All logits of a text, as bytes."""
    path, text = pathlib.Path(folder) / "logits.npy", "Three rivers run to the sea, and the sea is not full. " * 2
    code, _, err = run("eval", "-m", *model, *SMALL, "--logits", path, stdin=text)
    check(f"eval {model}", code == 0, err)
    data = path.read_bytes() if code == 0 else b""
    path.unlink(missing_ok=True)
    return data


def same_everywhere(name, source, packed, folder):
    want = logits_of([source], folder)
    check(f"{name}: has logits", len(want) > 1000, len(want))
    check(f"{name}: packed, the same bits", logits_of([packed], folder) == want)
    check(f"{name}: mapped, the same bits", logits_of([packed, "--mmap"], folder) == want)
    for args in (["inspect", "-m"], ["tokenize", "-m"]):
        tail = ["a river"] if args[0] == "tokenize" else []
        a, b = run(*args, source, *tail), run(*args, packed, *tail)
        check(f"{name}: {args[0]}", a[0] == b[0] == 0 and (args[0] != "tokenize" or a[1] == b[1]), a[2] + b[2])


def experts_on_disk(packed, folder):
    """--mem with room for some experts: the same answer, and what was read."""
    ask = ["run", "-m", packed, *SMALL, "-n", "12", "--temperature", "0", "--raw", "--json", "A river"]
    done = lambda text: json.loads(text.strip().splitlines()[-1]) if text.strip() else {}
    code, text, err = run(*ask)
    want = done(text).get("answers")
    check("experts: all in memory", code == 0 and want and "experts" not in done(text), err)
    code, _, err = run(*ask, "--mem", "1K")
    check("experts: too little memory", code == 1 and one_line(err) and "the experts of one row" in err, err)
    need = float(err.split(": want ")[1].split(" GB")[0]) if ": want " in err else 1
    code, text, err = run(*ask, "--mem", str(int((need + 0.02) * 1e9)))
    used = done(text).get("experts", {})
    check("experts: the same answer", code == 0 and done(text).get("answers") == want, err)
    check("experts: counted", 0 < used.get("in_memory", 0) <= used["all"] and 0 < used["hits"] <= used["uses"], used)
    code, _, err = run(*[a for a in ask if a != "--json"], "--mem", "1G")
    check("experts: the last line", code == 0 and "of the experts in memory" in err, err)
    code, _, err = run("run", "-m", GOLDEN / "gguf/qwen3moe.gguf", "--mem", "1K", "A river")
    check("experts: a GGUF says what to do", code == 1 and one_line(err) and "quern pack" in err, err)


def main():
    with tempfile.TemporaryDirectory() as folder:
        for model in MODELS:
            out = os.path.join(folder, "m.qpk")
            if os.path.exists(out):
                os.remove(out)
            code, text, err = run("pack", "--json", GOLDEN / model, out)
            made = json.loads(text) if code == 0 else {}
            check(f"pack {model}", made.get("bytes") == (os.path.getsize(out) if code == 0 else -1), err)
            same_everywhere(model, GOLDEN / model, out, folder)
            if "moe.gguf" in model:
                experts_on_disk(out, folder)
        code, text, err = run("pack", "--check", "--json", out)
        check("verified", code == 0 and json.loads(text)["verified"] is True, err)
        code, _, err = run("pack", GOLDEN / MODELS[0], out)
        check("not overwritten", code == 1 and one_line(err) and "is there already" in err, err)
        code, _, err = run("pack", GOLDEN / MODELS[0])
        check("two names", code == 2 and one_line(err), err)
        code, _, err = run("pack", "--check", GOLDEN / MODELS[0])
        check("only packed files are verified", code == 1 and "is no packed file" in err, err)
        code, _, err = run("pack", GOLDEN / MODELS[0], os.path.join(folder, "none", "x.qpk"))
        check("no such folder", code == 1 and one_line(err), err)
        code, _, err = run("eval", "-m", GOLDEN / MODELS[0], "--mmap", stdin="a river")
        check("--mmap of a GGUF says what to do", code == 1 and one_line(err) and "quern pack" in err, err)
        check("nothing is left behind", os.listdir(folder) == ["m.qpk"], os.listdir(folder))
        demo = demo_model()
        if not demo:
            skip("the demo model", "it is not in the cache folder")
            return
        big = os.path.join(folder, "demo.qpk")
        check("pack the demo model", run("pack", demo, big)[0] == 0)
        answers = [run("run", "-m", *m, "-n", "8", "--temperature", "0", "Name three rivers.")[:2]
                   for m in ([demo], [big], [big, "--mmap"])]
        check("the demo model answers alike", answers[0][0] == 0 and answers.count(answers[0]) == 3, answers)


main()
finish()
