#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures Quern beside llama-bench compatible programs, in alternating rounds: see method.md.

  bench/beside.py -m model.gguf --quern Q=build/release/quern \\
      --peer L=/path/llama-bench --peer K=/path/llama-bench:-rtr,1,-thp,1 --rows decode,prefill512,batch8,e2e

A program is NAME=PATH[:FLAG,FLAG,...]. llama-batched-bench is looked for beside llama-bench. Standard library only."""
import argparse
import csv
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

DECODE = 24  # steps of a decode row, alone or together
E2E = (1500, 40)
WARM = 16  # prompt tokens of a peer's warm-up: every weight is touched once

ROWS = """Rows: decode, depthN (decode behind N tokens), prefillN, prefillN@DEPTH, batchN (total of N sequences), batchN@DEPTH,
e2e (1500 tokens in, 40 out) or e2eIN+OUT, load (ms of a process that opens the model and decodes one token). A row may say how many
rounds it takes part in: depth8192:1, where peers compute the whole depth."""


class Row:
    """What is measured: kind, prompt, decoded tokens, depth, batch."""

    def __init__(self, text, rounds):
        name, _, n = text.partition(":")
        m = re.fullmatch(r"(decode|load)|(prefill|batch|depth)(\d+)(?:@(\d+))?|(e2e)(?:(\d+)\+(\d+))?", name)
        if not m or (n and not n.isdigit()) or (m[2] == "depth" and m[4]):
            sys.exit(f"beside.py: found row '{text}'; {ROWS}")
        self.name, self.rounds = name, int(n) if n else rounds
        self.kind = "decode" if m[2] == "depth" else m[1] or m[2] or m[5]
        self.n = int(m[3] or 0) if m[2] != "depth" else 0
        self.depth = int(m[4] or 0) if m[2] != "depth" else int(m[3])
        self.io = (int(m[6]), int(m[7])) if m[6] else E2E
        self.unit = "ms" if self.kind == "load" else "tok/s"

    def is_batch(self):
        return self.kind == "batch"


class Program:
    """One program under test; run() gives {row name: figure}."""

    def __init__(self, text, is_peer):
        m = re.fullmatch(r"(?:([A-Za-z0-9_.+-]+)=)?([^:]+)(?::(.*))?", text)
        if not m:
            sys.exit(f"beside.py: found '{text}', want NAME=PATH[:FLAG,FLAG,...]")
        self.path, self.is_peer = os.path.abspath(m[2]), is_peer
        self.name = m[1] or pathlib.Path(self.path).name
        self.flags = m[3].split(",") if m[3] else []
        self.batched = str(pathlib.Path(self.path).with_name("llama-batched-bench"))
        if not os.access(self.path, os.X_OK):
            sys.exit(f"beside.py: {self.path}: found no program")
        self.help = self.output([self.path, "bench" if not is_peer else "--help", *([] if is_peer else ["--help"])],
                                may_fail=True)

    def output(self, args, may_fail=False, both=False):
        p = subprocess.run(args, cwd=tempfile.gettempdir(), stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT if both or may_fail else subprocess.PIPE, text=True, errors="replace", check=False)
        if p.returncode and not may_fail:
            lines = ((p.stdout or "") + (p.stderr or "")).strip().splitlines()
            sys.exit(f"beside.py: {' '.join(args)}: exit status {p.returncode}: {lines[-1] if lines else ''}")
        return p.stdout

    def run(self, model, rows, threads):
        steps = [r for r in rows if r.kind != "load"]
        got = {}
        for r in rows:
            if r.kind == "load":
                got[r.name] = self.load(model, threads)
        if steps:
            got.update(self.peer(model, steps, threads) if self.is_peer else self.quern(model, steps, threads))
        return got

    # ---- quern ----

    def quern(self, model, rows, threads):
        """One process for each depth: it loads, warms up, and measures its rows in turn."""
        got = {}
        for depth in sorted({r.depth for r in rows}):
            mine = [r for r in rows if r.depth == depth]
            prompts = [r for r in mine if r.kind == "prefill"]
            decodes = [r for r in mine if r.kind in ("decode", "batch")]
            answers = [r for r in mine if r.kind == "e2e"]
            args = ["-d", str(depth), "-p", ",".join(str(r.n) for r in prompts) or "0", "-n", str(DECODE if decodes else 0),
                    "-b", ",".join(str(r.n or 1) for r in decodes) or "1"]
            if answers:
                args += ["--in", str(answers[0].io[0]), "--out", str(answers[0].io[1])]
            out = self.quern_rows(model, args, threads)
            for r in mine:
                want = {"prefill": ("prefill", "in", r.n), "e2e": ("prompt and answer", "in", r.io[0])}.get(
                    r.kind, ("decode", "batch", r.n or 1))
                got[r.name] = next(x["tok_s"] for x in out if x["row"] == want[0] and x[want[1]] == want[2])
        return got

    def quern_rows(self, model, args, threads):
        out = self.output([self.path, "bench", "-m", model, "-r", "1", "--json", *args, *threads_of(threads), *self.flags])
        return json.loads(out)["models"][0]["rows"]

    # ---- llama-bench and llama-batched-bench ----

    def peer(self, model, rows, threads):
        got = {}
        for depth in sorted({r.depth for r in rows if not r.is_batch()}):
            mine = [r for r in rows if r.depth == depth and not r.is_batch()]
            got.update(self.llama_bench(model, mine, depth, threads))
        for r in rows:
            if r.is_batch():
                got[r.name] = self.batch(model, r, threads)
        return got

    def llama_bench(self, model, rows, depth, threads):
        """Also one process a depth. Its own warm-up repeats the whole test; a short prompt first does as well."""
        has_depth = "--n-depth" in self.help
        args = [self.path, "-m", model, "-r", "1", "-o", "json", *threads_of(threads), *self.flags]
        args += ["--no-warmup"] if "--no-warmup" in self.help else ["-w", "0"]
        prompts = [r.n for r in rows if r.kind == "prefill"]
        decodes = [r for r in rows if r.kind == "decode"]
        if depth and not has_depth:  # an older one: -gp pp,tg decodes behind a prompt that it does not time
            if prompts:
                sys.exit(f"beside.py: {self.name} cannot compute a prompt behind a depth (no --n-depth)")
            args += ["-p", str(WARM), "-n", "0", "-gp", f"{depth},{DECODE}"]
        else:
            args += ["-p", ",".join(map(str, [WARM, *prompts])), "-n", str(DECODE if decodes else 0)]
            args += ["-d", str(depth)] if depth else []
        for r in rows:
            if r.kind == "e2e":
                args += ["-pg", f"{r.io[0]},{r.io[1]}"]
        tests = json.loads(json_part(self.output(args)))
        got = {}
        for r in rows:
            if r.kind == "prefill":
                want = (r.n, 0)
            elif r.kind == "e2e":
                want = r.io
            else:
                want = (depth if depth and not has_depth else 0, DECODE)
            got[r.name] = next(t["avg_ts"] for t in tests if (t["n_prompt"], t["n_gen"]) == want)
        return got

    def batch(self, model, row, threads):
        """The flags that llama-batched-bench does not know are those of llama-bench alone: --batched-flags names its own."""
        if not os.access(self.batched, os.X_OK):
            sys.exit(f"beside.py: {self.batched}: found no program, wanted for {row.name}")
        prompt = row.depth or WARM
        context = (prompt + DECODE + 1) * row.n + 256
        out = self.output([self.batched, "-m", model, "-c", str(context), "-npp", str(prompt), "-ntg", str(DECODE),
                           "-npl", str(row.n), *threads_of(threads), *getattr(self, "batched_flags", [])], both=True)
        for line in out.splitlines():
            cells = [c.strip() for c in line.strip().strip("|").split("|")]
            if len(cells) >= 8 and cells[0] == str(prompt) and cells[1] == str(DECODE) and cells[2] == str(row.n):
                return float(cells[7])
        sys.exit(f"beside.py: {self.batched}: found no row of batch {row.n} in what it printed")

    # ---- both ----

    def load(self, model, threads):
        """Milliseconds of a process that opens the model and decodes one token."""
        if self.is_peer:
            args = [self.path, "-m", model, "-r", "1", "-p", "0", "-n", "1", "-o", "json", *threads_of(threads), *self.flags]
            args += ["--no-warmup"] if "--no-warmup" in self.help else ["-w", "0"]
        else:
            args = [self.path, "run", "-m", model, "-q", "--raw", "-n", "1", "--max-ctx", "512", "--temperature", "0",
                    *threads_of(threads), *self.flags, "a"]
        start = time.monotonic()
        self.output(args)
        return 1e3 * (time.monotonic() - start)


def threads_of(n):
    return ["-t", str(n)] if n else []


def json_part(text):
    return text[text.index("["):text.rindex("]") + 1]


def spread(values):
    """Half the way from the lowest to the highest, in percent of the median."""
    return 50 * (max(values) - min(values)) / statistics.median(values)


def table(rows, programs, figures):
    """Medians with their spreads, and the first program's advantage over each other one: the median of the rounds' ratios."""
    first = programs[0]
    head = ["row", ""] + [p.name for p in programs] + [f"{first.name}/{p.name}" for p in programs[1:]]
    lines = [head, ["---"] * len(head)]
    for r in rows:
        mine = figures[first.name].get(r.name, [])
        line = [r.name, r.unit]
        for p in programs:
            v = figures[p.name].get(r.name, [])
            line.append(f"{statistics.median(v):.4g} ± {spread(v):.0f} %" if v else "-")
        for p in programs[1:]:
            pairs = list(zip(mine, figures[p.name].get(r.name, [])))
            ratios = [b / a if r.kind == "load" else a / b for a, b in pairs]
            line.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})" if ratios else "-")
        lines.append(line)
    widths = [max(len(x[i]) for x in lines) for i in range(len(head))]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths)) + " |" for line in lines)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog=ROWS)
    ap.add_argument("-m", "--model", required=True, help="a GGUF file")
    ap.add_argument("--quern", action="append", default=[], metavar="NAME=PATH[:FLAGS]", help="the first one is held against all")
    ap.add_argument("--peer", action="append", default=[], metavar="NAME=PATH[:FLAGS]", help="llama-bench or one like it")
    ap.add_argument("--batched-flags", action="append", default=[], metavar="NAME=FLAGS",
                    help="flags for that peer's llama-batched-bench")
    ap.add_argument("--rows", default="decode,prefill512,batch8,e2e", help="with commas, in order")
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("-t", "--threads", type=int, default=0, help="0: each program's own choice")
    ap.add_argument("--csv", metavar="FILE", help="one line for every figure")
    o = ap.parse_args()
    programs = [Program(t, False) for t in o.quern] + [Program(t, True) for t in o.peer]
    if not programs:
        sys.exit("beside.py: found no program, want --quern and --peer")
    for text in o.batched_flags:
        name, _, flags = text.partition("=")
        for p in programs:
            if p.name == name:
                p.batched_flags = flags.split(",")
    rows = [Row(t, o.rounds) for t in o.rows.split(",")]
    if len([r for r in rows if r.kind == "e2e"]) > 1:
        sys.exit("beside.py: found several e2e rows, want at most one")
    figures = {p.name: {} for p in programs}
    lines = []
    for k in range(max(r.rounds for r in rows)):
        # Round by round the order turns, so that no program always runs on a machine that another has just warmed.
        for p in programs[k % len(programs):] + programs[:k % len(programs)]:
            start = time.monotonic()
            got = p.run(os.path.abspath(o.model), [r for r in rows if k < r.rounds], o.threads)
            for r in rows:
                if r.name in got:
                    figures[p.name].setdefault(r.name, []).append(got[r.name])
                    lines.append([k + 1, p.name, r.name, f"{got[r.name]:.4f}", r.unit])
            print(f"round {k + 1}: {p.name:8} {time.monotonic() - start:6.1f} s  " +
                  "  ".join(f"{n} {v:.4g}" for n, v in got.items()), file=sys.stderr, flush=True)
        if o.csv:
            with open(o.csv, "w", newline="", encoding="utf-8") as f:
                csv.writer(f).writerows([["round", "program", "row", "figure", "unit"], *lines])
    print(table(rows, programs, figures))


if __name__ == "__main__":
    main()
