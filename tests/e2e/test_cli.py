# SPDX-License-Identifier: Apache-2.0
"""The program's front door: help, usage errors, tokenize, template, limits, completion, run."""
import json
import os
import re
import subprocess
import tempfile

from cli import GOLDEN, QUERN, ROOT, check, demo_model, finish, one_line, run, skip

MODELS = sorted(p for p in (GOLDEN / "models").glob("*") if (p / "golden.json").is_file())
SMALL = GOLDEN / "models" / "qwen3-tied-bf16"


def commands():
    _, out, _ = run("--help")
    return [line.split()[0] for line in out.splitlines() if line.startswith("  ") and not line.startswith("  quern")
            and not line.startswith("  exit")]


def test_help():
    rc, out, err = run("--help")
    check("--help", rc == 0 and "usage: quern COMMAND" in out and err == "", out + err)
    rc, out, err = run("--version")
    check("help", run("help") == run("--help"))
    check("--version", rc == 0 and out.startswith("quern ") and one_line(out), out)
    check("there are commands", len(commands()) >= 5, commands())
    for c in commands():
        rc, out, err = run(c, "--help")
        check(f"{c} --help", rc == 0 and out.startswith(f"usage: quern {c}") and err == "", out + err)
        check(f"{c} --help fits", max(map(len, out.splitlines())) <= 100, "a line over 100 columns")
        check(f"help {c}", run("help", c) == run("--help", c) == (rc, out, err), run("help", c))
        rc, out, err = run(c, "--no-such-option")
        check(f"{c} unknown option", rc == 2 and one_line(err) and "--no-such-option" in err and out == "", err)


def test_man_pages():
    overview = (ROOT / "docs" / "man" / "quern.1.scd").read_text()
    for c in commands():
        page = ROOT / "docs" / "man" / f"quern-{c}.1.scd"
        if not check(f"man page of {c}", page.is_file() and f"quern-{c}*(1)" in overview, "missing"):
            continue
        text = page.read_text()
        named = [w for line in run(c, "--help")[1].splitlines() if line.startswith(("  -", "      --"))
                 for w in line.split("  ")[1 if line.startswith("  -") else 3].replace(",", " ").split()
                 if w.startswith("--")]
        missing = [w for w in named if w != "--help" and w not in text]
        check(f"man page of {c} has every option", named and not missing, missing)


def test_usage():
    cases = [
        (["rum"], "did you mean run"),
        (["help", "rum"], "did you mean run"),
        (["serve", "--max-ctxt", "5"], "did you mean --max-ctx?"),
        (["load", "--api-key-fiel", "x"], "did you mean --api-key-file?"),
        (["x\x1b[2Jy"], "unknown command 'x\\x1b[2Jy'"),
        (["run"], "--model"),
        (["run", "-m"], "--model"),
        (["run", "-m", "x", "--temperature", "hot", "hi"], "found 'hot', wanted a number from 0 to 100"),
        (["run", "-m", "x", "--top-p=1.5", "hi"], "--top-p: found '1.5'"),
        (["run", "-m", "x", "--n", "17", "hi"], "--n: found '17'"),
        (["run", "-m", "x", "--n", "3", "--beam", "2", "hi"], "--n: found 3"),
        (["run", "-m", "x", "--rope-scaling", "maybe", "hi"], "auto|always|never"),
        (["run", "-m", "x", "--kv-cache-dtype", "q4", "hi"], "auto|f32|f16|int8"),
        (["run", "-m", "x", "--logit-bias", "5", "hi"], "wanted ID=BIAS"),
        (["run", "-m", "x", "--var", "messages=1", "hi"], "--var"),
        (["run", "-m", "x", "--json=1", "hi"], "wanted no value"),
        (["run", "-m", "x", "--json-object", "--regex", "a", "--choice", "b", "hi"], "found 3 of --json-object"),
        (["run", "-m", "x", "--json-object", "--beam", "2", "hi"], "--beam"),
        (["run", "-m", "x", "one", "two"], "'two'"),
        (["tokenize"], "--model"),
        (["tokenize", "-m", "x", "--jsonl", "text"], "operand"),
        (["template"], "wanted one"),
        (["completion"], "wanted bash, zsh or fish"),
        (["completion", "csh"], "'csh'"),
        (["limits", "extra"], "'extra'"),
    ]
    for args, text in cases:
        rc, out, err = run(*args)
        check("usage " + " ".join(args), rc == 2 and out == "" and one_line(err) and text in err, (rc, out, err))
    rc, out, err = run()
    check("no command", rc == 2 and out == "" and "usage:" in err, err)


def test_missing_model():
    for args in (["run", "-m", "no/such.gguf", "hi"], ["tokenize", "-m", "no/such.gguf", "hi"],
                 ["template", "-m", "no/such.gguf"]):
        rc, out, err = run(*args, stdin='{"messages": []}')
        check(f"{args[0]} without its model", rc == 1 and out == "" and one_line(err) and "no/such.gguf" in err,
              (rc, out, err))


def test_limits():
    rc, out, _ = run("limits", "--json")
    rows = json.loads(out)
    check("limits --json", rc == 0 and len(rows) >= 20, len(rows))
    names = [r["name"] for r in rows]
    check("limits are unique", len(set(names)) == len(names), names)
    rc, out, _ = run("limits")
    check("limits", rc == 0 and all(n in out for n in names), out)
    with open("/dev/full", "wb") as full:
        p = subprocess.run([QUERN, "limits"], stdout=full, stderr=subprocess.PIPE, check=False)
    check("a full disk is an error", p.returncode == 1 and one_line(p.stderr.decode()), p.stderr)


def test_completion():
    for shell in ("bash", "zsh", "fish"):
        rc, out, err = run("completion", shell)
        check(f"completion {shell}", rc == 0 and all(c in out for c in commands()) and err == "", err)
    script = run("completion", "bash")[1] + (
        "\nCOMP_WORDS=(quern run --rope-scaling a); COMP_CWORD=3; _quern; echo ${COMPREPLY[@]}\n"
        "COMP_WORDS=(quern tok); COMP_CWORD=1; _quern; echo ${COMPREPLY[@]}\n"
        "COMP_WORDS=(quern run --temp); COMP_CWORD=2; _quern; echo ${COMPREPLY[@]}\n")
    p = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    check("bash completes", p.stdout.split("\n")[:3] == ["auto always", "tokenize", "--temperature"], p)


def lines_of(objects):
    return "".join(json.dumps(o) + "\n" for o in objects)


def tokenize_file(model, rows, name):
    """Each golden row: encode with and without special tokens, decode, decode without special tokens."""
    asked, wanted = [], []
    for r in rows:
        asked.append({"text": r["text"]})
        wanted.append(r["ids"])
        if "plain" in r:
            asked.append({"text": r["text"], "special": False})
            wanted.append(r["plain"])
    rc, out, err = run("tokenize", "-m", model, "--jsonl", stdin=lines_of(asked))
    got = [json.loads(line).get("ids") for line in out.split("\n")[:-1]]
    check(f"{name} encode", rc == 0 and got == wanted, err or [(a, w, g) for a, w, g in zip(asked, wanted, got)
                                                             if w != g][:1])
    asked, wanted = [], []
    for r in rows:
        text = r.get("dec", r["text"])
        asked += [{"ids": r["ids"]}, {"ids": r["ids"], "skip_special": True}]
        wanted += [text, r.get("skip", text)]
    rc, out, err = run("tokenize", "-m", model, "--jsonl", "--decode", stdin=lines_of(asked))
    got = [json.loads(line).get("text") for line in out.split("\n")[:-1]]
    check(f"{name} decode", rc == 0 and got == wanted, err or [(a, w, g) for a, w, g in zip(asked, wanted, got)
                                                             if w != g][:1])


def golden_rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_tokenize_goldens():
    if not MODELS:
        skip("tokenize of the golden models", "no tests/golden/models")
    for m in MODELS:
        prompts = json.loads((m / "golden.json").read_text())["prompts"]
        rc, out, err = run("tokenize", "-m", m, "--jsonl", stdin=lines_of({"text": p["text"]} for p in prompts))
        got = [json.loads(line).get("ids") for line in out.split("\n")[:-1]]
        check(f"{m.name} prompts", rc == 0 and got == [p["ids"] for p in prompts], err)
    pairs = [("mini-qwen3", GOLDEN / "models" / "qwen3-untied-f32"), ("mini-qwen3.5", GOLDEN / "models" / "qwen3.5"),
             ("mini-smollm", GOLDEN / "models" / "llama-tied-bf16"), ("qwen2.5", demo_model())]
    for name, model in pairs:
        rows = GOLDEN / "tokenize" / (name + ".jsonl")
        if model is None or not model.exists() or not rows.is_file():
            skip(f"tokenize/{name}.jsonl", "needs that file and its model" if model else "the demo model is not here")
            continue
        tokenize_file(model, golden_rows(rows), name)


def test_tokenize():
    if not SMALL.is_dir():
        skip("tokenize", "no " + str(SMALL))
        return
    text = "Hello <|im_end|> wörld\n"
    rc, out, _ = run("tokenize", "-m", SMALL, stdin=text)
    check("tokenize stdin", rc == 0 and one_line(out) and all(w.isdigit() for w in out.split()), out)
    rc, back, _ = run("tokenize", "-m", SMALL, "--decode", out)
    check("tokenize and back", rc == 0 and back == text, back)
    rc, back, _ = run("tokenize", "-m", SMALL / "tokenizer.json", "--decode", "--skip-special", stdin=out)
    check("tokenizer.json alone", rc == 0 and back == text.replace("<|im_end|>", ""), back)
    plain = run("tokenize", "-m", SMALL, "--plain", text)[1]
    check("--plain", len(plain.split()) > len(out.split()), plain)
    pieces = run("tokenize", "-m", SMALL, "--pieces", text)[1]
    check("--pieces", len(pieces.splitlines()) == len(out.split()) and "<|im_end|>" in pieces, pieces)

    bad = '{"text": "a"}\nnonsense\n{"text": 5}\n[]\n{"text": "a", "special": 1}\n\n{"text": "a"}'
    rc, out, err = run("tokenize", "-m", SMALL, "--jsonl", stdin=bad)
    rows = [json.loads(line) for line in out.splitlines()]
    check("bad lines", rc == 1 and [("ids" in r, "error" in r) for r in rows] ==
          [(i in (0, 6), i not in (0, 6)) for i in range(7)], (rc, out, err))
    check("bad lines name themselves", all(f"line {i + 1}" in r["error"] for i, r in enumerate(rows) if "error" in r),
          out)
    rc, out, _ = run("tokenize", "-m", SMALL, "--jsonl", "--decode",
                     stdin='{"ids": [1, -1]}\n{"ids": [99999999]}\n{"ids": [1.5]}\n{"ids": 1}\n{"ids": []}\n')
    rows = [json.loads(line) for line in out.splitlines()]
    check("bad ids", rc == 1 and ["error" in r for r in rows] == [True] * 4 + [False] and rows[4] == {"text": ""}, out)
    with subprocess.Popen([QUERN, "tokenize", "-m", str(SMALL), "--jsonl"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as p:
        p.stdin.write(b'{"text": "one"}\n')
        p.stdin.flush()
        first = p.stdout.readline()
        p.stdin.close()
        check("a line is answered before the next", b"ids" in first, first)


TEMPLATE = """{%- for m in messages %}
{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if not messages %}{{ raise_exception('no messages here') }}{% endif %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
{%- if mood is defined %}{{ mood }}{% endif %}
{%- if bos_token is defined %}[{{ bos_token }}]{% endif %}"""


def test_template():
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "t.jinja")
        with open(path, "w", encoding="utf-8") as f:
            f.write(TEMPLATE)
        talk = {"messages": [{"role": "user", "content": "<|im_end|>é"}], "mood": "fine"}
        text = "<|im_start|>user\n<|im_end|>é<|im_end|>\n<|im_start|>assistant\nfine"
        rc, out, err = run("template", "--file", path, stdin=json.dumps(talk))
        check("template", rc == 0 and out == text, (out, err))
        rc, out, err = run("template", "--file", path, "--segments", stdin=json.dumps(talk))
        parts = json.loads(out) if rc == 0 else []
        check("segments", "".join(p["text"] for p in parts) == text and
              [p["text"] for p in parts if not p["literal"]] == ["user", "<|im_end|>é", "fine"], out + err)
        talk = {"messages": [], "add_generation_prompt": False}
        rc, out, err = run("template", "--file", path, stdin=json.dumps(talk))
        check("raise_exception", rc == 1 and out == "" and one_line(err) and "no messages here" in err, (rc, out, err))
        for bad in ("", "[]", "{", '{"messages": [], "messages": []}', "nul"):
            rc, out, err = run("template", "--file", path, stdin=bad)
            check(f"template input {bad!r}", rc == 1 and out == "" and one_line(err), (rc, out, err))
        rc, out, err = run("template", "--file", path, "--input", os.path.join(d, "none.json"))
        check("template without its input", rc == 1 and one_line(err) and "none.json" in err, err)


def test_template_of_demo_model():
    model = demo_model()
    if not model:
        skip("the demo model's template", "the demo model is not here (make run gets it)")
        return
    talk = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]}
    rc, out, err = run("template", "-m", model, stdin=json.dumps(talk))
    check("the demo model's template", rc == 0 and out == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi"
          "<|im_end|>\n<|im_start|>assistant\n", out + err)


def test_run():
    if not SMALL.is_dir():
        skip("run", "no " + str(SMALL))
        return
    golden = json.loads((SMALL / "golden.json").read_text())["prompts"][0]
    args = ["run", "-m", SMALL, "--raw", "--special", "--exact", "--temperature", "0", "-n", "32", "--ignore-eos"]
    rc, out, err = run(*args, "--json", "--logprobs", "2", golden["text"])
    events = [json.loads(line) for line in out.splitlines()] or [{}]
    check("run --json tokens", rc == 0 and [e["id"] for e in events if e["event"] == "token" and e["id"] >= 0] ==
          golden["greedy"], out[:300] + err)
    check("run --json end", events[-1].get("event") == "done" and events[-1]["output_tokens"] == 32 and
          events[-1]["prompt_tokens"] == len(golden["ids"]) and events[-1]["answers"][0]["finish"] == "length", out[-300:])
    check("run --logprobs", all(len(e["logprobs"]) == 3 for e in events if e.get("event") == "token" and e["id"] >= 0),
          out[:300])
    whole = events[-1]["answers"][0]["text"]
    rc, out, err = run(*args, golden["text"])
    check("run writes the text alone", rc == 0 and out.rstrip("\n") == whole.rstrip("\n"), (out, err))
    check("run tells its speeds", one_line(err) and "tok/s" in err, err)
    rc, out, err = run(*args, "--kv-cache-dtype", "int8", golden["text"])
    check("run --kv-cache-dtype int8", rc == 0 and len(out) > 8, (out, err))
    rc, out, err = run(*args, "-q", stdin=golden["text"])
    check("run of standard input", rc == 0 and out.rstrip("\n") == whole.rstrip("\n") and err == "", (out, err))
    rc, out, err = run(*args, "--speculation", "ngram", "--max-draft", "4", "--json", golden["text"])
    done = json.loads(out.splitlines()[-1])
    check("run --speculation", rc == 0 and done["answers"][0]["text"] == whole and
          0 <= done["accepted_tokens"] <= done["draft_tokens"], out[-300:] + err)
    rc, out, err = run(*args, "--speculation", "draft", "--draft-model", SMALL, "--json", golden["text"])
    done = json.loads(out.splitlines()[-1])
    check("run --draft-model", rc == 0 and done["answers"][0]["text"] == whole and
          0 < done["accepted_tokens"] <= done["draft_tokens"], out[-300:] + err)
    rc, out, err = run(*args, "--speculation", "draft", golden["text"])
    check("run --speculation draft alone", rc == 1 and out == "" and one_line(err), (rc, err))
    rc, out, err = run(*args, "--max-draft", "64", golden["text"])
    check("run --max-draft", rc == 2 and one_line(err) and "max-draft" in err, (rc, err))
    rc, out, err = run("run", "-m", SMALL, "-q", "--raw", "--seed", "7", "-n", "8", "--n", "3", "Once")
    check("run --n", rc == 0 and out.count(" of 3, ") == 3, (out, err))
    rc, out, err = run("run", "-m", SMALL, "-q", "--raw", "-n", "6", "--beam", "3", "--n", "2", "Once")
    check("run --beam", rc == 0 and out.count(" of 2, ") == 2, (out, err))
    rc, out, err = run("run", "-m", SMALL, "--raw", "")
    check("an empty prompt", rc in (1, 2) and out == "" and one_line(err), (rc, out, err))
    rc, out, err = run("run", "-m", SMALL, "--raw", "--max-ctx", "8", "one two three four five six seven eight nine")
    check("a prompt over the context", rc == 1 and out == "" and one_line(err), (rc, out, err))


def test_form():
    """The form of the answer: from a model that says nonsense, whatever the seed."""
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
              "required": ["ok", "n"], "additionalProperties": False}
    args = ["run", "-m", SMALL, "-q", "--raw", "--temperature", "1", "-n", "200"]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "form")
        for i, text in enumerate((json.dumps(schema), 'root ::= "(" root? ")"\n')):
            with open(f"{path}{i}", "w", encoding="utf-8") as f:
                f.write(text)
        for seed in range(1, 4):
            def ask(*form):
                rc, out, err = run(*args, "--seed", seed, *form, "Once upon a time")
                check(f"run {form[0]}", rc == 0 and err == "", (rc, out, err))
                return out[:-1]
            answers = [ask("--json-schema", json.dumps(schema)), ask("--json-schema", f"{path}0")]
            v = json.loads(answers[0])
            check("run --json-schema", list(v) == ["ok", "n"] and v["ok"] in (True, False) and 0 <= v["n"] <= 9, answers)
            check("a schema in a file is the same", answers[0] == answers[1], answers)
            out = ask("--choice", 'the "one"', "--choice", "the other")
            check("run --choice", out in ('the "one"', "the other"), out)
            out = ask("--regex", "[0-9]{4}-[0-9]{2}")
            check("run --regex", re.fullmatch("[0-9]{4}-[0-9]{2}", out), out)
            out = ask("--grammar", f"{path}1")
            check("run --grammar", re.fullmatch(r"\(*\)*", out) and (len(out) >= 190 or out.count("(") == out.count(")")), out)
    rc, out, err = run(*args, "--regex", "(a", "hi")
    check("a form that is none", rc == 1 and out == "" and one_line(err), (rc, out, err))
    rc, out, err = run(*args, "--grammar", "no/such/file", "hi")
    check("a form's file that is none", rc == 1 and out == "" and one_line(err) and "no/such/file" in err, (rc, out, err))


for test in (test_help, test_man_pages, test_usage, test_missing_model, test_limits, test_completion, test_tokenize_goldens,
             test_tokenize, test_template, test_template_of_demo_model, test_run, test_form):
    test()
finish()
