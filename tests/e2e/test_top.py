#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""quern top: the view, its JSON, its end, and servers that are none; and what a real server tells of itself: /metrics in the text
format, /debug/timeline, the files in deploy/ and docs/ that name metrics.   usage: test_top.py QUERN"""
import copy
import http.server
import json
import os
import pathlib
import pty
import re
import select
import signal
import socket
import socketserver
import subprocess
import tempfile
import threading

import server
from cli import GOLDEN, QUERN, ROOT, check, finish, one_line, run, skip

TIMES = {"n": 9, "p50": 120.5, "p95": 180.25, "p99": 1234.5}
CLASS = {"name": "p0", "target_ms": 200, "running": 1, "waiting": 0, "done": 1234, "met": 1200, "refused": 3, "preempted": 0,
         "attained": 0.9724, "share": 0.4, "time_share": 0.381, "time_share_total": 0.4,
         "requests": {"stop": 1234, "length": 0, "abort": 0, "error": 0}, "e2e_ms": TIMES, "ttft_ms": TIMES,
         "gap_ms": {"n": 0, "p50": None, "p95": None, "p99": None}}
MODEL = {"name": "qwen", "ready": True, "running": 12, "waiting": 3, "prompt_tokens": 1, "output_tokens": 1, "prompt_tokens_per_second": 812.5,
         "output_tokens_per_second": 143.2, "kv_blocks": 1024, "kv_used": 461, "kv_cached": 120, "kv_usage": 0.45, "cache_queries": 1,
         "cache_hits": 1, "cache_hit_rate": 0.37, "preempted": 2, "draft_tokens": 0, "accepted_tokens": 0, "steps": 9, "steps_per_second": 34.1,
         "rows_per_step": 23.4, "seqs_per_step": 11.2, "step_ms": {"schedule": 0.05, "model": 28.9, "sample": 0.31},
         "weight_bytes_per_second": 12.1e9, "classes": [CLASS, dict(CLASS, name="p3", target_ms=0, attained=None)]}
SNAPSHOT = {"version": "0.1.0", "uptime_seconds": 11520.5, "window_seconds": 5.0, "resident_bytes": 812e6, "cpu_seconds": 10.0,
            "http": {"2xx": 1300, "4xx": 7, "5xx": 0}, "errors": {"queue_full": 3},
            "models": [MODEL, {"name": "loading", "ready": False}]}


class Server:
    """Answers GET /metrics.json with what `reply(n)` gives for the n-th request: (status, body)."""

    def __init__(self, reply, path=None):
        self.headers = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.headers.append((self.path, dict(self.headers)))
                status, body = reply(len(outer.headers))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

            def address_string(self):
                return "client"

        if path:
            self.server = socketserver.ThreadingUnixStreamServer(path, Handler)
            self.url = f"unix:{path}"
        else:
            self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.server.shutdown()
        self.server.server_close()


def good(snapshot=None):
    body = json.dumps(snapshot or SNAPSHOT).encode()
    return lambda n: (200, body)


def once():
    with Server(good()) as s:
        code, text, err = run("top", s.url, "--once")
        for part in ("up 3 h 12 min", "812 MB", "2xx 1.30k", "in 812", "out 143", "12 running", "3 waiting", "45 % of 1024 blocks, 120 kept",
                     "prefix hits 37 %", "23.4 rows", "model 28.90", "12.1 GB/s", "queue_full 3", "loading  not ready"):
            check(f"view: {part}", code == 0 and part in text, text + err)
        row = next((r.split() for r in text.splitlines() if r.startswith("  p0")), [])
        check("view: class", row == "p0 1 0 1.23k 120 180 1.23k 200 97.2 % 40 % 38 % 3 120 1.23k - -".split(), row)
        row = next((r.split() for r in text.splitlines() if r.startswith("  p3")), [])
        check("view: class without target", row[7:9] == ["-", "-"], row)
        check("view: no colours, not cleared", "\033" not in text)
        check("view: path", s.headers[0][0] == "/metrics.json" and "Authorization" not in s.headers[0][1], s.headers)
        check("no terminal: once", run("top", s.url)[0:2] == (0, text))
        check("URL without scheme, with slash", run("top", s.url[7:] + "/", "--once")[0] == 0)
        code, text, err = run("top", s.url, "--json")
        check("json", code == 0 and json.loads(text) == SNAPSHOT, text + err)
        with tempfile.TemporaryDirectory() as folder:
            key = pathlib.Path(folder) / "key"
            key.write_text("# ours\n\nsk-secret tenant p0\nanother\n")
            code, text, err = run("top", s.url, "--json", "--api-key-file", key)
            check("key", code == 0 and s.headers[-1][1].get("Authorization") == "Bearer sk-secret" and "secret" not in text + err, err)
            for bad in ("", "\n", "# a\n", "a\x01b\n", "\u00e9\n"):
                key.write_text(bad)
                code, _, err = run("top", s.url, "--json", "--api-key-file", key)
                check(f"key {bad!r}", code == 1 and one_line(err), err)
    with tempfile.TemporaryDirectory() as folder:
        with Server(good(), f"{folder}/s") as s:
            code, text, err = run("top", s.url, "--once")
            check("unix socket", code == 0 and "in 812" in text, err)
    # rates since the start say little: a second look is taken
    with Server(lambda n: (200, json.dumps(dict(SNAPSHOT, window_seconds=900.0 if n == 1 else 1.0)).encode())) as s:
        code, text, err = run("top", s.url, "--json")
        check("asked twice", code == 0 and json.loads(text)["window_seconds"] == 1 and len(s.headers) == 2, text + err)


def strange():
    hostile = copy.deepcopy(SNAPSHOT)
    hostile["models"][0]["name"] = "\033[2Jevil\u202e\u0007" + "x" * 500
    hostile["models"][0]["kv_usage"] = 1e300
    hostile["models"][0]["classes"][0]["name"] = None
    hostile["models"][0]["classes"].append(7)
    hostile["models"].append("text")
    hostile["errors"] = {"\033[31m": "no number"}
    hostile["uptime_seconds"] = -1e300
    with Server(good(hostile)) as s:
        code, text, err = run("top", s.url, "--once")
        check("hostile", code == 0 and not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text), repr(text) + err)
    for name, status, body, says in (("404", 404, b"{}", "404"), ("401", 401, b"{}", "--api-key-file"), ("no JSON", 200, b"<html>", "JSON"),
                                     ("array", 200, b"[]", "Quern"), ("no models", 200, b"{}", "Quern"), ("empty", 200, b"", "JSON"),
                                     ("deep", 200, b"[" * 100000, "nested"), ("huge", 200, b"[" + b"1," * (5 << 19) + b"1]", "more than")):
        with Server(lambda n, s=status, b=body: (s, b)) as s:
            code, text, err = run("top", s.url)
            check(f"answer: {name}", code == 1 and text == "" and one_line(err) and says in err and s.url in err, err)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0)) # bound and not listening: refuses
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        code, _, err = run("top", url)
        check("nothing listens", code == 1 and one_line(err) and "quern serve" in err and url in err, err)
    for args in (["ftp://127.0.0.1/"], ["unix:"], ["unix:/" + "x" * 200], ["http://"], ["\033[31m"]):
        code, _, err = run("top", *args)
        check(f"URL {args}", code == 1 and one_line(err) and "\033" not in err, err)
    for args in (["a", "b"], ["--jsn"]):
        code, _, err = run("top", *args)
        check(f"usage {args}", code == 2 and one_line(err), err)


def read_until(fd, seen, pattern):
    """Reads the terminal until the pattern is there; what was seen, or None if it closed or stays silent for long."""
    while not re.search(pattern, seen):
        if not select.select([fd], [], [], 60)[0]:
            return None
        try:
            data = os.read(fd, 65536)
        except OSError:
            return None
        if not data:
            return None
        seen += data.decode("utf-8", "replace")
    return seen


def terminal(name, url, pattern, end, want):
    main, terminal_fd = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    p = subprocess.Popen([QUERN, "top", url], stdin=terminal_fd, stdout=terminal_fd, stderr=terminal_fd, env=env, start_new_session=True)
    seen = read_until(main, "", pattern)
    check(f"{name}: shown", seen is not None)
    if isinstance(end, bytes):
        os.write(main, end)
    else:
        p.send_signal(end)
    tail = read_until(main, "", r"\033\[\?25h")
    code = p.wait(timeout=60)
    check(f"{name}: ends", code == want and tail is not None, (code, tail))
    os.close(terminal_fd)
    os.close(main)
    return seen or ""


def views():
    with Server(good()) as s:
        seen = terminal("q", s.url, "loading.*not ready", b"q", 0)
        check("terminal: colours, cursor hidden", "\033[32m" in seen and "\033[?25l" in seen)
        terminal("interrupt", s.url, "queue_full", signal.SIGINT, 130)
    # a server that fails is waited for, and comes back
    with Server(lambda n: (503, b"{}") if n == 2 else good()(n)) as s:
        seen = terminal("gone", s.url, r"(?s)answers 503.*queue_full", b"q", 0)
        check("gone: said", "answers 503" in seen)


def parse(text):
    """{sample with its labels: value} of the text format 0.0.4, and {family: type}; raises what breaks it."""
    samples, types, family = {}, {}, None
    if not text.endswith("\n"):
        raise ValueError("no newline at the end")
    lines = iter(text[:-1].split("\n"))
    for line in lines:
        if line.startswith("# HELP "):
            family = line.split(" ")[2]
            found = re.fullmatch(r"# TYPE (\S+) (counter|gauge|histogram)", next(lines))
            if family in types or not found or found[1] != family:
                raise ValueError(f"HELP and TYPE of {family}")
            types[family] = found[2]
            continue
        found = re.fullmatch(r'([a-z][a-z0-9_]*(?::[a-z0-9_]+)?)(\{[a-z_]+="(?:[^"\\\n]|\\[\\n"])*"(?:,[a-z_]+="(?:[^"\\\n]|\\[\\n"])*")*\})? (\d+(?:\.\d+)?)', line)
        if not found:
            raise ValueError(f"not a sample: {line}")
        of = re.sub("_(bucket|sum|count)$", "", found[1]) if types.get(family) == "histogram" else found[1]
        key = found[1] + (found[2] or "")
        if of != family or key in samples or (types[family] == "counter") != (of.endswith("_total") and types[family] != "histogram"):
            raise ValueError(f"out of place: {line}")
        samples[key] = float(found[3])
    return samples, types


def named_in(path):
    """Names of metrics in a file, as families."""
    names = set(re.findall(r"\b(?:vllm|quern):[a-z0-9_]+|\b(?:http|process)_[a-z0-9_]+(?:_total|_bytes|_seconds|_fds)\b", path.read_text()))
    return {re.sub("_(bucket|sum|count)$", "", n) for n in names}


def metrics():
    model = GOLDEN / "models" / "qwen3-tied-bf16"
    with server.Server("-m", f"tiny={model}", "--classes", "urgent:100s:60%,bulk:-:40%") as s:
        usage = {"prompt_tokens": 0, "completion_tokens": 0}
        for i in range(6):
            status, answer = s.post("/v1/completions", {"model": "tiny", "prompt": "Once upon a time", "max_tokens": 5 + i, "temperature": 0,
                                                        "ignore_eos": True}, {"x-priority": "urgent"} if i % 2 else {})
            check("metrics: answered", status == 200, answer)
            for k in usage:
                usage[k] += answer.get("usage", {}).get(k, 0) if status == 200 else 0
        streamed = s.events("/v1/completions", {"model": "tiny", "prompt": "Once upon", "max_tokens": 9, "ignore_eos": True, "stream": True,
                                                "stream_options": {"include_usage": True}})
        for k in usage:
            usage[k] += sum((e.get("usage") or {}).get(k, 0) for e in streamed if isinstance(e, dict))
        s.post("/v1/completions", {"model": "none", "prompt": "x"})
        status, headers, text = s.get("/metrics")
        check("metrics: type", status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4"), headers)
        try:
            samples, types = parse(text)
        except ValueError as e:
            check("metrics: text format", False, e)
            return
        of = 'model_name="tiny",engine="0"'
        for name, value in ((f"vllm:prompt_tokens_total{{{of}}}", usage["prompt_tokens"]),
                            (f"vllm:generation_tokens_total{{{of}}}", usage["completion_tokens"]),
                            (f"vllm:e2e_request_latency_seconds_count{{{of}}}", 7),
                            (f"vllm:time_to_first_token_seconds_count{{{of}}}", 7),
                            (f"vllm:request_success_total{{{of},finished_reason=\"length\"}}", 7),
                            (f"vllm:inter_token_latency_seconds_count{{{of}}}", usage["completion_tokens"] - 7),
                            (f"vllm:num_requests_running{{{of}}}", 0),
                            ('quern:class_requests_done_total{model_name="tiny",class="urgent"}', 3),
                            ('quern:class_requests_met_total{model_name="tiny",class="urgent"}', 3),
                            ('quern:requests_total{model_name="tiny",class="bulk",finished_reason="length"}', 4),
                            ('quern:engine_output_tokens_total{model_name="tiny"}', usage["completion_tokens"]),
                            ('quern:model_ready{model_name="tiny"}', 1),
                            ('http_requests_total{method="POST",handler="/v1/completions",status="2xx"}', 7),
                            ('quern:http_responses_total{code="404"}', 1)):
            check(f"metrics: {name}", samples.get(name) == value, (samples.get(name), value))
        check("metrics: steps", samples['quern:step_seconds_total{model_name="tiny",part="model"}'] > 0)
        for path in (ROOT / "docs" / "operate.md", ROOT / "deploy" / "grafana.json", ROOT / "deploy" / "alerts.yml"):
            check(f"metrics: named in {path.name}", named_in(path) <= set(types), named_in(path) - set(types))
        check("metrics: all are documented", set(types) <= named_in(ROOT / "docs" / "operate.md"), set(types) - named_in(ROOT / "docs" / "operate.md"))
        try:
            from prometheus_client.parser import text_string_to_metric_families
            families = list(text_string_to_metric_families(text))
            check("metrics: prometheus_client", sum(len(f.samples) for f in families) == len(samples))
        except ImportError:
            skip("metrics: prometheus_client", "it is not installed")
        phases = [e["name"] for e in json.loads(s.get("/debug/timeline?last=100")[2])["traceEvents"] if e["ph"] == "X"]
        check("timeline", sorted(phases) == sorted(["queue", "prefill", "decode"] * 7), phases)
        code, text, err = run("top", f"127.0.0.1:{s.port}", "--json")
        classes = {c["name"]: c for c in json.loads(text)["models"][0]["classes"]} if code == 0 else {}
        check("top: a real server", classes and classes["urgent"]["attained"] == 1 and classes["bulk"]["e2e_ms"]["n"] == 4, text + err)
        code, text, err = run("top", f"127.0.0.1:{s.port}")
        check("top: its view", code == 0 and "urgent" in text and "100.0 %" in text, text + err)
        check("report at the end", s.stop() == 0 and re.search(r"(?m)^urgent +3 .* 100.0 %", "".join(s.lines)), s.lines)


def main():
    once()
    strange()
    views()
    metrics()
    finish()


main()
