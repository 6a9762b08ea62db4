# SPDX-License-Identifier: Apache-2.0
"""quern segment: where texts are cut, what is asked of the pieces and of the answers, the end by Ctrl-C."""
import json
import os
import random
import signal
import subprocess
import tempfile

from cli import GOLDEN, QUERN, check, finish, one_line, run

SMALL = GOLDEN / "models" / "qwen3-tied-bf16"
TEMPLATE = "{%- for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
GREEDY = ["--temperature", "0", "-t", "2"]
RAW = [*GREEDY, "--raw"]


def sample(n_chapters=6):
    """Chapters of two paragraphs each, in English and Chinese."""
    out = []
    for c in range(1, n_chapters + 1):
        out.append(f"## Chapter {c}\n\nIt begins here. " + f"Sentence after sentence of {c}. " * 6 + "\n\n")
        out.append("第一句话。第二句话！还有第三句吗？" * 3 + "\n\n")
    return "".join(out)


def pieces(text, *args):
    rc, out, err = run("segment", "-m", SMALL, "--in", "-", "--json", *args, stdin=text)
    return json.loads(out) if rc == 0 and one_line(out) else check(f"segment {args}", False, (rc, out, err))


def count(texts):
    lines = "".join(json.dumps({"text": t, "special": False}) + "\n" for t in texts)
    return [len(json.loads(line)["ids"]) for line in run("tokenize", "-m", SMALL, "--jsonl", stdin=lines)[1].splitlines()]


def test_pieces():
    rng = random.Random(1)
    texts = [sample(), "x", "\n", "\ufeff标题\n\n正文。" * 50, "é" * 500,
             "".join(rng.choice(["word ", "。", "\n", "\n\n# A\n", "한", "\U0001F469\u200d\U0001F467", "a\u0301", "1. "]) for _ in range(800))]
    for i, text in enumerate(texts):
        data = text.encode()
        for most, again in ((200, 20), (64, 0), (37, 36)):
            got = pieces(text, "--max-tokens", most, "--overlap", again)
            if not got:
                continue
            rows = got["segments"]
            parts = [data[s["begin"]:s["end"]] for s in rows]
            name = f"text {i} in {most}"
            check(f"{name}: every byte is new once", b"".join(data[s["new"]:s["end"]] for s in rows) == data, rows)
            check(f"{name}: tokens", count([p.decode() for p in parts]) == [s["tokens"] for s in rows] and
                  all(s["tokens"] <= most for s in rows), rows)
            check(f"{name}: overlap", count([data[s["begin"]:s["new"]].decode() for s in rows]) ==
                  [s["overlap_tokens"] for s in rows] and all(s["overlap_tokens"] <= again for s in rows), rows)
            check(f"{name}: lines", all(s["first_line"] == data[:s["begin"]].count(b"\n") + 1 and
                                        s["last_line"] == data[:s["end"] - 1].count(b"\n") + 1 for s in rows), rows)
            new = [s["tokens"] - s["overlap_tokens"] for s in rows]
            check(f"{name}: token ranges", [s["first_token"] + s["overlap_tokens"] for s in rows] ==
                  [sum(new[:k]) for k in range(len(new))], rows)
            check(f"{name}: the same again", got == pieces(text, "--max-tokens", most, "--overlap", again))
            check(f"{name}: sums", (got["bytes"], got["tokens"]) == (len(data), count([text])[0]), got)
    borders = [s["border"] for s in pieces(sample(), "--max-tokens", "500")["segments"]]
    check("chapters are where it is cut", borders[0] == "start" and set(borders[1:]) == {"heading"}, borders)
    rc, out, err = run("segment", "-m", SMALL / "tokenizer.json", "--max-tokens", "500", stdin=sample())
    check("the table, with a tokenizer alone", rc == 0 and err == "" and "## Chapter 2" in out and
          out.count("\n") == len(borders) + 2 and "standard input: " in out, (rc, out, err))


def test_refusals(folder):
    for name, data in (("empty", b""), ("zero", b"text\0more"), ("broken", b"text \xff\xfe"), ("good", b"some text \xf0\x9f\xab\xa0")):
        with open(os.path.join(folder, name), "wb") as f:
            f.write(data)
    path = lambda name: os.path.join(folder, name)
    cases = [
        (["--in", path("good"), "--max-tokens", "100", "--overlap", "100"], 2, "--overlap: found 100, wanted less than the 100"),
        (["--in", path("good"), "--max-tokens", "0"], 2, "--max-tokens: found '0'"),
        (["--in", path("good"), "--reduce", "x"], 2, "--reduce: found without --map"),
        (["--in", path("good"), "--compare"], 2, "--compare: found without --map"),
        (["--in", path("good"), "--compare", "--map", "x", "--dry"], 2, "--compare: found with --dry"),
        (["--in", path("good"), "--map", "x", "--var", "y"], 2, "--var: found 'y'"),
        (["--in", path("empty")], 1, "empty: found no text"),
        (["--in", path("zero")], 1, "zero: found a zero byte at 4, wanted text"),
        (["--in", path("broken")], 1, "broken: found a byte 255 at 5, wanted UTF-8"),
        (["--in", path("none")], 1, "none"),
        (["--in", path("good"), "--max-tokens", "2"], 1, "the character at byte 10: found 3 tokens, wanted at most the 2"),
        (["--in", path("good"), "--map", "long " * 3000, "-n", "50"], 1, "4096 of the context"),
        (["--in", path("good"), "--map", "x", "-n", "4096"], 1, "and 4096 for the answer"),
    ]
    for args, status, text in cases:
        rc, out, err = run("segment", "-m", SMALL, *args)
        check("segment " + " ".join(args)[:60], rc == status and out == "" and one_line(err) and text in err, (rc, out, err))
    rc, out, err = run("segment", "--in", path("good"))
    check("no model", rc == 2 and "--model" in err, err)
    rc, out, err = run("segment", "-m", "no/such.gguf", "--in", path("good"))
    check("no such model", rc == 1 and one_line(err) and "no/such.gguf" in err, err)


def events(text, *args, how=RAW):
    rc, out, err = run("segment", "-m", SMALL, "--json", *how, *args, stdin=text)
    rows = [json.loads(line) for line in out.splitlines()]
    check(f"segment {args} ends well", rc == 0 and err == "" and rows and rows[-1]["event"] == "done", (rc, err, rows[-1:]))
    return rows


def alone(prompt, n, *args, how=RAW):
    """What quern run answers."""
    out = run("run", "-m", SMALL, "--json", *how, "-n", n, *args, stdin=prompt)[1]
    return json.loads(out.splitlines()[-1])["answers"][0]["text"]


def test_answers(folder):
    text, template = sample(), os.path.join(folder, "t.jinja")
    with open(template, "w") as f:
        f.write(TEMPLATE)
    data = text.encode()
    rows = events(text, "--max-tokens", "200", "-n", "12", "--map", "{part}/{parts} {x} {text} {{text}")
    cut, answers = rows[0]["segments"], [r for r in rows if r["event"] == "map"]
    check("an answer for each piece, in order", [r["part"] for r in answers] == list(range(1, len(cut) + 1)) and len(cut) > 3, answers)
    for s, r in zip(cut, answers):
        part = data[s["begin"]:s["end"]].decode()
        check(f"part {r['part']} is answered as alone",
              r["text"] == alone(f"{r['part']}/{len(cut)} {{x}} {part} {{{part}", 12), r)
    check("counts", rows[-1]["answers"] == len(cut) and rows[-1]["prompt_tokens"] == sum(r["prompt_tokens"] for r in answers) and
          rows[-1]["output_tokens"] == sum(r["output_tokens"] for r in answers) and "text" not in rows[-1], rows[-1])

    chat = ["--chat-template", template]
    rows = events("short {text}", "-n", "8", "--system", "Be brief.", "--map", "Say", *chat, how=GREEDY)
    want = alone("Say\n\nshort {text}", 8, "--system", "Be brief.", *chat, how=GREEDY)
    check("one piece is asked through the template, its text behind the prompt", rows[-1]["text"] == want, (rows[-1], want))
    check("and streamed", "".join(r["text"] for r in rows if r["event"] == "text") == want and
          sum(r["event"] == "text" for r in rows) > 1, rows)

    rows = events(text, "--max-tokens", "400", "-n", "8", "--map", "A", "--reduce", "B")
    answers = [r["text"] for r in rows if r["event"] == "map"]
    joined = "\n\n".join(f"[{i + 1}/{len(answers)}]\n{a.lstrip(chr(10) + ' ')}" for i, a in enumerate(answers))
    check("the answers are reduced to one", rows[-1]["text"] == alone("B\n\n" + joined, 8), rows[-1])

    rows = events(text, "--max-tokens", "40", "-n", "20", "--map", "A", "--reduce", "B {part} of {parts}:")
    levels = [(r["level"], r["part"], r["parts"]) for r in rows if r["event"] == "reduce"]
    shrinks = [next(parts for x, _, parts in levels if x == level) for level in sorted({x for x, _, _ in levels})]
    check("in levels where they do not fit", len(shrinks) > 2 and shrinks[-1] == 1 and shrinks == sorted(shrinks, reverse=True) and
          len(levels) == sum(shrinks), levels)

    rc, out, err = run("segment", "-m", SMALL, "--max-tokens", "200", "-n", "5", *RAW, "--map", "A", stdin=text)
    check("as text: a line for each piece", rc == 0 and out.count("--- part ") == len(cut) and
          f"--- part {len(cut)} of {len(cut)}, lines " in out and f"{len(cut)} parts, {len(cut)} answers, " in err, (out, err))
    rc, out, err = run("segment", "-m", SMALL, "--max-tokens", "200", "-n", "5", *RAW, "--map", "A", "--reduce", "B", "-q", stdin=text)
    check("as text: the last answer alone", rc == 0 and "---" not in out and out.endswith("\n") and err == "", (out, err))
    for seats in ("1", "7"):
        other = events(text, "--max-tokens", "200", "-n", "12", "--map", "A", "--max-seqs", seats)
        mine = events(text, "--max-tokens", "200", "-n", "12", "--map", "A", "--max-seqs", "3")
        same = lambda rows: [(r["part"], r["text"]) for r in rows if r["event"] == "map"]
        check(f"the same answers with {seats} at once", same(other) == same(mine), (other, mine))


def test_compare():
    rows = events(sample(), "--max-tokens", "200", "-n", "12", "--map", "A", "--reduce", "B", "--compare")
    one = rows[-1]["one_shot"]
    check("one shot", one["text"] == alone("A\n\n" + sample(), 12) and one["answers"] == 1, one)
    check("how far they overlap", 0 <= one["answer_overlap"] <= 1, one)
    check("memory is told", all(x["peak_bytes"] is None or x["peak_bytes"] > 1 << 20 for x in (one, rows[-1])), rows[-1])
    rows = events("One piece.", "-n", "12", "--map", "A", "--compare")
    check("one piece is one shot", rows[-1]["one_shot"]["answer_overlap"] == 1, rows[-1])
    rows = events(sample(30), "--max-tokens", "1000", "-n", "4", "--map", "A", "--compare")
    check("no one shot over the context", rows[-1]["one_shot"] is None and rows[-1]["context"] == 4096 <
          rows[-1]["one_shot_context"], rows[-1])
    args = ("-n", "5", *RAW, "--map", "A", "--compare", "-q")
    rc, out, err = run("segment", "-m", SMALL, "--max-tokens", "200", *args, stdin=sample())
    check("as a table", rc == 0 and "--- one shot ---\n" in out and "seconds" in out and " % of the tokens" in out, (out, err))
    rc, out, err = run("segment", "-m", SMALL, "--max-tokens", "1000", *args, stdin=sample(30))
    check("why not", rc == 0 and "one shot: not asked" in out and "4096" in out, (out, err))


def test_interrupt():
    # Answers of hundreds of tokens from a model that ends when it likes: the signal comes with the first line of text.
    for as_json in (True, False):
        args = [QUERN, "segment", "-m", str(SMALL), "--max-tokens", "40", "-n", "2000", *RAW, "--max-seqs", "1", "--map", "A"]
        p = subprocess.Popen(args + ["--json"] * as_json, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        p.stdin.write(sample(30).encode())
        p.stdin.close()
        seen = p.stdout.readline()
        if as_json:
            seen += p.stdout.readline()
        p.send_signal(signal.SIGINT)
        out, err = (seen + p.stdout.read()).decode(), p.stderr.read().decode()
        check("Ctrl-C ends it", p.wait() == 130 and one_line(err) and "interrupted after" in err and " parts answered" in err,
              (p.returncode, err))
        if as_json:
            rows = [json.loads(line) for line in out.splitlines()]
            n = sum(r["event"] == "map" for r in rows)
            check("and tells what was done", rows[-1]["finish"] == "cancelled" and rows[-1]["answers"] >= n >= 1 and
                  f": {n} of " in err, (rows[-1], err))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as tmp:
        test_pieces()
        test_refusals(tmp)
        test_answers(tmp)
        test_compare()
        test_interrupt()
    finish()
