#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`quern load` against a server of known behaviour: counts, times from the intended start, refusals, odd pieces, cut and hostile
answers, the sweep. usage: test_load.py QUERN [PART_OF_A_NAME]

What the server waits is what is measured: times are checked from below and against each other only."""

import collections
import csv
import io
import json
import os
import resource
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time

import cli
import server as quern_server

Request = collections.namedtuple("Request", "method path headers body i")


def event(text):
    return b"data: " + (text if isinstance(text, bytes) else json.dumps(text).encode()) + b"\n\n"


def token(text="x", **more):
    return event({"choices": [{"text": text, "finish_reason": None}], **more})


def ending(r, finish="length"):
    """Finish, usage and [DONE] of a whole answer."""
    usage = {"prompt_tokens": len(r.body.get("prompt", "")) or 7, "completion_tokens": r.body["max_tokens"]}
    return (event({"choices": [{"text": "", "finish_reason": finish}]}) + event({"choices": [], "usage": usage}) +
            event(b"[DONE]"))


def head(status=200, reason="OK", **headers):
    lines = ["HTTP/1.1 %d %s" % (status, reason)]
    lines += ["%s: %s" % (k.replace("_", "-"), v) for k, v in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


SSE = {"Content_Type": "text/event-stream"}
CHUNKED = head(**SSE, Transfer_Encoding="chunked")


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def whole(r, wait=0.0, between=0.0):
    """A good answer, one chunk a token; waits before the first and between them."""
    yield CHUNKED
    for i in range(r.body["max_tokens"]):
        pause = between if i else wait
        if pause:
            time.sleep(pause)
        yield chunk(token())
    yield chunk(ending(r)) + b"0\r\n\r\n"


def reply(status, body, **headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content_Type": "application/json", **headers}
    return head(status, "x", Content_Length=len(data), **headers) + data


CUT, RESET = object(), object()


class Server:
    """answer(request) yields bytes, CUT (close) or RESET. One thread a connection."""

    def __init__(self, answer, models=None, tls=None):
        self.answer, self.tls = answer, tls
        self.models = models if models is not None else reply(200, {"data": [{"id": "the-model"}]})
        self.lock = threading.Lock()
        self.requests, self.connections, self.open = [], 0, []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        self.url = "http%s://127.0.0.1:%d" % ("s" if tls else "", self.port)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                self.connections += 1
                self.open.append(s)
            threading.Thread(target=self.serve, args=(s,), daemon=True).start()

    def serve(self, s):
        try:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls:
                s = self.tls.wrap_socket(s, server_side=True)
            f = s.makefile("rb")
            while self.one(s, f):
                pass
        except (OSError, ValueError):
            pass
        finally:
            s.close()

    def one(self, s, f):
        line = f.readline().split()
        if len(line) < 2:
            return False
        headers = {}
        while True:
            h = f.readline().decode().strip()
            if not h:
                break
            k, _, v = h.partition(":")
            headers[k.lower()] = v.strip()
        data = f.read(int(headers.get("content-length", 0)))
        if line[0] == b"GET":
            s.sendall(self.models)
            return True
        with self.lock:
            r = Request(line[0].decode(), line[1].decode(), headers, json.loads(data), len(self.requests))
            self.requests.append(r)
        for piece in self.answer(r):
            if piece is CUT:
                return False
            if piece is RESET:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            s.sendall(piece)
        return True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
        with self.lock:
            for s in self.open:
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass


def load(server, *args, want=None, **kw):
    """The JSON report. The exit status is 1 if some requests failed, unless it is to be another."""
    rc, out, err = cli.run("load", server.url, "--json", *args, **kw)
    r = json.loads(out) if out else {}
    has_failed = "--sweep" not in args and r.get("failed", 0) > 0
    cli.check("exit status of load %s" % " ".join(map(str, args)), rc == (int(has_failed) if want is None else want), "%d: %s" % (rc, err))
    cli.check("and a line that says why", want is not None or not has_failed or (cli.one_line(err) and "requests failed: " in err), err)
    return r


KEYS = tempfile.TemporaryDirectory()


def key_file(text):
    with tempfile.NamedTemporaryFile("w", dir=KEYS.name, delete=False) as f:
        f.write(text)
    return f.name


def rows(path):
    with open(path, encoding="utf-8") as f:
        return list(csv.DictReader(f))


def outcomes(r):
    return r.get("done"), r.get("refused"), r.get("failed")


def test_counts():
    with Server(whole) as s:
        r = load(s, "-c", 4, "-n", 20, "--in", "30-50", "--out", "3-6", "--vocab", 500, "--shared-prefix", 8)
        cli.check("all are done", outcomes(r) == (20, 0, 0), r)
        cli.check("requests sent", len(s.requests) == 20)
        cli.check("connections are kept", s.connections <= 5, s.connections)
        bodies = [q.body for q in s.requests]
        cli.check("prompts", all(30 <= len(b["prompt"]) <= 50 and max(b["prompt"]) < 500 for b in bodies))
        cli.check("answers", all(3 <= b["max_tokens"] <= 6 for b in bodies))
        cli.check("always", all(b["ignore_eos"] is True and b["temperature"] == 0 and b["stream"] is True
                                and b["model"] == "the-model" for b in bodies))
        cli.check("shared prefix", len({tuple(b["prompt"][:8]) for b in bodies}) == 1)
        cli.check("own rest", len({tuple(b["prompt"][8:16]) for b in bodies}) == 20)
        cli.check("no class", all("priority" not in b for b in bodies) and
                  all("x-priority" not in q.headers for q in s.requests))
        cli.check("tokens", r["input_tokens"] == sum(len(b["prompt"]) for b in bodies) and
                  r["output_tokens"] == sum(b["max_tokens"] for b in bodies), r)
        all_ = r["all"]
        cli.check("gaps", all_["between_tokens_ms"]["n"] == r["output_tokens"] - 20)
        cli.check("order of percentiles", all(
            m["p50"] <= m["p90"] <= m["p95"] <= m["p99"] <= m["p999"] <= m["max"]
            for m in (all_["first_token_ms"], all_["between_tokens_ms"], all_["whole_answer_ms"])))
        cli.check("paths", {q.path for q in s.requests} == {"/v1/completions"})
    with Server(whole) as a, Server(whole) as b:
        for s in (a, b):
            load(s, "-c", 1, "-n", 3, "--seed", 7, "--in", 10, "--out", 2, "--mix", "5,5")
        cli.check("the same seed asks the same", [q.body for q in a.requests] == [q.body for q in b.requests])


def test_times():
    def slow(r):
        yield from whole(r, 0.1, 0.02)

    with Server(slow) as s:
        r = load(s, "-c", 3, "-n", 6, "--in", 5, "--out", 4)["all"]
        cli.check("first token", r["first_token_ms"]["p50"] >= 99, r)
        cli.check("whole answer", r["whole_answer_ms"]["p50"] >= 158, r)
        cli.check("between tokens", r["between_tokens_ms"]["mean"] >= 18, r)


def test_warmup_and_csv():
    with Server(whole) as s, tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "a.csv")
        r = load(s, "-c", 2, "-n", 10, "-w", 5, "--out", 2, "--in", 4, "--csv", path)
        cli.check("warm-up is sent", len(s.requests) == 15)
        cli.check("warm-up is not counted", outcomes(r) == (10, 0, 0), r)
        table = rows(path)
        cli.check("a line for each request", sorted(int(x["request"]) for x in table) == list(range(5, 15)), table)
        cli.check("lines are sound", all(
            x["outcome"] == "done" and x["output_tokens"] == "2" and
            float(x["whole_answer_ms"]) >= float(x["first_token_ms"]) >= float(x["send_lag_ms"]) >= 0 for x in table))


def test_open_loop():
    """Nothing is answered before the last request is there: a closed loop would wait for ever, and answers take as long as that."""
    n, all_here = 25, threading.Event()

    def answer(r):
        if r.i == n - 1:
            all_here.set()
        all_here.wait()
        yield from whole(r)

    with Server(answer) as s, tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "a.csv")
        r = load(s, "--rate", 100, "-n", n, "--in", 5, "--out", 2, "--csv", path)
        cli.check("all are done", outcomes(r) == (n, 0, 0), r)
        table = rows(path)
        last = max(float(x["intended_s"]) for x in table)
        cli.check("intended starts are apart", last > 0 and len({x["intended_s"] for x in table}) == n)
        early = [x for x in table if float(x["first_token_ms"]) < (last - float(x["intended_s"])) * 1000 - 0.01]
        cli.check("each waited for the last", not early, early)


def test_stall_counts():
    """Few connections and a slow server: what waits here, unsent, is late all the same."""
    def answer(r):
        yield from whole(r, 0.1)

    def few_files():
        resource.setrlimit(resource.RLIMIT_NOFILE, (69, 69))

    with Server(answer) as s, tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "a.csv")
        p = subprocess.run([cli.QUERN, "load", s.url, "--json", "--rate", "2000", "-n", "30", "--in", "5", "--out", "1",
                            "--csv", path], capture_output=True, preexec_fn=few_files, check=False)
        cli.check("exit status", p.returncode == 0, p.stderr)
        r = json.loads(p.stdout)
        cli.check("few connections", s.connections <= 6, s.connections)
        cli.check("all are done", outcomes(r) == (30, 0, 0), r)
        # 5 at a time, 0.1 s each: the last begin after 0.5 s
        times = r["all"]["first_token_ms"]
        cli.check("waiting counts", times["max"] >= 490, times)
        cli.check("waiting is told", r["send_lag_ms"]["max"] >= 390, r["send_lag_ms"])
        cli.check("latency holds the lag", all(float(x["first_token_ms"]) >= float(x["send_lag_ms"]) + 99
                                               for x in rows(path)))


def test_duration():
    with Server(whole) as s:
        r = load(s, "-c", 2, "-d", 0.3, "--in", 3, "--out", 1)
        cli.check("runs on", r["done"] == len(s.requests) > 0 and r["failed"] == 0, r)
        r = load(s, "--rate", 50, "-d", 0.4, "--in", 3, "--out", 1, "--seed", 3)
        again = load(s, "--rate", 50, "-d", 0.4, "--in", 3, "--out", 1, "--seed", 3)
        cli.check("arrivals are the seed's", r["done"] == again["done"] > 0, (r, again))


def test_refused():
    def answer(r):
        if r.i % 4 == 1:
            yield reply(429, {"error": {"message": "queue is full"}}, Retry_After="0")
        elif r.i % 4 == 2:
            yield reply(503, {"error": {"message": "draining"}}, Retry_After="0")
        elif r.i % 4 == 3:
            yield reply(500, {"error": {"message": "oh \x1b[31m no"}})
        else:
            yield from whole(r)

    with Server(answer) as s:
        for how in (["-c", 3], ["--rate", 500]):
            r = load(s, *how, "-n", 40, "--in", 3, "--out", 1, "--slo", "100s")
            cli.check("counted apart", outcomes(r) == (10, 20, 10), r)
            cli.check("attained by those that are done", r["classes"][0]["attained"] == 25, r["classes"])
            errors = {e["status"]: e for e in r["errors"]}
            cli.check("by status", sorted(errors) == [429, 500, 503] and errors[429]["refused"] and
                      not errors[500]["refused"] and errors[429]["n"] == 10, r["errors"])
            cli.check("message", errors[429]["message"] == "queue is full" and "\x1b" not in errors[500]["message"])
        rc, out, err = cli.run("load", s.url, "-n", 8, "-c", 1, "--in", 3, "--out", 1)
        cli.check("why it failed", err == "quern: %s: 2 of 8 requests failed: 2 HTTP 500 (oh \\x1b[31m no)\n" % s.url, err)
        cli.check("text report", rc == 1 and "2 refused: HTTP 429, queue is full" in out and
                  "8 requests, 2 done, 4 refused, 2 failed" in out and "\x1b" not in out, out)


def test_odd_pieces():
    def answer(r):
        step = r.i % 7 + 1
        stream = b": ping\r\n\r\n" + b"".join(
            event({"choices": [{"text": "\u00e9\u6f22", "finish_reason": None}]}).replace(b"\n", [b"\n", b"\r\n", b"\r"][r.i % 3])
            for _ in range(r.body["max_tokens"]))
        stream += ending(r)
        kind = r.i % 4
        if kind == 0:
            data = CHUNKED + b"".join(chunk(stream[i:i + step]) for i in range(0, len(stream), step)) + b"0\r\n\r\n"
        elif kind == 1:
            data = head(100, "Continue") + head(**SSE, Content_Length=len(stream)) + stream
        elif kind == 2:
            data = head(**SSE, Connection="close") + stream
        else:
            data = head(**SSE).replace(b"/1.1", b"/1.0") + stream
        for i in range(0, len(data), step):
            yield data[i:i + step]
        if kind >= 2:
            yield CUT

    with Server(answer) as s:
        r = load(s, "-c", 4, "-n", 28, "--in", 3, "--out", 5)
        cli.check("all are done", outcomes(r) == (28, 0, 0), r)
        cli.check("tokens", r["output_tokens"] == 140 and r["all"]["between_tokens_ms"]["n"] == 112, r)


def test_cut():
    def answer(r):
        kind = r.i % 8
        if kind == 1:
            yield CUT
        elif kind == 2:
            yield CHUNKED + chunk(token())
            yield CUT
        elif kind == 3:
            yield CHUNKED + chunk(token())
            yield RESET
        elif kind == 4: # ends as HTTP, not as an answer
            yield CHUNKED + chunk(token()) + b"0\r\n\r\n"
        elif kind == 5: # [DONE] was there: whole
            yield CHUNKED + chunk(token() + ending(r))
            yield CUT
        elif kind == 6:
            yield head(**SSE, Content_Length=10000) + token()
            yield CUT
        elif kind == 7:
            yield CHUNKED + chunk(token() + event({"error": {"message": "lost the model"}})) + b"0\r\n\r\n"
        else:
            yield from whole(r)

    with Server(answer) as s:
        # by rate: each has a connection of its own and none is sent a second time
        r = load(s, "--rate", 500, "-n", 40, "--in", 3, "--out", 1)
        sent = len(s.requests)
        cli.check("cut ones have failed", r["failed"] >= 25 and r["done"] >= 10 and r["refused"] == 0 and
                  r["done"] + r["failed"] == 40 and sent >= 40, (r, sent))
        kinds = {e["kind"] for e in r["errors"]}
        cli.check("as cut", kinds == {"cut", "bad answer"}, r["errors"])
        cli.check("error event is told", any("lost the model" in e["message"] for e in r["errors"]), r["errors"])


def test_closed_while_idle():
    """A server that keeps connections, it says, and closes them: such a request is sent again, once, on a new one."""
    def answer(r):
        yield from whole(r)
        yield CUT

    with Server(answer) as s:
        r = load(s, "-c", 2, "-n", 20, "--in", 3, "--out", 2)
        cli.check("all are done", outcomes(r) == (20, 0, 0), r)


def test_classes():
    def answer(r):
        yield from whole(r, 0.05 if r.headers.get("x-priority") == "p1" else 0)

    with Server(answer) as s, tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "a.csv")
        r = load(s, "--rate", 300, "-n", 60, "--in", 3, "--out", 2, "--mix", "p0:10,p1:20,3:10", "--slo",
                 "p0:1000s,p0:gap=1000s,p1:first=49ms,3:-", "--csv", path)
        seen = collections.Counter(q.headers["x-priority"] for q in s.requests)
        told = {c["class"]: c for c in r["classes"]}
        cli.check("counts by class", {k: c["requests"] for k, c in told.items()} == dict(seen), (seen, r))
        cli.check("field priority", all(str(q.body["priority"]) == q.headers["x-priority"] for q in s.requests) and
                  all(isinstance(q.body["priority"], int) == (q.headers["x-priority"] == "3") for q in s.requests))
        cli.check("attained", told["p0"]["attained"] == 100 and told["p1"]["attained"] == 0 and
                  "attained" not in told["3"], told)
        cli.check("each target", told["p0"]["targets"]["between_tokens"]["attained"] == 100 and
                  told["p1"]["targets"]["first_token"] == {"ms": 49, "attained": 0}, told)
        cli.check("met in the file", all((x["met"] == "0") == (x["class"] == "p1") for x in rows(path)))
        rc, out, _ = cli.run("load", s.url, "-n", 20, "--in", 3, "--out", 2, "--mix", "p0:1,p1:1", "--slo", "p1:1000s")
        cli.check("table", rc == 0 and "100.0 %" in out and "\n                 all " in out and "p1: " in out, out)


def test_chat():
    def answer(r):
        data = event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        data += event({"choices": [{"delta": {"reasoning_content": "hm"}}]})
        data += b"".join(event({"choices": [{"delta": {"content": "x"}}]}) for _ in range(r.body["max_tokens"] - 1))
        yield CHUNKED + chunk(data + ending(r)) + b"0\r\n\r\n"

    with Server(answer) as s:
        r = load(s, "--chat", "-n", 5, "-c", 1, "--in", 12, "--out", 4, "--model", "other", "--api-key-file", key_file("# all\n\nsk-1 team p0\nsk-2\n"))
        cli.check("all are done", outcomes(r) == (5, 0, 0) and r["model"] == "other", r)
        cli.check("gaps", r["all"]["between_tokens_ms"]["n"] == 15, r)
        q = s.requests[0]
        cli.check("messages", q.path == "/v1/chat/completions" and q.body["model"] == "other" and
                  len(q.body["messages"][0]["content"].split()) == 12, q)
        cli.check("key", q.headers["authorization"] == "Bearer sk-1", q.headers)


def test_wrong_servers():
    def none(_):
        yield CUT

    def says(url, text, *args):
        rc, out, err = cli.run("load", url, *args)
        cli.check("%s: %s" % (url, text), rc == 1 and out == "" and text in err and cli.one_line(err), (rc, out, err))

    with Server(none, models=reply(401, {"error": {"message": "who are you"}})) as s:
        says(s.url, "who are you (HTTP 401); wanted an --api-key-file")
        says(s.url, "wanted another --api-key-file", "--api-key-file", key_file("x"))
        says(s.url, "found no key", "--api-key-file", key_file("# none"))
        says(s.url, "found a byte 1 in the key", "--api-key-file", key_file("x\1y"))
        says(s.url, "nowhere", "--api-key-file", "nowhere")
    for models, text in ((reply(404, b"<html>"), "wanted an OpenAI-compatible server"),
                         (reply(200, b"<html>"), "no OpenAI-compatible server"),
                         (reply(200, {"data": []}), "has no model"),
                         (reply(503, {"error": {"message": "loading"}}), "not ready (HTTP 503): loading"),
                         (b"SSH-2.0-x\r\n", "wanted an HTTP/1.1 answer")):
        with Server(none, models=models) as s:
            says(s.url, text)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    says("http://127.0.0.1:%d" % port, "cannot connect: Connection refused")
    with Server(whole, models=reply(404, b"")) as s:
        r = load(s, "--model", "m", "-n", 2, "--in", 3, "--out", 1)
        cli.check("a server that lists no models, asked for one", outcomes(r) == (2, 0, 0), r)
        rc, out, _ = cli.run("load", "localhost:%d/v1/completions" % s.port, "--model", "m", "-n", 2, "--in", 3, "--json")
        cli.check("a name with several addresses", rc == 0 and json.loads(out)["done"] == 2, out)
    for args in (["x", "y"], [], ["http://a", "--mix", "p0"], ["http://a", "--slo", "p0:1s"], ["http://a", "--rate", "1", "-c", "1"],
                 ["http://a", "--sweep"], ["http://a", "--in", "5", "--shared-prefix", "6"], ["ftp://a"]):
        rc, out, err = cli.run("load", *args)
        cli.check("usage: %s" % args, rc == 2 and out == "" and cli.one_line(err), (rc, out, err))


def test_hopeless():
    def answer(_):
        yield reply(404, {"error": {"message": "no such thing"}})

    with Server(answer) as s:
        rc, out, err = cli.run("load", s.url, "-n", 100000, "--rate", 1000, "--json", "--warmup", 3)
        cli.check("stops", rc == 1 and len(s.requests) < 5000, (rc, len(s.requests)))
        cli.check("says why", "every request failed; the first: HTTP 404: no such thing" in err, err)
        cli.check("and tells what there is", json.loads(out)["failed"] > 0)


def test_hostile():
    def flood(piece, first=b""):
        yield first
        while True:
            yield piece * 4096

    def answer(r):
        kind = r.i % 9
        if kind == 0:
            yield from whole(r)
        elif kind == 1:
            yield from flood(b"a: b\r\n", b"HTTP/1.1 200 OK\r\n")
        elif kind == 2:
            yield from flood(b"x")
        elif kind == 3:
            yield from flood(chunk(b"xxxxxxxx"), CHUNKED)
        elif kind == 4:
            yield from flood(chunk(b"data: x\n"), CHUNKED)
        elif kind == 5:
            yield from flood(chunk(token()), CHUNKED)
        elif kind == 6:
            yield from flood(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif kind == 7:
            yield CHUNKED + chunk(event(b"[" * 100000))
        else:
            yield reply(200, {"choices": [{"text": "x"}]})

    with Server(answer) as s:
        r = load(s, "--rate", 1000, "-n", 27, "--in", 3, "--out", 4)
        cli.check("each has failed, and the good ones are done", outcomes(r) == (3, 0, 24), r)
        cli.check("as bad answers", {e["kind"] for e in r["errors"]} == {"bad answer"}, r["errors"])


def test_timeout():
    over = threading.Event()

    def answer(r):
        if r.i % 2:
            over.wait()
        yield from whole(r)

    with Server(answer) as s:
        r = load(s, "--rate", 1000, "-n", 6, "--in", 3, "--out", 1, "--timeout", 3)
        over.set()
        cli.check("late ones have failed", r["failed"] >= 3 and r["done"] + r["failed"] == 6, r)
        cli.check("as timed out", [e["kind"] for e in r["errors"]] == ["timed out"], r["errors"])


def test_interrupt():
    here, over = threading.Event(), threading.Event()

    def answer(r):
        if r.i == 5:
            here.set()
            over.wait()
        yield from whole(r)

    for how in (["--json"], []):
        with Server(answer) as s:
            here.clear()
            over.clear()
            with subprocess.Popen([cli.QUERN, "load", s.url, "-c", "1", "-n", "100", "--in", "3", "--out", "2", *how],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE) as p:
                here.wait() # the one client has had five answers
                p.send_signal(signal.SIGINT)
                out, err = p.communicate()
            over.set()
            cli.check("exit status", p.returncode == 130, (p.returncode, err))
            if how:
                r = json.loads(out)
                cli.check("what was measured", outcomes(r) == (5, 0, 0) and r["interrupted"] and r["unended"] == 1, r)
            else:
                cli.check("what was measured", b"5 requests, 5 done" in out and b"interrupted: 1 requests" in out, out)


def test_sweep():
    lock, state = threading.Lock(), {"now": 0}

    def answer(r):
        with lock:
            state["now"] += 1
            is_full = state["now"] > 4
        if is_full:
            with lock:
                state["now"] -= 1
            yield reply(429, {"error": {"message": "full"}}, Retry_After="0")
            return
        pieces = list(whole(r))
        time.sleep(0.02)
        with lock: # before the end is sent: the client's next request may come at once
            state["now"] -= 1
        yield from pieces

    with Server(answer) as s:
        r = load(s, "--sweep", "-c", 1, "-n", 40, "--in", 3, "--out", 1, "--slo", "1000s")
        steps = r["steps"]
        cli.check("never more than four: met", all(x["met"] for x in steps if x["run"]["concurrency"] <= 4), steps)
        cli.check("one was missed", not all(x["met"] for x in steps))
        cli.check("highest", r["by"] == "concurrency" and r["highest"] >= 4 and
                  r["highest"] == max(x["run"]["concurrency"] for x in steps if x["met"]), r["highest"])
        lowest = min(x["run"]["concurrency"] for x in steps if not x["met"])
        cli.check("beside the lowest that missed", lowest == r["highest"] + 1 or lowest <= r["highest"] * 1.05, steps)
        prompts = [tuple(q.body["prompt"]) for q in s.requests]
        cli.check("no step asks what one before has asked", len(set(prompts)) > len(prompts) * 0.99)
        rc, out, err = cli.run("load", s.url, "--sweep", "-n", 5, "--rate", 1, "--in", 3, "--out", 1, "--slo", "0.001ms")
        cli.check("no rate will do", rc == 0 and "no rate that was tried meets the targets" in out, (out, err))


def test_tls():
    openssl = shutil.which("openssl")
    if not openssl:
        cli.skip("test_tls", "no openssl to make a certificate with")
        return
    with tempfile.TemporaryDirectory() as d:
        key, cert = os.path.join(d, "key.pem"), os.path.join(d, "cert.pem")
        subprocess.run([openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2",
                        "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        with Server(whole, tls=context) as s:
            r = load(s, "--insecure", "-c", 3, "-n", 9, "--in", 3, "--out", 2)
            cli.check("all are done", outcomes(r) == (9, 0, 0), r)
            rc, _, err = cli.run("load", s.url, "-n", 1)
            cli.check("its certificate is nobody's", rc == 1 and "certificate" in err and "--insecure" in err, err)
            env = dict(os.environ, SSL_CERT_FILE=cert)
            p = subprocess.run([cli.QUERN, "load", s.url, "-n", "2", "--in", "3", "--json"], env=env, capture_output=True, check=False)
            cli.check("trusted", p.returncode == 0 and json.loads(p.stdout)["done"] == 2, p.stderr)
        with Server(whole) as s:
            rc, _, err = cli.run("load", s.url.replace("http:", "https:"))
            cli.check("no TLS there", rc == 1 and "TLS" in err, err)


def test_quern_serve():
    """Against our own server: completions and chat, classes, answers of just the length asked for."""
    model = cli.GOLDEN / "models" / "qwen3-tied-bf16"
    with quern_server.Server("-m", model, "--classes", "p0:-:40%,p1:-:60%", "--api-key-file", key_file("sk-x")) as s:
        url = "http://127.0.0.1:%d" % s.port
        for more in (["--mix", "p0:1,p1:1"], ["--chat", "--rate", "100"], ["-c", "3", "--shared-prefix", "8"]):
            rc, out, err = cli.run("load", url, "--json", "-n", 12, "--in", "8-12", "--out", 6, "--vocab", 500,
                                   "--api-key-file", key_file("sk-x"), *more)
            r = json.loads(out) if out else {}
            cli.check("answers of %s" % more, rc == 0 and outcomes(r) == (12, 0, 0) and r["output_tokens"] == 72, (r, err))
        rc, _, err = cli.run("load", url, "-n", 1)
        cli.check("wants a key", rc == 1 and "--api-key-file" in err, err)
        rc, out, _ = cli.run("load", url, "--api-key-file", key_file("sk-x"), "-n", 2, "--in", 4, "--vocab", 500, "--mix", "nobody:1")
        cli.check("an unknown class is told", rc == 1 and "HTTP 400" in out and "nobody" in out, out)


def main():
    part = sys.argv[2] if len(sys.argv) > 2 else ""
    for name, test in list(globals().items()):
        if name.startswith("test_") and part in name:
            print(name, flush=True)
            test()
    cli.finish()


if __name__ == "__main__":
    main()
