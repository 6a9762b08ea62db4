#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`quern pull` against two servers on loopback: a hub and the storage it redirects to.

usage: test_hub.py QUERN [PART_OF_A_NAME]

Each test has a hub, a storage server and a cache folder of its own. Faults are put into a file's `fault`, which the
servers consult, and every request is kept with its headers."""

import hashlib
import http.server
import json
import os
import random
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import traceback

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "Acme/Tiny-1B"


def some_bytes(n, seed=1):
    return random.Random(seed).randbytes(n)


class File:
    def __init__(self, data, lfs=None, fault=None):
        self.data = data
        self.lfs = len(data) > 4096 if lfs is None else lfs
        self.fault = fault or {}
        if self.lfs:
            self.etag = hashlib.sha256(data).hexdigest()
        else:
            self.etag = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.handle_any()

    def do_GET(self):
        self.handle_any()

    def handle_any(self):
        server = self.server
        server.requests.append((self.command, self.path, dict(self.headers)))
        try:
            if server.is_storage:
                self.send_file(server.hub.by_etag(self.path[1:]))
            else:
                self.answer(server.hub)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def reply(self, status, headers=(), body=b"", length=None):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer(self, hub):
        if hub.refuse:
            status = hub.refuse.pop(0)
            if status == "drop":
                self.close_connection = True
                return
            headers = [("Retry-After", "1")] if status == 503 else []
            self.reply(status, headers, b"<html>no</html>")
            return
        api = "/api/models/%s/revision/" % REPO
        resolve = "/%s/resolve/" % REPO
        if self.path.startswith(api):
            if self.path[len(api):] not in hub.revisions:
                self.reply(404)
                return
            body = hub.listing if hub.listing is not None else json.dumps(
                {"sha": hub.commit, "siblings": [{"rfilename": n} for n in hub.names()]}).encode()
            self.reply(200, [("Content-Type", "application/json")], body)
        elif self.path.startswith(resolve):
            commit, _, name = self.path[len(resolve):].partition("/")
            if commit != hub.commit or name not in hub.files:
                self.reply(404)
                return
            self.resolve(hub, hub.files[name])
        elif self.path.startswith("/moved/"):
            self.send_file(hub.files[self.path[7:]])
        else:
            self.reply(404)

    def resolve(self, hub, f):
        fault = f.fault
        if fault.get("status"):
            self.reply(fault["status"])
            return
        etag = fault.get("etag", '"%s"' % f.etag)
        size = fault.get("size", len(f.data))
        common = [("X-Repo-Commit", fault.get("commit", hub.commit))]
        if fault.get("redirect"):
            self.reply(302, common + [("Location", fault["redirect"])])
        elif fault.get("moved"):
            self.reply(307, common + [("Location", "/moved/" + fault["moved"])])
        elif f.lfs:
            self.reply(302, common + [("X-Linked-Etag", etag), ("X-Linked-Size", str(size)),
                                      ("Location", "%s/%s" % (hub.storage_url, f.etag))])
        else:
            self.send_file(f, common, etag)

    def send_file(self, f, headers=(), etag=None):
        fault, data = f.fault, f.fault.get("data", f.data)
        headers = list(headers) + [("ETag", etag or '"%s"' % f.etag)]
        status, start = 200, 0
        asked = self.headers.get("Range")
        if self.command == "HEAD":
            self.reply(200, headers, length=len(data))
            return
        if asked and not fault.get("no_ranges"):
            start = int(asked[len("bytes="):-1])
            if start >= len(data):
                self.reply(416, [("Content-Range", "bytes */%d" % len(data))])
                return
            status = 206
            first = start + fault.get("shift", 0)
            headers.append(("Content-Range", "bytes %d-%d/%d" % (first, len(data) - 1, len(data))))
        body = data[start:]
        if fault.get("cut"):
            cut = fault["cut"].pop(0)
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:cut])
            self.wfile.flush()
            self.close_connection = True
        elif fault.get("gate"):
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            half = len(body) // 2
            self.wfile.write(body[:half])
            self.wfile.flush()
            fault["gate"].wait()
            self.wfile.write(body[half:])
        elif fault.get("dribble"):
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for i in range(0, len(body), 7):
                piece = body[i:i + 7]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.reply(status, headers, body)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, address):
        """A client that hangs up is part of the tests."""


class Hub:
    """A hub with one repository, its storage, and a cache folder."""

    def __init__(self, files=None):
        self.files = files or {}
        self.extra_names = []
        self.commit = COMMIT
        self.revisions = ["main"]
        self.listing = None
        self.refuse = []
        self.servers = [self.serve(False), self.serve(True)]
        self.url, self.storage_url = ("http://127.0.0.1:%d" % s.server_address[1] for s in self.servers)
        self.home = tempfile.mkdtemp(prefix="quern-hub-")
        self.cache = os.path.join(self.home, "hub")
        self.repo = os.path.join(self.cache, "models--" + REPO.replace("/", "--"))

    def serve(self, is_storage):
        server = Server(("127.0.0.1", 0), Handler)
        server.is_storage = is_storage
        server.hub = self
        server.requests = []
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return server

    def names(self):
        return list(self.files) + self.extra_names

    def by_etag(self, etag):
        return next(f for f in self.files.values() if f.etag == etag)

    def close_servers(self):
        for s in self.servers:
            s.shutdown()
            s.server_close()
        self.servers = []

    def close(self):
        self.close_servers()
        shutil.rmtree(self.home, ignore_errors=True)

    def requests(self, command, part=""):
        return [r for s in self.servers for r in s.requests if r[0] == command and part in r[1]]

    def forget(self):
        for s in self.servers:
            s.requests.clear()

    def env(self, **more):
        env = {k: v for k, v in os.environ.items()
               if not k.startswith("HF_") and "proxy" not in k.lower()}
        env.update(HF_ENDPOINT=self.url, HF_HOME=self.home, **more)
        return env

    def start(self, spec=REPO, **env):
        return subprocess.Popen([QUERN, "pull", spec], env=self.env(**env), stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, spec=REPO, **env):
        p = self.start(spec, **env)
        out, err = p.communicate()
        return p.returncode, out, err

    def pull(self, spec=REPO, **env):
        code, out, err = self.run(spec, **env)
        assert code == 0, "pull %s: exit %d: %s" % (spec, code, err)
        assert out.endswith("\n") and out.count("\n") == 1, repr(out)
        return out[:-1]

    def fails(self, want, spec=REPO, code=1, **env):
        got, out, err = self.run(spec, **env)
        assert got == code, "exit %d, want %d: %s%s" % (got, code, out, err)
        assert want in err, "%r, want %r" % (err, want)
        assert out == "", repr(out)
        return err

    def snapshot(self, name=""):
        return os.path.join(self.repo, "snapshots", self.commit, name).rstrip("/")

    def blob(self, f):
        return os.path.join(self.repo, "blobs", f.etag)

    def check(self, *names):
        """Exactly these files are in the snapshot, each a relative link to its blob."""
        found = []
        for folder, _, files in os.walk(self.snapshot()):
            found += [os.path.relpath(os.path.join(folder, f), self.snapshot()) for f in files]
        assert sorted(found) == sorted(names), "%s, want %s" % (sorted(found), sorted(names))
        for name in names:
            path, f = self.snapshot(name), self.files[name]
            with open(path, "rb") as opened:
                assert opened.read() == f.data, name
            link = os.readlink(path)
            assert link == "../" * (2 + name.count("/")) + "blobs/" + f.etag, link
        left = [n for n in os.listdir(os.path.join(self.repo, "blobs")) if n.endswith(".incomplete")]
        assert not left, left


def tiny():
    return {
        "config.json": File(b'{"model_type": "qwen2"}'),
        "tokenizer.json": File(some_bytes(3000)),
        "model.safetensors": File(some_bytes(300000)),
    }


# ---- what is pulled, and where it lies ----

def test_whole_repository(hub):
    hub.files = tiny()
    needed = list(hub.files)
    for name in ("generation_config.json", "tokenizer_config.json", "vocab.json", "merges.txt",
                 "qwen.tiktoken", "chat_template.jinja", "model.safetensors.index.json"):
        hub.files[name] = File(name.encode())
        needed.append(name)
    for name in ("README.md", ".gitattributes", "pytorch_model.bin", "model.pth", "onnx/model.onnx",
                 "original/config.json", "original/model.safetensors", "model.gguf"):
        hub.files[name] = File(b"unwanted " + name.encode())
    assert hub.pull() == hub.snapshot()
    hub.check(*needed)
    with open(os.path.join(hub.repo, "refs", "main")) as f:
        assert f.read() == COMMIT
    assert not hub.requests("GET", "README")


def test_complete_files_are_not_fetched_again(hub):
    hub.files = tiny()
    hub.pull()
    hub.forget()
    hub.pull()
    assert len(hub.requests("GET")) == 1 and not hub.requests("HEAD")
    # A new commit with the same weights fetches what changed and links the rest.
    hub.forget()
    hub.commit = COMMIT[::-1]
    hub.files["config.json"] = File(b'{"model_type": "qwen3"}')
    hub.pull()
    hub.check(*hub.files)
    assert [r[1].rsplit("/")[-1] for r in hub.requests("GET", "/resolve/")] == ["config.json"]


def test_empty_file(hub):
    hub.files = dict(tiny(), **{"vocab.json": File(b"")})
    hub.pull()
    hub.check(*hub.files)


def test_shards(hub):
    names = ["model-%05d-of-00003.safetensors" % i for i in (1, 2, 3)]
    hub.files = dict(tiny(), **{n: File(n.encode() * 1000) for n in names})
    del hub.files["model.safetensors"]
    hub.pull()
    hub.check(*hub.files)


def test_missing_shard(hub):
    for missing in (1, 2):
        hub.files = {"config.json": File(b"{}")}
        for i in (1, 2, 3):
            if i != missing:
                hub.files["model-%05d-of-00003.safetensors" % i] = File(b"x")
        hub.fails("model-%05d-of-00003.safetensors of its set is missing" % missing)
        assert not hub.requests("HEAD")


def test_no_config(hub):
    hub.files = tiny()
    del hub.files["config.json"]
    hub.fails("no file config.json")


def test_revision(hub):
    hub.files = tiny()
    hub.revisions = ["refs%2Fpr%2F1", COMMIT]
    hub.pull(REPO + "@refs/pr/1")
    with open(os.path.join(hub.repo, "refs", "refs", "pr", "1")) as f:
        assert f.read() == COMMIT
    hub.pull(REPO + "@" + COMMIT)
    assert os.listdir(os.path.join(hub.repo, "refs")) == ["refs"]
    hub.fails("not found on the hub", REPO + "@v9")


def test_one_file(hub):
    hub.files = dict(tiny(), **{"sub/dir/notes.txt": File(b"hello")})
    assert hub.pull(REPO + ":sub/dir/notes.txt") == hub.snapshot("sub/dir/notes.txt")
    hub.check("sub/dir/notes.txt")
    hub.fails("no file other.txt", REPO + ":other.txt")


GGUFS = ["tiny-q4_k_m.gguf", "tiny-q8_0.gguf", "tiny-bf16.gguf", "tiny-f16.gguf", "tiny-q5_k_s.gguf",
         "tiny-q5_k_m.gguf", "mmproj-q8_0.gguf", "tiny-q6_k-00001-of-00002.gguf",
         "tiny-q6_k-00002-of-00002.gguf", "UD/tiny-UD-IQ4_XS.gguf"]


def test_quant_tags(hub):
    hub.files = {n: File(n.encode()) for n in GGUFS}
    assert hub.pull(REPO + ":Q4_K_M") == hub.snapshot("tiny-q4_k_m.gguf")
    hub.check("tiny-q4_k_m.gguf")
    assert hub.pull(REPO + ":F16") == hub.snapshot("tiny-f16.gguf")
    assert hub.pull(REPO + ":q8_0") == hub.snapshot("tiny-q8_0.gguf")
    assert hub.pull(REPO + ":iq4_xs") == hub.snapshot("UD/tiny-UD-IQ4_XS.gguf")
    assert hub.pull(REPO + ":mmproj-q8_0.gguf") == hub.snapshot("mmproj-q8_0.gguf")
    err = hub.fails("name one of these after a colon: ", REPO + ":Q5_K")
    assert "tiny-q5_k_m.gguf, tiny-q5_k_s.gguf" in err and "q4" not in err, err
    assert "tiny-q4_k_m.gguf" in hub.fails("no file Q2_K; there are: ", REPO + ":Q2_K")


def test_split_gguf(hub):
    hub.files = {n: File(n.encode()) for n in GGUFS}
    first, second = "tiny-q6_k-00001-of-00002.gguf", "tiny-q6_k-00002-of-00002.gguf"
    assert hub.pull(REPO + ":Q6_K") == hub.snapshot(first)
    hub.check(first, second)
    shutil.rmtree(hub.repo)
    assert hub.pull(REPO + ":" + second) == hub.snapshot(first)
    hub.check(first, second)
    shutil.rmtree(hub.repo)
    del hub.files[second]
    hub.fails(second + " of its set is missing", REPO + ":Q6_K")


def test_repository_of_gguf(hub):
    hub.files = {"tiny-q4_0.gguf": File(b"x"), "config.json": File(b"{}")}
    assert hub.pull() == hub.snapshot("tiny-q4_0.gguf")
    hub.files["tiny-q8_0.gguf"] = File(b"y")
    hub.fails("name one of these after a colon: tiny-q4_0.gguf, tiny-q8_0.gguf")
    hub.files = {"README.md": File(b"x")}
    hub.fails("no file of safetensors or GGUF")


def test_specs_that_are_none(hub):
    for spec in ("", "tiny", "a/b/c", "../x", "a/..", "a/b:", "a/b@", "a/b:../c", "a/b:/etc/passwd",
                 "a/b@..", "a/b:x//y", "a/.b", "a b/c", "a/b:.git", "a/b:" + "x/" * 8 + "x"):
        code, out, err = hub.run(spec)
        assert code in (1, 2) and out == "" and err.count("\n") == 1, (spec, code, out, err)
    assert not hub.requests("GET")


# ---- offline ----

def test_offline(hub):
    hub.files = tiny()
    hub.fails("not complete in", HF_HUB_OFFLINE="1")
    hub.pull()
    hub.forget()
    assert hub.pull(HF_HUB_OFFLINE="1") == hub.snapshot()
    assert not hub.requests("GET")
    hub.fails("not complete in", REPO + ":Q4_K_M", HF_HUB_OFFLINE="1")
    hub.close_servers()
    assert hub.pull() == hub.snapshot()
    os.unlink(hub.snapshot("model.safetensors"))
    hub.fails("not complete in", HF_HUB_OFFLINE="1")


def test_offline_gguf(hub):
    hub.files = {n: File(n.encode()) for n in GGUFS}
    hub.pull(REPO + ":Q6_K")
    hub.close_servers()
    assert hub.pull(REPO + ":Q6_K") == hub.snapshot("tiny-q6_k-00001-of-00002.gguf")
    os.unlink(hub.snapshot("tiny-q6_k-00002-of-00002.gguf"))
    hub.fails("not complete in", REPO + ":Q6_K", HF_HUB_OFFLINE="1")


def test_unreachable(hub):
    hub.close_servers()
    hub.fails("127.0.0.1")


def test_hub_down_but_cached(hub):
    hub.files = tiny()
    hub.pull()
    hub.refuse = [500] * 9
    assert hub.pull() == hub.snapshot()


# ---- who may read ----

def test_token_stays_with_the_hub(hub):
    hub.files = tiny()
    hub.pull(HF_TOKEN="hf_secret")
    main, storage = hub.servers
    assert storage.requests
    for _, path, headers in main.requests:
        assert headers.get("Authorization") == "Bearer hf_secret", path
    for _, path, headers in storage.requests:
        assert "Authorization" not in headers and "hf_secret" not in str(headers), path


def test_no_token(hub):
    hub.files = tiny()
    hub.pull()
    assert all("Authorization" not in r[2] for r in hub.requests("GET") + hub.requests("HEAD"))


def test_token_with_line_break(hub):
    hub.files = tiny()
    err = hub.fails("HF_TOKEN: holds a byte 10", HF_TOKEN="x\nX-Evil: 1")
    assert "Evil" not in err
    assert not hub.requests("GET")


def test_refusals(hub):
    for status, want in ((401, "set HF_TOKEN"), (403, "accept its terms"), (404, "not found"),
                         (400, "answers 400")):
        hub.refuse = [status]
        hub.fails(want)
    hub.refuse = [401]
    hub.fails("HF_TOKEN is not valid", HF_TOKEN="old")
    hub.files = tiny()
    hub.files["model.safetensors"].fault = {"status": 403}
    hub.fails("model.safetensors: the hub answers 403: gated")


# ---- transfers that go wrong ----

def test_cut_transfer_is_resumed(hub):
    hub.files = tiny()
    hub.files["model.safetensors"].fault = {"cut": [100000, 70000]}
    hub.pull()
    hub.check(*hub.files)
    ranges = [r[2].get("Range") for r in hub.servers[1].requests]
    assert ranges == [None, "bytes=100000-", "bytes=170000-"], ranges


def start_and_stop_halfway(hub, f):
    """Starts a pull whose gated file f has come, and is written, as far as the gate."""
    p = hub.start()
    part = hub.blob(f) + ".incomplete"
    while not (os.path.exists(part) and os.path.getsize(part) >= len(f.data) // 2):
        assert p.poll() is None, p.communicate()
        time.sleep(0.01)
    return p


def test_resume_after_kill(hub):
    f = File(some_bytes(4000000))
    hub.files = dict(tiny(), **{"model.safetensors": f})
    f.fault = {"gate": threading.Event()}
    p = start_and_stop_halfway(hub, f)
    p.send_signal(signal.SIGKILL)
    p.communicate()
    f.fault["gate"].set()
    f.fault = {}
    hub.forget()
    assert not os.path.exists(hub.snapshot("model.safetensors"))
    hub.pull()
    hub.check(*hub.files)
    assert [r[2].get("Range") for r in hub.servers[1].requests] == ["bytes=2000000-"]


def test_two_at_once(hub):
    f = File(some_bytes(400000))
    hub.files = dict(tiny(), **{"model.safetensors": f})
    f.fault = {"gate": threading.Event()}
    p = start_and_stop_halfway(hub, f)
    hub.fails("another process is downloading it")
    f.fault["gate"].set()
    out, err = p.communicate()
    assert p.returncode == 0, err
    hub.check(*hub.files)


def test_server_without_ranges(hub):
    hub.files = tiny()
    hub.files["model.safetensors"].fault = {"cut": [100000], "no_ranges": True}
    hub.pull()
    hub.check(*hub.files)


def test_wrong_range(hub):
    hub.files = tiny()
    hub.files["model.safetensors"].fault = {"cut": [100000], "shift": 5}
    hub.fails("the server sends bytes from 100005")


def leave_part(hub, f, data):
    os.makedirs(os.path.dirname(hub.blob(f)), exist_ok=True)
    with open(hub.blob(f) + ".incomplete", "wb") as part:
        part.write(data)


def test_part_of_another_file(hub):
    hub.files = tiny()
    f = hub.files["model.safetensors"]
    leave_part(hub, f, b"wrong" * 100)
    hub.fails("the SHA-256 of what came is")
    assert not os.path.exists(hub.blob(f)) and not os.path.exists(hub.blob(f) + ".incomplete")
    hub.pull()
    hub.check(*hub.files)


def test_part_that_is_too_long(hub):
    hub.files = tiny()
    f = hub.files["model.safetensors"]
    leave_part(hub, f, f.data + b"more")
    hub.pull()
    hub.check(*hub.files)


def test_part_that_is_whole(hub):
    hub.files = tiny()
    leave_part(hub, hub.files["model.safetensors"], hub.files["model.safetensors"].data)
    hub.pull()
    hub.check(*hub.files)
    assert not hub.servers[1].requests


def test_part_that_is_a_link(hub):
    hub.files = tiny()
    victim = os.path.join(hub.home, "victim")
    with open(victim, "wb") as v:
        v.write(b"precious")
    f = hub.files["model.safetensors"]
    os.makedirs(os.path.dirname(hub.blob(f)))
    os.symlink(victim, hub.blob(f) + ".incomplete")
    hub.fails("cannot open the download")
    with open(victim, "rb") as v:
        assert v.read() == b"precious"


def test_wrong_checksum(hub):
    for name, kind in (("model.safetensors", "SHA-256"), ("config.json", "git SHA-1")):
        hub.files = tiny()
        f = hub.files[name]
        f.fault = {"data": bytes([f.data[0] ^ 1]) + f.data[1:]}
        err = hub.fails("%s: the %s of what came is " % (name, kind))
        assert "want %s" % f.etag in err
        assert not os.path.exists(hub.blob(f)) and not os.path.exists(hub.blob(f) + ".incomplete")
        assert not os.path.lexists(hub.snapshot(name))
        assert not os.path.exists(os.path.join(hub.repo, "refs", "main"))
        f.fault = {}
        hub.pull()
        hub.check(*hub.files)
        shutil.rmtree(hub.repo)


def test_more_bytes_than_named(hub):
    hub.files = tiny()
    f = hub.files["model.safetensors"]
    f.fault = {"data": f.data + b"more"}
    hub.fails("the server sends more than the 300000 bytes it named")
    assert not os.path.exists(hub.blob(f))


def test_dribble(hub):
    hub.files = tiny()
    hub.files["tokenizer.json"].fault = {"dribble": True}
    hub.pull()
    hub.check(*hub.files)


def test_passing_failures(hub):
    hub.files = tiny()
    hub.refuse = [500, "drop", 503]
    hub.pull()
    hub.check(*hub.files)


def test_lasting_failure(hub):
    hub.refuse = [502] * 9
    hub.fails("gave up after 4 attempts: %s: the hub answers 502, want 200" % REPO)
    assert len(hub.requests("GET")) == 4


def test_disk_too_small(hub):
    hub.files = tiny()
    hub.files["model.safetensors"].fault = {"size": 1 << 60}
    hub.fails("model.safetensors: needs 1152921504606846976 bytes more on the disk, which has")


def test_disk_full_while_writing(hub):
    f = File(some_bytes(600000))
    hub.files = {"tiny.gguf": f}
    f.fault = {"gate": threading.Event()}
    os.makedirs(hub.repo)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", hub.repo],
                      stderr=subprocess.DEVNULL).returncode != 0:
        raise Skip("mounting a small file system is not allowed here")
    try:
        p = start_and_stop_halfway(hub, f)
        filler = os.path.join(hub.repo, "filler")
        try:
            with open(filler, "wb", buffering=0) as opened:
                while True:
                    opened.write(bytes(4096))
        except OSError:
            pass
        f.fault["gate"].set()
        out, err = p.communicate()
        assert p.returncode == 1 and "tiny.gguf: the disk is full: " in err, err
        os.unlink(filler)
        f.fault = {}
        hub.pull()
        hub.check("tiny.gguf")
        assert hub.servers[1].requests[-1][2]["Range"].startswith("bytes=3")
    finally:
        f.fault.get("gate", threading.Event()).set()
        subprocess.run(["umount", "-l", hub.repo], check=True)


# ---- hostile answers ----

def test_hostile_names(hub):
    hub.files = tiny()
    wanted = list(hub.files)
    hub.extra_names = ["../evil.safetensors", "/evil.safetensors", "a/../../../evil.json", ".safetensors",
                       ".hidden.json", "tokenizer evil.json", "tokenizer\n.json", "x" * 200 + ".safetensors",
                       "d/" * 8 + "x.json", "", "/", "tokenizer\u202e.json", "a//tokenizer.json", 7, None]
    hub.pull()
    hub.check(*wanted)
    assert sorted(os.listdir(hub.home)) == ["hub"]
    assert sorted(os.listdir(hub.repo)) == ["blobs", "refs", "snapshots"]


def test_doubled_names(hub):
    hub.files = tiny()
    hub.extra_names = list(hub.files) * 50
    hub.pull()
    hub.check(*hub.files)


def test_hostile_etags(hub):
    for etag in ('"../../../evil"', '"/etc/passwd"', "", '"%s"' % ("A" * 64), '"%s"' % ("0" * 63),
                 '"0123/../6789012345678901234567890123456"', "x" * 5000):
        for name in ("config.json", "model.safetensors"):
            hub.files = tiny()
            hub.files[name].fault = {"etag": etag or '""'}
            hub.fails("want a checksum of 40 or 64 hex digits")
            shutil.rmtree(hub.repo, ignore_errors=True)
    assert sorted(os.listdir(hub.home)) == ["hub"]


def test_weak_etag(hub):
    hub.files = tiny()
    f = hub.files["config.json"]
    f.fault = {"etag": 'W/"%s"' % f.etag}
    hub.pull()
    hub.check(*hub.files)


def test_hostile_commits(hub):
    hub.files = tiny()
    for commit in ("../../../../evil", "", "0" * 39, "G" * 40, 7, None):
        hub.listing = json.dumps({"sha": commit, "siblings": [{"rfilename": "config.json"}]}).encode()
        code, out, err = hub.run()
        assert code == 1 and "sha" in err and out == "", (commit, code, err)
    hub.listing = None
    hub.files["config.json"].fault = {"commit": "f" * 40}
    hub.fails("config.json: the hub gives commit ffff")


def test_hostile_listings(hub):
    good = json.dumps({"sha": COMMIT}).encode()
    for listing in (b"", b"<html>", b"[" * 100000, b"{}", b"null", b"[]", good, b'{"sha": "%s"' % COMMIT.encode(),
                    json.dumps({"sha": COMMIT, "siblings": {"a": 1}}).encode(),
                    json.dumps({"sha": COMMIT, "siblings": []}).encode(),
                    json.dumps({"sha": COMMIT, "siblings": ["x", [], {"rfilename": []}]}).encode(),
                    json.dumps({"sha": COMMIT, "siblings":
                                [{"rfilename": "f%d.json" % i} for i in range(70000)]}).encode()):
        hub.listing = listing
        code, out, err = hub.run()
        assert code == 1 and out == "" and err.count("\n") == 1, (listing[:40], code, err)


def test_redirects(hub):
    hub.files = tiny()
    hub.files["config.json"].fault = {"moved": "config.json"}
    hub.pull(HF_TOKEN="hf_secret")
    hub.check(*hub.files)
    moved = hub.requests("GET", "/moved/")
    assert moved and all(r[2].get("Authorization") for r in moved)


def test_hostile_redirects(hub):
    hub.files = tiny()
    loop = "/%s/resolve/%s/config.json" % (REPO, COMMIT)
    for to, want in ((loop, "redirects too often"), ("file:///etc/passwd", ""), ("gopher://127.0.0.1/", ""),
                     ("http://127.0.0.1:1/x", "")):
        hub.files["config.json"].fault = {"redirect": to}
        code, out, err = hub.run()
        assert code == 1 and out == "" and want in err and err.count("\n") == 1, (to, code, err)
        assert "root:" not in err
    assert not os.path.exists(hub.snapshot("config.json"))


def test_bad_endpoints(hub):
    for url in ("ftp://127.0.0.1", "127.0.0.1", "http://", "file:///etc"):
        p = subprocess.run([QUERN, "pull", REPO], env=dict(hub.env(), HF_ENDPOINT=url),
                           capture_output=True, text=True)
        assert p.returncode == 1 and "HF_ENDPOINT: " in p.stderr, (url, p)
    hub.url += "/"
    hub.files = tiny()
    hub.pull()
    hub.check(*hub.files)


def test_unknown_certificate(hub):
    """A server that nobody vouches for is not asked anything."""
    key, cert = os.path.join(hub.home, "key.pem"), os.path.join(hub.home, "cert.pem")
    try:
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert,
                        "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
                       check=True, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        raise Skip("the openssl program, which makes a certificate, is not installed")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    hub.files = tiny()
    hub.servers[0].socket = context.wrap_socket(hub.servers[0].socket, server_side=True)
    hub.url = hub.url.replace("http:", "https:")
    hub.fails("certificate", HF_TOKEN="hf_secret")
    assert not hub.requests("GET")


class Skip(Exception):
    pass


def main():
    names = [n for n in globals() if n.startswith("test_") and (len(sys.argv) < 3 or sys.argv[2] in n)]
    passed = failed = skipped = 0
    for name in names:
        hub = Hub()
        try:
            globals()[name](hub)
            passed += 1
        except Skip as why:
            skipped += 1
            print("skipped: %s: %s" % (name, why))
        except Exception:
            failed += 1
            print("FAILED: %s" % name)
            traceback.print_exc(file=sys.stdout)
        finally:
            hub.close()
    print("%d passed, %d failed, %d skipped" % (passed, failed, skipped))
    return failed != 0


if __name__ == "__main__":
    QUERN = os.path.abspath(sys.argv[1])
    sys.exit(main())
