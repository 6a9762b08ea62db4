#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""quern serve with several models under --mem: which are open, who waits, what goes first, and that nothing is left behind.

usage: test_models.py QUERN"""
import concurrent.futures
import json
import os
import pathlib
import shutil
import socket
import struct
import tempfile

import server
from cli import GOLDEN, QUERN, check, finish, one_line, run, skip

A = GOLDEN / "models" / "qwen3-tied-bf16"
B = GOLDEN / "gguf" / "qwen2.gguf"
C = GOLDEN / "gguf" / "qwen3.gguf"


class Server(server.Server):
    """Must end well: a sanitizer's report would be another exit status."""

    def __exit__(self, *_):
        check("the server ends with 0", self.stop() == 0, "".join(self.log[-40:]))


def planned(model, *args):
    """What one takes by quern plan, and what the program takes."""
    code, out, err = run("plan", "-m", model, "--json", *args)
    assert code == 0, err
    row = json.loads(out)["rows"][0]
    return row["total"] - row["other"], row["other"]


def memory(models, n, *args):
    """A limit under which any n of the models are open together, and never more."""
    needs = sorted(planned(m, *args)[0] for m in models)
    other = max(planned(m, *args)[1] for m in models)
    assert sum(needs[:n + 1]) > sum(needs[-n:]) + needs[0] // 2
    return other * 5 // 4 + sum(needs[-n:]) + needs[0] // 4


# The cache is by far the largest part of these models; it is not resident before it fills.
SIZES = ("-c", "131072", "--max-seqs", "8")


def one_at_a_time():
    """Half of what weights leave is for K/V, so that each takes more than half."""
    return "--mem", str(planned(A)[1] * 3 // 2 + (60 << 20)), "-c", "262144"


def states(s):
    return {m["id"]: m["status"]["value"] for m in json.loads(s.get("/v1/models")[2])["data"]}


def metric(s, name, model=None):
    for line in s.get("/metrics")[2].split("\n"):
        if line.startswith(name + "{" if model else name + " ") and (not model or f'model_name="{model}"' in line):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError(f"no {name} of {model} in /metrics")


def ask(s, model, n=8, prompt="Once upon a time", headers=None, **more):
    return s.post("/v1/completions", {"model": model, "prompt": prompt, "max_tokens": n, "temperature": 0, "ignore_eos": True, **more}, headers)


def text_of(answer):
    status, body = answer
    return body["choices"][0]["text"] if status == 200 else (status, body)


def wait_until(what):
    """Asks again and again; every round is a request, none is a sleep."""
    while not what():
        pass


def begin_stream(s, model, n):
    c = s.connect()
    c.request("POST", "/v1/completions", json.dumps({"model": model, "prompt": "Hi", "max_tokens": n, "temperature": 0, "ignore_eos": True,
                                                     "stream": True}), {"Content-Type": "application/json"})
    return c, c.getresponse()


def alone(model, *args):
    with Server("-m", f"x={model}", *args) as s:
        return text_of(ask(s, "x"))


def alternating():
    want = {"a": alone(A), "b": alone(B)}
    with Server("-m", f"a={A}", "-m", f"b={B}", *one_at_a_time()) as s:
        check("the first is open at the start", states(s) == {"a": "loaded", "b": "unloaded"}, states(s))
        check("ready", s.get("/ready")[0] == 200 and s.get("/health")[0] == 200)
        sizes = {m["id"]: m["max_model_len"] for m in json.loads(s.get("/v1/models")[2])["data"]}
        check("what is not open has its sizes all the same", sizes["b"] > 1000, sizes)
        for i in range(6):
            for name, other in ("ab", "ba"):
                check(f"alternating {name} {i}", text_of(ask(s, name)) == want[name])
                check(f"only {name} is open", states(s) == {name: "loaded", other: "unloaded"}, states(s))
        check("no name: the first", text_of(ask(s, None)) == want["a"])
        status, answer = ask(s, "c")
        message = answer["error"]["message"]
        check("an unknown name says which there are", status == 404 and answer["error"]["code"] == "model_not_found" and "'a', 'b'" in message, answer)
        check("GET of one", json.loads(s.get("/v1/models/b")[2])["status"]["value"] == "unloaded")
        check("which loads nothing", states(s)["a"] == "loaded", states(s))
        check("GET of none", s.get("/v1/models/c")[0] == 404)
        check("loads are counted", metric(s, "quern:model_loads_total", "b") == 6 and metric(s, "quern:model_unloads_total", "b") == 6)
        check("counters go on over them", metric(s, "quern:class_requests_done_total", "b") == 6)
        check("ready stays", s.get("/ready")[0] == 200)
        for path, body in (("/v1/embeddings", {"model": "b", "input": "x"}), ("/tokenize", {"model": "a", "prompt": "x"}),
                           ("/v1/messages", {"model": "b", "max_tokens": 2, "messages": [{"role": "user", "content": "x"}]}),
                           ("/api/embed", {"model": "a", "input": "x"}), ("/generate", {"model": "b", "prompt": "x", "max_tokens": 2}),
                           ("/v1/responses", {"model": "a", "input": "x", "max_output_tokens": 2}),
                           ("/v1/completions", {"model": "b", "prompt": [1, 2, 3], "max_tokens": 0, "echo": True, "logprobs": 1})):
            status, answer = s.post(path, body)
            check(f"{path} opens its model", status == 200 and states(s)[body["model"]] == "loaded", (status, answer))
        check("ends with 0", s.stop() == 0, s.log)
        text = "".join(s.lines)
        check("a table for each at the end", text.count("p99 ms") == 2, text[-800:])


def concurrent_requests():
    """Many at once for both: each is answered, with its own model's text; nothing is left of it."""
    want = {"a": alone(A), "b": alone(B)}
    with Server("-m", f"a={A}", "-m", f"b={B}", *one_at_a_time()) as s:
        def crowd(rounds):
            with concurrent.futures.ThreadPoolExecutor(12) as pool:
                names = ["ab"[i % 3 == 1] for i in range(rounds)]
                return [(n, text_of(r)) for n, r in zip(names, pool.map(lambda n: ask(s, n), names))]
        got = crowd(60)
        check("concurrent: all answered, by the right model", all(t == want[n] for n, t in got), [g for g in got if g[1] != want[g[0]]][:2])
        n_loads = metric(s, "quern:model_loads_total", "a") + metric(s, "quern:model_loads_total", "b")
        check("not a load for each request", n_loads < 50, n_loads)
        for name in "ab":
            ask(s, name)
        fds, rss, threads = metric(s, "process_open_fds"), metric(s, "process_resident_memory_bytes"), len(os.listdir(f"/proc/{s.p.pid}/task"))
        crowd(120)
        for name in "ab":
            ask(s, name)
        more = metric(s, "process_resident_memory_bytes") - rss
        check("no descriptor is left", metric(s, "process_open_fds") == fds, (fds, metric(s, "process_open_fds")))
        if b"__asan_init" in pathlib.Path(QUERN).read_bytes():
            skip("no memory is left", "the address sanitizer keeps what was freed")
        else:
            check("no memory is left", more < (16 << 20), more)
        check("no thread", len(os.listdir(f"/proc/{s.p.pid}/task")) == threads)
        check("no block", metric(s, "quern:kv_blocks_used", "a") + metric(s, "quern:kv_blocks_used", "b") == 0)
        check("nobody waits", json.loads(s.get("/load")[2])["server_load"] == 0)


def order():
    """Three models, room for two: the one used least recently goes."""
    with Server("-m", f"a={A}", "-m", f"b={B}", "-m", f"c={C}", "--mem", memory((A, B, C), 2, *SIZES), *SIZES) as s:
        wait_until(lambda: states(s)["b"] == "loaded")
        check("at the start as many as fit, in order", states(s) == {"a": "loaded", "b": "loaded", "c": "unloaded"}, states(s))
        ask(s, "b")
        ask(s, "a")
        ranks = [metric(s, "quern:model_eviction_rank", m) for m in "abc"]
        check("the order is told", ranks == [2, 1, 0], ranks)
        ask(s, "c")
        check("b goes first", states(s) == {"a": "loaded", "b": "unloaded", "c": "loaded"}, states(s))
        ask(s, "b")
        check("then a", states(s) == {"a": "unloaded", "b": "loaded", "c": "loaded"}, states(s))
        c, r = begin_stream(s, "c", 2000)
        r.readline()
        ask(s, "b")
        check("another comes", ask(s, "a")[0] == 200)
        now = states(s)
        check("never one that is used, where another will do", now == {"a": "loaded", "b": "unloaded", "c": "loaded"}, now)
        check("its stream is whole", b"[DONE]" in r.read())
        c.close()


def busy():
    """A model that is always busy is drained for another; its running streams are whole."""
    with Server("-m", f"a={A}", "-m", f"b={B}", *one_at_a_time()) as s, concurrent.futures.ThreadPoolExecutor(8) as pool:
        stop = []

        def keep_busy():
            n = 0
            while not stop:
                answer = ask(s, "a", 64)
                assert answer[0] == 200, answer
                n += 1
            return n
        loops = [pool.submit(keep_busy) for _ in range(4)]
        wait_until(lambda: metric(s, "vllm:num_requests_running", "a") > 0)
        c, r = begin_stream(s, "a", 1000)
        r.readline()
        answers = [ask(s, "b") for _ in range(3)]
        check("another gets its turn beside one that is always busy", all(a[0] == 200 for a in answers), answers)
        check("a stream that ran is whole", r.read().count(b'"text"') >= 100)
        c.close()
        stop.append(True)
        done = [f.result() for f in loops]
        check("the busy one goes on", sum(done) > 4, done)


def waiting():
    """Who may not wait gets 503; who goes away is forgotten; the end refuses those that wait."""
    with Server("-m", f"a={A}", "-m", f"b={B}", *one_at_a_time()) as s:
        c, r = begin_stream(s, "a", 20000)  # b has no room before its end
        r.readline()
        status, headers, text = s.request("POST", "/v1/completions", {"model": "b", "prompt": "x"}, {"Prefer": "wait=0"})
        check("no wait: 503", status == 503 and "retry-after" in headers and json.loads(text)["error"]["code"] == "model_loading", (status, text))
        status, headers, text = s.request("POST", "/v1/completions", {"model": "b", "prompt": "x"}, {"Prefer": "respond-async, wait=1"})
        check("a wait of one second: 503 too", status == 503 and "retry-after" in headers, (status, text))
        gone = s.connect()
        gone.request("POST", "/v1/completions", json.dumps({"model": "b", "prompt": "x"}), {"Content-Type": "application/json"})
        wait_until(lambda: metric(s, "quern:model_waiting", "b") == 1)
        check("who waits is shown", states(s)["b"] == "loading" and json.loads(s.get("/load")[2])["models"][1]["waiting"] == 1, states(s))
        gone.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
        wait_until(lambda: metric(s, "quern:model_waiting", "b") == 0)
        check("a is served again", ask(s, "a")[0] == 200)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            late = pool.submit(ask, s, "b")
            wait_until(lambda: metric(s, "quern:model_waiting", "b") == 1)
            s.p.terminate()
            status, answer = late.result()
            check("the end: 503", status == 503, (status, answer))
        check("a stream that runs is whole", b"[DONE]" in r.read())
        c.close()
        check("ends with 0", s.stop() == 0, s.log)
        check("the end counts them", any("draining: 1 answer running, 1 refused that waited for a model, up to 30 s" in line for line in s.log), s.log)


def ends_while_loading():
    """A stop at any moment of a load."""
    for n in range(6):
        with Server("-m", f"a={A}", "-m", f"b={B}", *one_at_a_time()) as s, concurrent.futures.ThreadPoolExecutor(4) as pool:
            def try_one(name):
                try:
                    return ask(s, name)[0]
                except OSError:
                    return 0
            got = [pool.submit(try_one, "ba"[k % 2]) for k in range(n)]
            s.p.terminate()
            got = [g.result() for g in got]
            check(f"a stop while {n} wait", s.stop() == 0 and all(g in (0, 200, 503) for g in got), (got, s.log))


def failing():
    """One that can not be opened: those that waited are told why, others go on, and later it works."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "b.gguf"
        shutil.copy(B, path)
        with Server("-m", f"a={A}", "-m", f"b={path}", *one_at_a_time()) as s:
            path.rename(path.with_suffix(".away"))
            status, answer = ask(s, "b")
            check("its load fails: 503 with the reason", status == 503 and "b.gguf" in answer["error"]["message"] and
                  answer["error"]["code"] == "model_failed", (status, answer))
            status, headers, _ = s.request("POST", "/v1/completions", {"model": "b", "prompt": "x"})
            check("and when to try again", status == 503 and int(headers["retry-after"]) >= 1, headers)
            entry = json.loads(s.get("/v1/models/b")[2])["status"]
            check("the list tells it", entry["value"] == "unloaded" and entry["failed"] and "b.gguf" in entry["error"], entry)
            check("others go on", ask(s, "a")[0] == 200)
            check("it is counted", metric(s, "quern:model_load_failures_total", "b") == 1)
            path.with_suffix(".away").rename(path)
            wait_until(lambda: ask(s, "b")[0] == 200)
            check("then it works", states(s)["b"] == "loaded" and "failed" not in json.loads(s.get("/v1/models/b")[2])["status"])
            s.stop()
            check("the log says it", "b.gguf" in "".join(s.log) and "could not be loaded" in "".join(s.log), s.log)


def too_large():
    sizes = ("-c", "256", "--max-seqs", "1", "--max-batch-tokens", "16384")
    need, other = planned(A, *sizes)
    args = (*sizes, "--port", "0")
    code, _, err = run("serve", "-m", f"a={A}", "-m", f"b={B}", "--mem", str(other // 4), *args)
    check("a limit below the program", code == 1 and one_line(err) and "--mem" in err, (code, err))
    code, _, err = run("serve", "-m", f"a={B}", "-m", f"big={GOLDEN / 'models' / 'qwen3-untied-f32'}", "--mem", str(other * 3 // 2 + need // 4), *args)
    check("one that can never fit", code == 1 and one_line(err) and "want --mem of" in err, (code, err))
    code, _, err = run("serve", "-m", f"a={A}", "-m", "b=nowhere.gguf", "--mem", "1G", *args)
    check("one that is not there", code == 1 and one_line(err) and "nowhere" in err, (code, err))


def ollama():
    with Server("-m", f"a={A}", "-m", f"b={B}", *one_at_a_time(), "--keep-alive", "1h") as s:
        def running():
            return [m["name"] for m in json.loads(s.get("/api/ps")[2])["models"]]
        status, answer = s.post("/api/generate", {"model": "b"})
        check("an empty prompt loads", status == 200 and answer["done_reason"] == "load" and running() == ["b"], (answer, running()))
        tags = [m["name"] for m in json.loads(s.get("/api/tags")[2])["models"]]
        check("tags lists all", tags == ["a", "b"], tags)
        entry = json.loads(s.get("/api/ps")[2])["models"][0]
        check("ps: size and expiry", entry["size"] > 1 << 20 and not entry["expires_at"].startswith("2318"), entry)
        status, answer = s.post("/api/generate", {"model": "b:latest", "prompt": "x", "stream": False, "options": {"num_predict": 2}, "keep_alive": "-1m"})
        check("keep_alive below 0: for ever", status == 200 and json.loads(s.get("/api/ps")[2])["models"][0]["expires_at"].startswith("2318"), answer)
        status, answer = s.post("/api/generate", {"model": "b", "keep_alive": 0})
        check("keep_alive 0 unloads", status == 200 and answer["done_reason"] == "unload", answer)
        wait_until(lambda: running() == [])
        status, answer = s.post("/api/generate", {"model": "b", "keep_alive": 0})
        check("and does not load for that", status == 200 and running() == [], answer)
        status, answer = s.post("/api/chat", {"model": "a", "messages": [{"role": "user", "content": "x"}], "stream": False, "keep_alive": "1ms",
                                              "options": {"num_predict": 2}})
        check("load_duration", status == 200 and answer["load_duration"] > 0 and answer["total_duration"] > answer["load_duration"], answer)
        wait_until(lambda: running() == [])
        check("a bad keep_alive", s.post("/api/generate", {"model": "a", "prompt": "x", "keep_alive": "soon"})[0] == 400)
        check("asks again", ask(s, "a")[0] == 200 and running() == ["a"])
    with Server("-m", f"a={A}", "-m", f"b={B}", "-c", "512") as s:
        check("without --mem all are open", states(s) == {"a": "loaded", "b": "loaded"}, states(s))
        status, answer = s.post("/api/generate", {"model": "b", "keep_alive": 0})
        check("and stay", status == 200 and answer["done_reason"] == "load" and states(s)["b"] == "loaded", answer)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            got = list(pool.map(lambda n: ask(s, n, 40)[0], "abababab"))
        check("both at once", got == [200] * 8, got)


if __name__ == "__main__":
    alternating()
    concurrent_requests()
    order()
    busy()
    waiting()
    ends_while_loading()
    failing()
    too_large()
    ollama()
    finish()
