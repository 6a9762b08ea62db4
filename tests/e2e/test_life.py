#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""quern serve as a service: keys and certificates that change while it runs, its end, what it tells a service manager, its sandbox, its log.

usage: test_life.py QUERN"""
import concurrent.futures
import json
import os
import re
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import tempfile
from pathlib import Path

from cli import GOLDEN, QUERN, check, finish, one_line, run, skip
from server import Server

MODEL = GOLDEN / "models" / "qwen3-tied-bf16"
JSON = {"Content-Type": "application/json"}


def body(n_tokens, **more):
    return {"prompt": [7, 8, 9], "max_tokens": n_tokens, "temperature": 0, "ignore_eos": True, **more}


def ask(s, key=None, path="/version"):
    """(status, headers, text)"""
    return s.get(path, {"x-api-key": key} if key else None)


def stream(s, n, headers=None):
    """A stream that has begun."""
    c = s.connect()
    c.request("POST", "/v1/completions", json.dumps(body(n, stream=True)), {**JSON, **(headers or {})})
    r = c.getresponse()
    return r, r.readline()


def unread(s, n=8):
    """A socket with an answer that does not end, since it is not read: more than the server (1 MB) and the system (4 MB) keep."""
    c = socket.socket()
    c.connect(("127.0.0.1", s.port))
    data = json.dumps(body(1500, stream=True, n=n, logprobs=20)).encode()
    c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data)
              + data)
    got = b""
    while b"data: " not in got:
        got += c.recv(100)
    return c


def until(s, name, is_so):
    """Asks /livez between looks, so that the server had its turn each time."""
    for _ in range(20000):
        if is_so():
            return check(name, True)
        try:
            ask(s, path="/livez")
        except OSError:
            pass  # it has ended
    return check(name, is_so(), "".join(s.log[-5:]))


def has_line(s, *words):
    return lambda: any(all(w in line for w in words) for line in list(s.log))


def put(path, text):
    """As an administrator would: beside it, then in its place."""
    new = Path(f"{path}.new")
    new.write_text(text)
    os.replace(new, path)


# ---- what a SIGHUP reads again


def keys():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keys"
        put(path, "key-0 alice\nstays carol\n")
        with Server("-m", MODEL, "-c", "4096", "--api-key-file", path, "--api-key", "given") as s:
            streams = [stream(s, 3000, {"x-api-key": "key-0"}) for _ in range(4)]
            for i in range(1, 11):
                put(path, f"key-{i} alice\nstays carol\n")
                s.p.send_signal(signal.SIGHUP)
                until(s, f"key {i} is known", lambda i=i: ask(s, f"key-{i}")[0] == 200)
                check(f"key {i - 1} is not", ask(s, f"key-{i - 1}")[0] == 401)
                check("one that stays is", ask(s, "stays")[0] == 200)
                check("and one of the command line", ask(s, "given")[0] == 200)
            texts = [first + r.read() for r, first in streams]
            check("streams end whole across 10 reloads", all(b"[DONE]" in t and t.count(b'"text"') == texts[0].count(b'"text"') for t in texts),
                  [t[-100:] for t in texts])
            for broken in ("one two three four\n", "", "# nothing\n", "key-11 alice no-class\n"):
                n = len(s.log)
                put(path, broken)
                s.p.send_signal(signal.SIGHUP)
                until(s, "a broken file is told", lambda n=n: any("the old keys stay" in line for line in s.log[n:]))
                check("and the old keys stay", ask(s, "key-10")[0] == 200 and ask(s, "key-11")[0] == 401, broken)
            path.unlink()
            n = len(s.log)
            s.p.send_signal(signal.SIGHUP)
            until(s, "a file that is gone is told", lambda: any("the old keys stay" in line for line in s.log[n:]))
            check("and changes nothing", ask(s, "key-10")[0] == 200)
            check("ends with 0", s.stop() == 0)
            check("no key in the log", "key-" not in "".join(s.log), s.log)


def certificate(folder, name):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
                    f"/CN={name}", "-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.pem"], check=True, capture_output=True)


def served(s):
    """The certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", s.port)) as c, context.wrap_socket(c) as t:
        return ssl.DER_cert_to_PEM_cert(t.getpeercert(True))


def certificates():
    if not shutil.which("openssl"):
        skip("certificates", "no openssl to make them")
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a", "b"):
            certificate(folder, name)
        cert, key = Path(folder) / "cert", Path(folder) / "key"
        a, b = Path(f"{folder}/a.pem").read_text(), Path(f"{folder}/b.pem").read_text()
        put(cert, a)
        put(key, Path(f"{folder}/a.key").read_text())
        with Server("-m", MODEL, "--tls-cert", cert, "--tls-key", key) as s:
            check("the certificate", served(s) == a)
            put(cert, b)
            s.p.send_signal(signal.SIGHUP)  # its key is still the other's
            while not has_line(s, "the old certificate stays")():
                served(s)
            check("half of a change changes nothing", served(s) == a)
            put(key, Path(f"{folder}/b.key").read_text())
            s.p.send_signal(signal.SIGHUP)
            while not has_line(s, "reload: the certificate")():
                served(s)
            check("the new certificate", served(s) == b)
            check("ends with 0", s.stop() == 0)


# ---- its end


def drain():
    with Server("-m", MODEL, "-c", "4096", "--drain", "1000") as s:
        idle = s.connect()
        idle.request("GET", "/health")
        check("healthy", idle.getresponse().read() == b'{"status":"ok"}\n')
        held = [unread(s) for _ in range(3)]
        s.p.send_signal(signal.SIGTERM)
        until(s, "what is waited for is told", has_line(s, "draining: 3 answers running, up to 1000 s; again to stop at once"))
        status, headers, text = ask(s, path="/health")
        check("health says so", (status, text) == (503, '{"status":"draining"}\n'), (status, text))
        check("livez does not", ask(s, path="/livez")[0] == 200)
        for name, c in (("new", s.connect()), ("idle", idle)):
            c.request("POST", "/v1/completions", json.dumps(body(1)), JSON)
            r = c.getresponse()
            headers = {k.lower(): v for k, v in r.getheaders()}
            check(f"a {name} connection gets 503", r.status == 503 and int(headers.get("retry-after", 0)) > 0
                  and headers.get("connection") == "close", (r.status, headers))
            r.read()
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            for got in pool.map(hear, held):
                check("a running answer ends whole", b"[DONE]" in got and len(got) > 6 << 20, (len(got), got[-100:]))
        check("ends with 0", s.stop() == 0, s.log)
    for args, words in ((("--drain", "0"), "stopping: 1 answer is cut"), (("--drain", "1"), "stopping: the time is over, 1 answer is cut")):
        with Server("-m", MODEL, "-c", "4096", *args) as s:
            c = unread(s)
            check(f"{args}: ends with 0", s.stop() == 0)
            c.close()
            check(f"{args}: says why", has_line(s, words)(), s.log)
            check("a cut answer's line has its tokens", has_line(s, "error=shutdown", " 503 ")() and not has_line(s, "output=0 ")(), s.log)


# ---- the service manager


def listener(family, address):
    c = socket.socket(family)
    c.bind(address)
    c.listen(16)
    return c


def as_third(fd):
    os.dup2(fd, 3)
    os.set_inheritable(3, True)  # where it was the third already


def handed(fd, *args):
    """A server that a service manager gives its socket."""
    return Server("-m", MODEL, *args, before=("sh", "-c", 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"', "sh"), close_fds=False,
                  preexec_fn=lambda: as_third(fd))


def say(c, path):
    c.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")


def hear(c):
    got = b""
    while piece := c.recv(65536):
        got += piece
    return got


def activation():
    with tempfile.TemporaryDirectory() as folder:
        for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_UNIX, f"{folder}/s")):
            name = family.name
            with listener(family, address) as given:
                waiting = []
                for i in range(3):  # one server after the other
                    for _ in range(4):
                        c = socket.socket(family)
                        c.connect(given.getsockname())
                        say(c, b"/version")
                        waiting.append(c)
                    with handed(given.fileno()) as s:
                        check(f"{name}: who came before server {i} is answered", all(b"200 OK" in hear(c) for c in waiting))
                        waiting = []
                        where = str(given.getsockname()[1]) if family == socket.AF_INET else address
                        check(f"{name}: says where", any(line.startswith("listening on") and where in line for line in s.lines), s.lines)
                        if family == socket.AF_INET:
                            held = unread(s)
                            s.p.send_signal(signal.SIGTERM)
                            until_said(s, "draining: 1 answer running")
                            c = socket.socket(family)
                            c.connect(given.getsockname())  # waits for the next server
                            say(c, b"/version")
                            waiting.append(c)
                            while held.recv(65536):
                                pass
                        check(f"{name}: ends with 0", s.stop() == 0)
                check("not the server's to remove", family == socket.AF_INET or os.path.exists(address))
                for c in waiting:
                    c.close()
    for count, words in (("1", "Socket operation on non-socket"), ("2", "want 1")):
        env = {**os.environ, "LISTEN_FDS": count}
        with tempfile.TemporaryFile() as f:
            p = subprocess.run(["sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh", QUERN, "serve", "-m", str(MODEL)], env=env, close_fds=False,
                               capture_output=True, text=True, preexec_fn=lambda f=f: as_third(f.fileno()), check=False)
        check(f"no such socket: {words}", p.returncode in (1, 2) and words in p.stderr and one_line(p.stderr), p)


def until_said(s, words):
    """Where asking would be to wait for the next server."""
    while not has_line(s, words)():
        if s.p.poll() is not None:
            raise AssertionError(f"ended: {s.log}")


def watchdog():
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{folder}/notify")
        env = {**os.environ, "NOTIFY_SOCKET": f"{folder}/notify", "WATCHDOG_USEC": "60000"}
        with Server("-m", MODEL, env=env) as s:
            told = []
            while told.count("WATCHDOG=1") < 5 or "READY=1" not in told:
                told.append(manager.recv(100).decode())
            check("no probe among users' numbers", 'quern:requests_total{' not in ask(s, path="/metrics")[2])
            s.p.send_signal(signal.SIGTERM)
            while told[-1] != "STOPPING=1":
                told.append(manager.recv(100).decode())
            check("told ready, alive, stopping", set(told) == {"READY=1", "WATCHDOG=1", "STOPPING=1"}, told)
            check("ends with 0", s.stop() == 0)
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{folder}/notify")
        with Server("-m", MODEL, env={**env, "NOTIFY_SOCKET": f"{folder}/notify", "WATCHDOG_PID": "1"}) as s:
            s.stop()
        manager.setblocking(False)
        told = []
        try:
            while True:
                told.append(manager.recv(100).decode())
        except BlockingIOError:
            pass
        check("another's watchdog is not fed", told == ["READY=1", "STOPPING=1"], told)


def socket_mode():
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/s"
        for mode in ("660", "0600"):
            with Server("-m", MODEL, "--host", f"unix:{path}", "--socket-mode", mode) as s:
                check(f"mode {mode}", stat.S_IMODE(os.stat(path).st_mode) == int(mode, 8))
                with socket.socket(socket.AF_UNIX) as c:
                    c.connect(path)
                    say(c, b"/health")
                    check("and it answers", b"200 OK" in hear(c))
                check("ends with 0", s.stop() == 0)
    for mode in ("", "66", "668", "rw", "7777", "66000"):
        code, _, err = run("serve", "-m", MODEL, "--socket-mode", mode)
        check(f"mode '{mode}' is none", code == 2 and one_line(err) and "socket-mode" in err, err)


# ---- the sandbox


def field(pid, name):
    """Of every thread."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            text = (task / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread that has just ended
        found |= {line.split()[1] for line in text.splitlines() if line.startswith(f"{name}:")}
    return found


def sandbox():
    with Server("-m", MODEL) as s:
        line = next(line for line in s.lines if line.startswith("sandbox: "))
        is_on, _, without = line.partition("without")
        if "off" in line:
            skip("sandbox", line.strip())
        else:
            check("no new privileges, in any thread", field(s.p.pid, "NoNewPrivs") == {"1"})
            check("seccomp is what it says", (field(s.p.pid, "Seccomp") == {"2"}) == ("seccomp" in is_on), line)
            limits = Path(f"/proc/{s.p.pid}/limits").read_text()
            check("no core file", re.search(r"Max core file size +0 +0 ", limits), limits)
            check("it answers", s.post("/v1/completions", body(5))[0] == 200)
            check("and ends with 0", s.stop() == 0)
    if "off" not in line and not without:
        with Server("-m", MODEL, "--sandbox", "on") as s:
            check("all of it, when wanted", "seccomp" in "".join(s.lines))
    with Server("-m", MODEL, "--sandbox", "off") as s:
        check("none of it, when not", "sandbox: off\n" in s.lines and field(s.p.pid, "Seccomp") == {"0"}, s.lines)


def linked_files():
    """Models whose files lie elsewhere are opened inside the sandbox."""
    with tempfile.TemporaryDirectory() as folder:
        blobs, model = Path(folder) / "blobs", Path(folder) / "snapshots" / "m"
        blobs.mkdir()
        model.mkdir(parents=True)
        for i, f in enumerate(sorted(MODEL.iterdir())):
            shutil.copy(f, blobs / str(i))
            (model / f.name).symlink_to(f"../../blobs/{i}")
        (Path(folder) / "link").symlink_to(model)
        template = Path(folder) / "t.jinja"
        template.write_text("{{ messages[0].content }}")
        with Server("-m", Path(folder) / "link", "--chat-template", template) as s:
            check("a model of links", s.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1})[0] == 200)
            check("ends with 0", s.stop() == 0)


# ---- what it says


def log():
    with Server("-m", MODEL, "--classes", "p0:200ms:40%,p1:1s:30%:gap=50ms,p2:-:30%", "--max-queue", "1") as s:
        text = "".join(s.lines)
        check("classes at the start", re.search(r"p0 .*200 ms.* 40 %", text) and re.search(r"p1 .*1000 ms.*30 %.*50 ms between", text)
              and re.search(r"p2 .*30 %.*the default", text), text)
        s.post("/v1/completions", body(-1))
        s.post("/v1/completions", {"prompt": "x", "model": "secret-name"})
        s.get("/nowhere")
        s.post("/v1/completions", {"prompt": [1, 2], "max_tokens": 2, "priority": "secret-class"})
        c = unread(s, 2)
        c.close()
        until(s, "a client that has gone", has_line(s, " 499 ", "error=client_gone"))
        check("ends with 0", s.stop() == 0)
        check("a wrong field", has_line(s, " 400 ", "error=invalid_request_error param=max_tokens")(), s.log)
        check("a wrong model", has_line(s, " 404 ", "error=model_not_found param=model")(), s.log)
        check("no such path", has_line(s, "GET /nowhere 404 ", "error=not_found")(), s.log)
        check("a wrong class", has_line(s, " 400 ", "error=invalid_request_error param=priority")(), s.log)
        check("nothing of what they wrote", "secret" not in "".join(s.log), s.log)
        check("good answers have no error", all("error=" not in line for line in s.log if " 200 " in line), s.log)


for test in (keys, certificates, drain, activation, watchdog, socket_mode, sandbox, linked_files, log):
    test()
finish()
