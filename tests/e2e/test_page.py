#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The pages as a browser meets them: headless Chromium against `quern serve` with a tiny model, and against a scripted server that
thinks, calls tools, is busy, breaks off and says hostile things.   usage: test_page.py QUERN [--shots FOLDER]

Wants Debian's chromium and chromium-driver, selenium, and for the rules of axe the package axe-playwright-python (its axe.min.js only)."""
import gzip
import http.server
import importlib.util
import json
import pathlib
import re
import shutil
import sys
import tempfile
import threading

import server
from cli import GOLDEN, ROOT, check, finish, skip

TINY = GOLDEN / "models" / "qwen3-tied-bf16"
SHOTS = pathlib.Path(sys.argv[sys.argv.index("--shots") + 1]) if "--shots" in sys.argv else None
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
MOST = 150_000  # bytes that a page loads

try:
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
except ImportError:
    webdriver = None


# ---- without a browser ----

def test_headers(s):
    status, headers, text = s.get("/")
    check("curl gets a text", status == 200 and headers["content-type"].startswith("text/plain") and "/dashboard" in text, headers)
    for path in ("/", "/dashboard"):
        status, headers, page = s.get(path, HTML)
        check(f"{path}: a page", status == 200 and headers["content-type"] == "text/html; charset=utf-8" and page.startswith("<!doctype html>"), headers)
        csp = headers["content-security-policy"]
        check(f"{path}: policy", "unsafe" not in csp and "*" not in csp and all(
            part in csp for part in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for 'script'")), csp)
        check(f"{path}: headers", headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer" and
              headers["cache-control"] == "no-cache" and "Accept" in headers["vary"], headers)
        check(f"{path}: nothing inline, nothing from elsewhere", not re.search(r"<style|style=|\son\w+=|javascript:|https?://|<script(?![^>]*src=)", page))
        status, again, body = s.get(path, {**HTML, "If-None-Match": f'"other", W/{headers["etag"]}'})
        check(f"{path}: 304", status == 304 and body == "" and again["etag"] == headers["etag"] and "content-security-policy" in again, (status, again))
        check(f"{path}: not 304 for another", s.get(path, {**HTML, "If-None-Match": '"other"'})[0] == 200)
        check(f"{path}: HEAD", s.request("HEAD", path, None, HTML)[1]["content-length"] == headers["content-length"])
    for asks, is_html in (("*/*", False), ("text/html;q=0", False), ("text/plain, TEXT/HTML;q=0.5", True), ("", False)):
        kind = s.get("/", {"Accept": asks})[1]["content-type"]
        check(f"Accept: {asks}", kind.startswith("text/html") == is_html, kind)
    check("no such file", s.get("/web/none.js")[0] == 404 and s.get("/web/../index.html")[0] in (400, 404) and s.post("/web/app.js", {})[0] == 405)
    c = s.connect()
    c.request("GET", "/web/app.js", headers={"Accept-Encoding": "br, gzip;q=0.5"})
    r = c.getresponse()
    packed = r.read()
    plain = (ROOT / "web" / "app.js").read_bytes()
    check("packed", r.getheader("content-encoding") == "gzip" and gzip.decompress(packed) == plain and packed[4:8] == b"\0\0\0\0")
    check("packed: its own tag", r.getheader("etag") != s.get("/web/app.js")[1]["etag"])
    c.request("GET", "/web/app.js", headers={"Accept-Encoding": "gzip;q=0"})
    r = c.getresponse()
    check("not packed for who does not take it", r.getheader("content-encoding") is None and r.read() == plain)
    c.close()


# ---- the scripted server ----

def pieces(text, n=7):
    return [text[i:i + n] for i in range(0, len(text), n)]


HOSTILE = r"""<img src=x onerror="window.ran=1"><script>window.ran=2</script><svg onload=window.ran=3>

[click](javascript:window.ran=4) [data](data:text/html,<script>window.ran=5</script>) [vb](vbscript:x) [case](JaVaScRiPt:window.ran=6)
[tab](javaTABscript:window.ran=7) ![image](https://evil.example/a.png) [good](https://good.example/ok) <javascript:window.ran=8> [x](<javascript:window.ran=9>)
[https://bank.example](https://evil.example/login) [user](https://bank.example@evil.example/) [e](&#106;avascript:window.ran=10) https://auto.example/path.

<iframe srcdoc="<script>parent.ran=11</script>"></iframe><a href="javascript:window.ran=12">raw</a><style>body{display:none}</style>

| a | """ + "| ".join(["b"] * 400) + "|\n|" + "---|" * 401 + "\n" + "|x\n" * 50 + r"""

""" + "> " * 60 + "deep\n\n" + "*a **b " * 300 + "\n\n" + "[" * 2000 + "](" * 500 + "\n\n" + "`" * 301 + " `` ` \n\n" + "".join("  " * i + "- x\n" for i in range(40)) + """
reversed \u202egnp.exe\u202c end

```js
if (admin\u202e \u2066// check\u2069 \u2066) { x = "</script><img src=x onerror=window.ran=13>"
"""
HOSTILE = HOSTILE.replace("TAB", "\t")

SCRIPT = {
    "think": [("reasoning_content", p) for p in pieces("First I weigh **both** sides.\n\nThen I choose.")] + [("content", "It is 42.")],
    "json": [("content", p) for p in pieces('{"name":"Ada","born":1815}')],
    "markdown": [("content", p) for p in pieces("""# Title

A *soft* and **hard** word, `code`, ~~gone~~, 2 * 3 * 4 and snake_case_name, $a_1 * b_2$ and \\(x_i*y_i\\).

1. one
   - nested
   - more

     ```python
     def f(x):  # a comment
         return "s" + str(1)
     ```
2. two

- [x] done
- [ ] open

> quoted
> > twice

| left | right |
|:-----|------:|
| a\\|b | `c|d` |

مرحبا بالعالم

Last paragraph.""")],
    "hostile": [("content", p) for p in pieces(HOSTILE, 23)],
    "tool": [("tool_calls", [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}]),
             ("tool_calls", [{"index": 0, "function": {"arguments": '{"city":'}}]), ("tool_calls", [{"index": 0, "function": {"arguments": '"Oslo"}'}}])],
}


class Fake:
    """Serves web/ as `quern serve` does, and answers by the last message's first word."""

    def __init__(self, headers):
        self.bodies, self.go, self.progress, self.n, self.is_down = [], threading.Event(), 1.0, 0, False
        self.breaks, self.was_busy = threading.Event(), False
        self.arrived = threading.Semaphore(0)
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def say(self, status, kind, body, **more):
                self.send_response(status)
                for k, v in {**headers, "Content-Type": kind, "Content-Length": str(len(body)), **more}.items():
                    self.send_header(k.replace("_", "-"), v)
                self.end_headers()
                self.wfile.write(body)

            def say_json(self, status, o, **more):
                self.say(status, "application/json", json.dumps(o).encode(), **more)

            def do_GET(self):
                path = self.path.partition("?")[0]
                if outer.is_down and not path.startswith("/web/") and path != "/":
                    self.close_connection = True
                elif path in ("/", "/dashboard"):
                    self.say(200, "text/html; charset=utf-8", (ROOT / "web" / ("index.html" if path == "/" else "dashboard.html")).read_bytes())
                elif path.startswith("/web/"):
                    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
                    self.say(200, kinds[path[path.rindex("."):]], (ROOT / path[1:]).read_bytes())
                elif path == "/ready":
                    ok = outer.progress >= 1
                    self.say_json(200 if ok else 503, {"status": "ready"} if ok else {"status": "loading", "progress": outer.progress, "models": []})
                elif path == "/v1/models":
                    self.say_json(200, {"data": [{"id": "fake", "max_model_len": 4096, "status": {"value": "loaded"}}, {"id": "other", "max_model_len": 100}]})
                else:
                    self.say_json(404, {"error": {"message": "nothing here"}})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if outer.is_down:
                    self.close_connection = True
                elif self.path == "/tokenize":
                    self.say_json(200, {"count": len(body["prompt"].split())})
                else:
                    outer.bodies.append(body)
                    outer.arrived.release()
                    outer.answer(self, body)

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def event(self, to, delta, finish=None, **more):
        text = "data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}) + "\n\n"
        to.wfile.write(b"%x\r\n%s\r\n" % (len(text.encode()), text.encode()))

    def answer(self, to, body):
        last = [m for m in body["messages"] if m["role"] != "system"][-1]
        word = (last["content"] or "").split()[0] if last["content"].strip() else ""
        self.n += 1
        if word == "busy" and not self.was_busy:
            self.was_busy = True
            to.say_json(429, {"error": {"message": "the queue is full", "type": "rate_limit_error", "code": "queue_full"}}, Retry_After="1")
            return
        if word == "loading" and self.progress < 1:
            to.say_json(503, {"error": {"message": "the model is being loaded", "code": "model_loading"}}, Retry_After="1")
            return
        if word == "toolong":
            to.say_json(400, {"error": {"message": "<b>5000</b> tokens", "type": "invalid_request_error", "code": "context_length_exceeded"}})
            return
        to.send_response(200)
        to.send_header("Content-Type", "text/event-stream")
        to.send_header("Transfer-Encoding", "chunked")
        to.end_headers()
        script = SCRIPT.get(word) if last["role"] == "user" else None
        try:
            self.event(to, {"role": "assistant", "content": ""})
            if word == "slow":
                self.event(to, {"content": "First paragraph, whole.\n\nSecond begins"})
                self.go.wait()
                self.event(to, {"content": " and ends."})
            elif word == "cut":
                self.event(to, {"content": "half of it"})
                self.breaks.wait()
                to.close_connection = True
                return
            elif script:
                for k, v in script:
                    self.event(to, {k: v})
            else:
                self.event(to, {"content": f"answer {self.n} to {last['content']}"})
            self.event(to, {}, "tool_calls" if word == "tool" else "stop")
            usage = json.dumps({"choices": [], "usage": {"prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42, "prompt_tokens_details": {"cached_tokens": 20}},
                                "timings": {"predicted_n": 12, "predicted_ms": 550.0}})
            text = f"data: {usage}\n\ndata: [DONE]\n\n".encode()
            to.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(text), text))
        except OSError:
            to.close_connection = True


# ---- a browser ----

class Browser:
    def __init__(self, port, language="en-US", *options):
        self.folder = tempfile.mkdtemp()
        o = webdriver.ChromeOptions()
        o.binary_location = shutil.which("chromium")
        for a in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--force-device-scale-factor=1", "--window-size=1280,860", f"--lang={language}", *options):
            o.add_argument(a)
        o.add_experimental_option("prefs", {"download.default_directory": self.folder, "intl.accept_languages": language})
        o.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.d = webdriver.Chrome(options=o, service=webdriver.ChromeService(shutil.which("chromedriver")))
        self.d.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": """
            window.bad = [];
            addEventListener('securitypolicyviolation', (e) => bad.push('policy: ' + e.violatedDirective + ' ' + e.blockedURI));
            addEventListener('error', (e) => bad.push('error: ' + e.message));
            addEventListener('unhandledrejection', (e) => bad.push('rejection: ' + (e.reason && e.reason.stack || e.reason)));"""})
        self.origin = f"http://127.0.0.1:{port}"

    def js(self, script, *args):
        return self.d.execute_script(script, *args)

    def until(self, name, script, *args):
        """What a script gives once it is true; the page looks again and again."""
        for _ in range(8):
            try:
                got = self.d.execute_async_script(f"""
                    const all = [...arguments], done = all.pop();
                    let n = 0;
                    const look = () => {{
                        let got = null;
                        try {{
                            got = (function () {{ return {script}; }}).apply(null, all);
                        }} catch (e) {{
                            // its parts are not there yet
                        }}
                        if (got || ++n > 400) done(got);
                        else setTimeout(look, 10);
                    }};
                    look();""", *args)
            except WebDriverException:
                continue  # the page is being loaded
            if got:
                check(name, True)
                return got
        check(name, False, f"never came: {script}; page: {self.text('#log')[-500:]!r}; bad: {self.js('return window.bad')}")
        return None

    def open(self, path="/"):
        self.d.get(self.origin + path)
        self.until(f"{path}: loads", "document.body.dataset.ready === 'yes'")

    def all(self, css):
        return self.d.find_elements(By.CSS_SELECTOR, css)

    def one(self, css):
        return self.d.find_element(By.CSS_SELECTOR, css)

    def text(self, css):
        return self.js("const e = document.querySelector(arguments[0]); return e ? e.innerText : ''", css)

    def click(self, css):
        self.js("const e = [...document.querySelectorAll(arguments[0])].at(-1); e.scrollIntoView({block: 'center'}); e.click()", css)

    def press(self, *keys, **held):
        a = ActionChains(self.d)
        for k in held.get("hold", ()):
            a.key_down(k)
        a.send_keys(*keys)
        for k in held.get("hold", ()):
            a.key_up(k)
        a.perform()

    def send(self, text, waits=True):
        n = len(self.all(".message.assistant"))
        i = self.one("#input")
        i.send_keys(text, Keys.ENTER)
        if waits:
            self.until(f"answered: {text[:20]}", "document.querySelectorAll('.message.assistant').length > arguments[0] && !document.querySelector('#send.busy')", n)

    def last(self, css=".body"):
        # two frames later: what was off the screen has no text before it is laid out
        return self.d.execute_async_script("""const [css, done] = arguments;
            requestAnimationFrame(() => requestAnimationFrame(() => done([...document.querySelectorAll('.message.assistant ' + css)].at(-1)?.innerText || '')));""", css)

    def shot(self, name):
        if SHOTS:
            self.d.save_screenshot(str(SHOTS / f"{name}.png"))

    def axe(self, name):
        if not AXE:
            return
        got = self.d.execute_async_script(AXE.read_text() + """
            ;const done = arguments[arguments.length - 1];
            axe.run(document, {resultTypes: ['violations']}).then((r) => done(r.violations.map((v) => [v.impact, v.id, v.nodes.map((n) => n.html.slice(0, 120)).slice(0, 3)])), (e) => done([['serious', String(e), []]]));""")
        bad = [v for v in got if v[0] in ("serious", "critical")]
        check(f"axe: {name}", not bad, bad)

    def finish(self, name, allowed=()):
        """Nothing asked for elsewhere, nothing refused by the policy, nothing on the console."""
        bad = self.js("return window.bad")
        check(f"{name}: no errors of the page, no violations", not bad, bad)
        lines = [e["message"] for e in self.d.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]
        lines = [m for m in lines if not any(a in m for a in allowed)]
        check(f"{name}: console", not lines, lines)
        urls = set()
        for entry in self.d.get_log("performance"):
            m = json.loads(entry["message"])["message"]
            if m["method"] == "Network.requestWillBeSent":
                urls.add(m["params"]["request"]["url"])
        outside = [u for u in urls if not u.startswith((self.origin + "/", "blob:" + self.origin, "data:"))]
        check(f"{name}: no request to elsewhere", urls and not outside, outside)
        self.d.quit()
        shutil.rmtree(self.folder, ignore_errors=True)


def axe_file():
    spec = importlib.util.find_spec("axe_playwright_python")
    path = spec and pathlib.Path(list(spec.submodule_search_locations)[0]) / "axe.min.js"
    return path if path and path.is_file() else None


AXE = axe_file()


def test_sizes(b):
    for path in ("/", "/dashboard"):
        b.d.get_log("performance")
        b.open(path)
        n = b.js("return performance.getEntriesByType('resource').filter((r) => r.name.includes('/web/')).reduce((n, r) => n + r.decodedBodySize, performance.getEntriesByType('navigation')[0].decodedBodySize)")
        check(f"{path}: {n} bytes", n < MOST)


def test_real():
    with server.Server("-m", f"tiny={TINY}", "--classes", "chat:60s:60%,batch:-:40%") as s:
        test_headers(s)
        if not webdriver or not shutil.which("chromium") or not shutil.which("chromedriver"):
            skip("the pages in a browser", "want chromium, chromium-driver and selenium")
            return None
        headers = {k: v for k, v in s.get("/", HTML)[1].items() if k in ("content-security-policy", "referrer-policy", "x-content-type-options")}
        b = Browser(s.port)
        test_sizes(b)
        b.open()
        b.until("ready", "document.querySelector('#state.ready')")
        check("the model", b.js("return document.querySelector('#model').value") == "tiny")
        b.click("#open-settings")
        b.one("#set-max_tokens").send_keys("20")
        b.one("#set-temperature").send_keys("9")
        check("a bad number is told", b.js("return document.querySelector('#set-temperature').getAttribute('aria-invalid')") == "true")
        b.press(Keys.ESCAPE)
        b.send("Hello there")
        check("numbers below the answer", "20 tokens" in b.last(".numbers"), b.last(".foot"))
        check("context", "tokens" in b.text("#context-text") and b.js("return Number(document.querySelector('#context').getAttribute('aria-valuenow'))") > 20)
        check("cut off, and may go on", "Cut off" in b.last(), b.last())
        before = b.last(".md")
        b.click(".ended .text-button")
        b.until("goes on", "!document.querySelector('#send.busy') && [...document.querySelectorAll('.assistant .md')].at(-1).innerText.length > arguments[0]", len(before))
        b.click("#open-settings")
        b.click("#settings-reset")
        b.one("#set-max_tokens").send_keys("3000")
        b.one("#set-extra").send_keys('{"ignore_eos":true}')
        b.press(Keys.ESCAPE)
        b.send("Go", waits=False)
        b.until("streams", "document.querySelector('#send.busy') && [...document.querySelectorAll('.assistant .md')].length === 2")
        b.press(Keys.ESCAPE)
        b.until("stops", "!document.querySelector('#send.busy') && /Stopped/.test([...document.querySelectorAll('.assistant')].at(-1).innerText)")
        b.open("/dashboard")
        b.until("dashboard: classes", "document.querySelectorAll('#panels tbody tr').length >= 2 && /chat/.test(document.body.innerText)")
        b.until("dashboard: requests", "document.querySelectorAll('.course').length >= 3")
        b.until("dashboard: plots", "document.querySelectorAll('.plot .series').length >= 4")
        b.one("#price").send_keys("2")
        s.post("/v1/completions", {"prompt": "x", "max_tokens": 30, "ignore_eos": True})
        b.until("dashboard: cost", "/[0-9]/.test([...document.querySelectorAll('.tile')].find((e) => /Cost/.test(e.innerText)).querySelector('.value').innerText)")
        b.click("#pause")
        check("dashboard: paused", b.one("#pause").get_attribute("aria-pressed") == "true" and "paused" in b.text("#state-text"))
        b.click("#pause")
        b.click(".panel details summary")
        b.until("dashboard: a plot as a table", "document.querySelector('.panel details[open] tbody tr')")
        b.axe("dashboard")
        b.shot("dashboard")
        b.finish("real server")
        return headers


def test_real_forms():
    """A model that says nonsense keeps to a schema and calls a tool, and the page shows both."""
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
    tool = {"type": "function", "function": {"name": "switch", "parameters": schema, "strict": True}}
    with server.Server("-m", f"tiny={TINY}", "-c", "4096", "--chat-template", GOLDEN / "templates" / "qwen2.5-instruct.jinja") as s:
        b = Browser(s.port)

        def choose(**values):
            b.js("""for (const [name, v] of Object.entries(arguments[0])) { const e = document.querySelector('#set-' + name); e.value = v; e.dispatchEvent(new Event('input')); }""",
                 values)

        b.open()
        b.until("ready", "document.querySelector('#state.ready')")
        b.click("#open-settings")
        choose(format="json_schema", schema=json.dumps(schema), max_tokens="200")
        b.press(Keys.ESCAPE)
        b.send("Is it?")
        check("a document of the schema", re.search(r'\{\s*"ok": (true|false)\s*\}', b.last(".json")), b.last())
        b.click("#open-settings")
        choose(schema=json.dumps({**schema, "unevaluatedProperties": False}))
        b.press(Keys.ESCAPE)
        b.send("And this?")
        check("what cannot be enforced is told", "unevaluatedProperties" in b.text("#log") or "unevaluatedProperties" in b.text("#banner"), b.text("#log"))
        b.click("#new")
        b.click("#open-settings")
        choose(tools=json.dumps([tool]), tool_choice="required", format="", max_tokens="400")
        b.press(Keys.ESCAPE)
        b.send("Switch it.")
        call = b.last(".call")
        check("the call of a tool", "switch" in call and re.search(r'"ok":\s*(true|false)', call), b.last())
        b.finish("real server, forms", allowed=("400 (Bad Request)",))


def test_chat(b, fake):
    b.open()
    b.until("ready", "document.querySelector('#state.ready')")
    b.axe("empty page")
    b.send("slow one", waits=False)
    b.until("first piece", "document.querySelector('.assistant .md p')")
    b.js("window.kept = document.querySelector('.assistant .md p')")
    check("busy", b.one("#send").get_attribute("aria-label") == "Stop (Esc)" and b.one(".assistant").get_attribute("aria-busy") == "true")
    b.until("whole blocks are told, not pieces", "document.querySelector('#live').innerText.includes('First paragraph, whole.') && !document.querySelector('#live').innerText.includes('Second')")
    b.press(Keys.ESCAPE)
    b.until("stopped", "!document.querySelector('#send.busy')")
    check("what came is kept", "Second begins" in b.last() and "Stopped" in b.last(), b.last())
    fake.go.set()
    b.click(".assistant .foot button[aria-label='Answer again']")
    b.until("regenerated", "!document.querySelector('#send.busy') && /and ends/.test(document.querySelector('.assistant').innerText)")
    check("branch 2 of 2", b.last(".count") == "2 / 2", b.last(".foot"))
    b.click(".assistant [aria-label='Version before']")
    b.until("branch before", "/Stopped/.test(document.querySelector('.assistant').innerText)")
    b.click(".assistant [aria-label='Next version']")
    b.until("next branch", "/and ends/.test(document.querySelector('.assistant').innerText)")
    b.send("second question")
    check("history is sent", [m["role"] for m in fake.bodies[-1]["messages"]] == ["user", "assistant", "user"] and
          fake.bodies[-1]["messages"][1]["content"].endswith("and ends."), fake.bodies[-1]["messages"])
    b.click(".message.user .foot button[aria-label='Edit']")
    area = b.one(".message.user textarea")
    area.clear()
    area.send_keys("other question", Keys.CONTROL, Keys.ENTER)
    b.until("edited", "!document.querySelector('#send.busy') && /answer \\d+ to other question/.test([...document.querySelectorAll('.assistant')].at(-1).innerText)")
    check("the edit is a branch", "2 / 2" in b.js("return [...document.querySelectorAll('.message.user .count')].at(-1).innerText"))
    check("numbers", "12 tokens" in b.last(".numbers") and "20.0 a second" in b.last(".numbers") and "20 cached" in b.last(".numbers"), b.last(".numbers"))
    b.js("location.reload()")
    b.until("reloaded", "document.body.dataset.ready === 'yes' && document.querySelectorAll('.message').length === 4")
    check("a reload keeps it", "other question" in b.text("#log") and "and ends." in b.text("#log"))
    b.axe("conversation")
    b.click("#new")
    fake.go.clear()
    b.send("slow and unwatched", waits=False)
    b.until("begun", "document.querySelector('.assistant .md p')")
    b.click("#new")
    b.until("another is shown", "document.querySelectorAll('.message').length === 0")
    check("it goes on meanwhile", b.one("#send").get_attribute("aria-label") == "Stop (Esc)")
    b.click("#talks .open[title='slow and unwatched']")
    b.until("shown again, still going on", "document.querySelectorAll('.message').length === 2 && document.querySelector('.assistant').getAttribute('aria-busy') === 'true'")
    fake.go.set()
    b.until("and ends", "!document.querySelector('#send.busy') && /and ends/.test(document.querySelector('.assistant').innerText)")


def test_parts(b, fake):
    b.click("#new")
    b.send("think about it")
    check("thinking is folded", "Thought for" in b.last(".thinking summary") and b.js("return !document.querySelector('.thinking').open"))
    b.click(".thinking summary")
    b.until("thinking opens", "document.querySelector('.thinking strong')?.innerText === 'both'")
    check("not in the answer", b.last(".body > .md") == "It is 42.")
    b.send("tool please")
    check("the call is shown", b.last(".call h3").strip() == "weather" and '"city": "Oslo"' in b.last(".call"), b.last(".calls"))
    b.one(".call textarea").send_keys("4 degrees")
    b.click(".calls .primary")
    b.until("the result is sent", "document.querySelectorAll('.assistant').length === 3 && !document.querySelector('#send.busy')")
    sent = fake.bodies[-1]["messages"][-2:]
    check("call and result in the request", sent[0]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city":"Oslo"}'} and
          sent[1] == {"role": "tool", "tool_call_id": "call_1", "content": "4 degrees"}, sent)
    b.click("#open-settings")
    b.axe("settings")
    b.js("""const s = document.querySelector('#set-format'); s.value = 'json_schema'; s.dispatchEvent(new Event('input'));
            const a = document.querySelector('#set-schema'); a.value = '{'; a.dispatchEvent(new Event('input'))""")
    check("a broken schema is told", "No JSON yet" in b.text("#set-schema-note"))
    b.js("const a = document.querySelector('#set-schema'); a.value = '{\"type\":\"object\"}'; a.dispatchEvent(new Event('input'))")
    b.one("#set-system").send_keys("Be brief.")
    b.one("#set-seed").send_keys("7")
    b.one("#set-stop").send_keys("END")
    b.js("const s = document.querySelector('#set-thinking'); s.value = 'off'; s.dispatchEvent(new Event('input'))")
    b.press(Keys.ESCAPE)
    b.send("json please")
    body = fake.bodies[-1]
    check("settings are sent", body["response_format"]["json_schema"]["schema"] == {"type": "object"} and body["seed"] == 7 and body["stop"] == ["END"] and
          body["chat_template_kwargs"] == {"enable_thinking": False} and body["messages"][0] == {"role": "system", "content": "Be brief."}, body)
    check("what is not set is not sent", "temperature" not in body and "top_p" not in body)
    check("JSON is shown as such", '"born": 1815' in b.last(".json") and b.js("return !!document.querySelector('.json .c-a')"))
    b.click("#open-settings")
    b.click("#settings-reset")
    b.press(Keys.ESCAPE)
    b.send("markdown please")
    got = b.js("""const m = [...document.querySelectorAll('.assistant .md')].at(-1), q = (s) => m.querySelectorAll(s).length;
        return {h: q('h3.h1'), em: q('em'), strong: q('strong'), del: q('del'), math: [...m.querySelectorAll('.math')].map((e) => e.textContent), nested: q('ol > li ul > li'), ol: q('ol'), items: q(':scope > ol > li'),
        code: q('li .code'), k: q('.c-k'), tasks: q('li.task input:disabled'), quotes: q('blockquote blockquote'), cells: [...m.querySelectorAll('td')].map((e) => e.textContent), end: q('td.to-end'),
        rtl: getComputedStyle([...m.querySelectorAll('p')].find((p) => /مرحبا/.test(p.textContent))).direction, p: [...m.querySelectorAll('p')][0].textContent}""")
    check("Markdown", got["h"] == 1 and got["em"] == 1 and got["strong"] == 1 and got["del"] == 1 and got["nested"] >= 2 and got["ol"] == 1 and got["items"] == 2 and got["code"] == 1 and
          got["k"] >= 2 and got["tasks"] == 2 and got["quotes"] == 1 and got["cells"] == ["a|b", "c|d"] and got["end"] == 1 and got["rtl"] == "rtl", got)
    check("formulas and stars stay text", got["math"] == ["$a_1 * b_2$", "\\(x_i*y_i\\)"] and "2 * 3 * 4" in got["p"] and "snake_case_name" in got["p"], got)
    b.shot("markdown")


def test_hostile(b):
    b.click("#new")
    b.send("hostile please")
    got = b.js("""const m = document.querySelector('.assistant .md');
        return {ran: window.ran, hrefs: [...m.querySelectorAll('a')].map((a) => [a.getAttribute('href'), a.rel, a.textContent]), tags: [...new Set([...m.querySelectorAll('*')].map((e) => e.localName))],
        on: [...m.querySelectorAll('*')].filter((e) => [...e.attributes].some((a) => a.name.startsWith('on'))).length, cells: m.querySelectorAll('td').length, hidden: [...m.querySelectorAll('.hidden-sign')].map((e) => e.textContent),
        text: m.textContent, shown: getComputedStyle(document.body).display}""")
    check("hostile: nothing ran", got["ran"] is None and got["on"] == 0 and got["shown"] == "grid", got["ran"])
    bad = set(got["tags"]) & {"script", "img", "iframe", "style", "object", "embed", "form", "link", "meta", "base"}
    check("hostile: no such elements", not bad, bad)
    check("hostile: links", all(h.startswith(("https://", "http://", "mailto:")) and "noopener" in rel for h, rel, _ in got["hrefs"]) and len(got["hrefs"]) == 4, got["hrefs"])
    check("hostile: where a link really goes", any("evil.example)" in text for _, _, text in got["hrefs"]), got["hrefs"])
    check("hostile: a table has no more cells than text", got["cells"] <= 100, got["cells"])
    check("hostile: unseen signs are seen in code, and gone elsewhere", "U+202E" in got["hidden"] and "\u202e" not in got["text"], got["hidden"])
    check("hostile: the text is all there", "<script>window.ran=2</script>" in got["text"] and "javascript:window.ran=4" in got["text"])
    check("hostile: an unclosed fence is code", "x = \"</script>" in b.last(".code"))


def test_failures(b, fake):
    b.click("#new")
    b.send("busy now")
    check("429 is tried again", "answer" in b.last() and fake.bodies[-1] == fake.bodies[-2])
    fake.progress = 0.43
    b.send("loading now", waits=False)
    b.until("loading is shown", "/Loading: 43 %/.test(document.querySelector('.wait')?.innerText || '') && /loading 43 %/.test(document.querySelector('#state').innerText)")
    fake.progress = 1.0
    b.until("goes on when loaded", "!document.querySelector('#send.busy') && /answer \\d+ to loading/.test([...document.querySelectorAll('.assistant')].at(-1).innerText)")
    fake.is_down = True
    b.send("while it restarts", waits=False)
    b.until("told that nobody answers", "/does not answer/.test(document.querySelector('.problem')?.innerText || '') && document.querySelector('#state.offline')")
    fake.is_down = False
    b.until("goes on when it is back", "!document.querySelector('#send.busy') && /to while/.test([...document.querySelectorAll('.assistant')].at(-1).innerText)")
    b.send("toolong text")
    check("too long: what to do", "does not fit" in b.last(".problem") and "New conversation" in b.last(".problem") and "<b>5000</b>" in b.last(".problem"), b.last())
    b.click("#new")
    b.send("cut it", waits=False)
    b.until("half of it came", "/half of it/.test(document.querySelector('.assistant')?.innerText || '')")
    fake.breaks.set()
    b.until("and broke off", "!document.querySelector('#send.busy')")
    check("cut: kept, and what to do", "half of it" in b.last() and "What came is kept" in b.last(".problem"), b.last())
    b.click(".problem .row .text-button:first-child")
    b.until("goes on where it was cut", "!document.querySelector('#send.busy') && !document.querySelector('.problem')")
    check("as a continuation", fake.bodies[-1].get("continue_final_message") is True and fake.bodies[-1]["messages"][-1]["content"].startswith("half of it"), fake.bodies[-1])


def test_store(b, fake):
    n = len(b.all("#talks li"))
    b.js("""const t = new DataTransfer(); t.items.add(new File(['alpha beta\\n```\\ngamma'], 'notes.txt')); t.items.add(new File([new Uint8Array([0, 255])], 'x.bin'));
            dispatchEvent(new DragEvent('drop', {dataTransfer: t, cancelable: true}))""")
    b.until("a dropped file", "/notes.txt.*4 tokens/.test(document.querySelector('#files').innerText.replace(/\\n/g, ' '))")
    b.until("no text is refused", "/x.bin is no text/.test(document.querySelector('#toast').innerText)")
    b.click("#new")
    b.send("read this")
    check("the file is in the request", fake.bodies[-1]["messages"][0]["content"] == "notes.txt\n````\nalpha beta\n```\ngamma\n````\n\nread this", fake.bodies[-1]["messages"])
    b.click("#talks [aria-current] ~ [aria-label^='Rename']")
    b.press("A new name", Keys.ENTER)
    b.until("renamed", "document.querySelector('#title').innerText === 'A new name' && document.querySelector('#talks .name').innerText === 'A new name'")
    b.one("#search").send_keys("gamma-no-such")
    b.until("nothing found", "!document.querySelector('#no-talks').hidden")
    b.one("#search").clear()
    b.one("#search").send_keys("half of it")
    b.until("found by a message", "document.querySelectorAll('#talks li').length === 1")
    b.one("#search").send_keys(Keys.ESCAPE)
    b.until("all again", "document.querySelectorAll('#talks li').length === arguments[0]", n + 1)
    b.click("#talks [aria-current] ~ [aria-label^='Delete']")
    b.until("deleted", "document.querySelectorAll('#talks li').length === arguments[0] && /deleted/.test(document.querySelector('#toast').innerText)", n)
    b.click("#toast button")
    b.until("undone", "document.querySelectorAll('#talks li').length === arguments[0] && document.querySelector('#title').innerText === 'A new name'", n + 1)
    b.click("#export-all")
    folder = pathlib.Path(b.folder)
    for _ in range(20000):
        files = [f for f in folder.iterdir() if f.suffix == ".json"]
        if files and files[0].stat().st_size:
            break
        b.js("return 1")
    o = json.loads(files[0].read_text())
    check("exported", o["format"] == "quern-conversations" and len(o["conversations"]) == n + 1, o.keys())
    o["conversations"] = [{**o["conversations"][0], "title": "Imported", "evil": 1}, {"messages": [{"id": 1, "parent": 7, "role": "user", "content": "lost"}, {"id": 2, "parent": 0, "role": "system", "content": "no"}]}]
    file = folder / "in.json"
    file.write_text(json.dumps(o))
    b.one("#import-file").send_keys(str(file))
    b.until("imported", "document.querySelectorAll('#talks li').length === arguments[0] && document.querySelector('#title').innerText === 'Imported'", n + 2)
    check("imported: its messages", "read this" in b.text("#log") or "notes.txt" in b.text("#log"), b.text("#log"))
    file.write_text("{}")
    b.one("#import-file").send_keys(str(file))
    b.until("what is none is refused", "/no file of conversations/.test(document.querySelector('#toast').innerText)")


def test_many(b):
    """A conversation of 1,000 messages, and an answer of 100 KB: all but the last block stay as they are."""
    b.js("""const done = indexedDB.open('quern', 1); window.put = false; done.onsuccess = () => {
        const tx = done.result.transaction(['talks', 'nodes'], 'readwrite'), s = tx.objectStore('nodes');
        tx.objectStore('talks').put({id: 'many', title: 'Many', created: 1, updated: Date.now(), model: 'fake', settings: {}, picks: {}});
        for (let i = 1; i <= 1000; i++) s.put({talk: 'many', id: i, parent: i - 1, role: i % 2 ? 'user' : 'assistant', content: '**m' + i + '** ' + 'word '.repeat(60) + '\\n\\n- a\\n- b', time: i, finish: 'stop'});
        tx.oncomplete = () => { done.result.close(); window.put = true; }; }""")
    b.until("stored", "window.put")
    b.open("/#many")
    b.js("location.reload()")
    b.until("1,000 messages are shown, the last at the end", "document.querySelectorAll('.message').length === 1000 && document.querySelectorAll('.message .body:empty').length === 0 && document.querySelector('#log').scrollTop > 0")
    got = b.d.execute_async_script("""
        const done = arguments[0];
        import('./web/markdown.js').then(({Markdown}) => {
            const root = document.createElement('div'), parts = [];
            for (let i = 0; i < 300; i++) parts.push('Paragraph ' + i + ' with **bold** and `code`.\\n\\n- item\\n- item ' + 'x'.repeat(200) + '\\n\\n');
            parts.push('```c\\n' + 'int x = 1; // c\\n'.repeat(2500) + '```\\n');
            const text = parts.join(''), m = new Markdown(root);
            let made = 0;
            new MutationObserver((list) => { for (const r of list) made += r.addedNodes.length; }).observe(root, {childList: true, subtree: true});
            const first = [];
            const begin = performance.now();
            for (let at = 0; at < text.length; at += 400) { m.update(text.slice(0, at), false); if (first.length < 5 && root.childElementCount > 6) first.push(root.children[first.length]); }
            m.update(text, true);
            const ms = performance.now() - begin, fresh = document.createElement('div');
            new Markdown(fresh).update(text, true);
            setTimeout(() => done({ms, bytes: text.length, same: first.every((e, i) => root.children[i] === e), equal: root.innerHTML === fresh.innerHTML, nodes: root.querySelectorAll('*').length, made}));
        });""")
    check("a long answer: what is final stays", got["same"] and got["equal"] and got["bytes"] > 100_000, got)
    check("a long answer: nodes are made about once", got["made"] < 4 * got["nodes"], got)
    print(f"{got['bytes']} bytes in pieces of 400: {got['ms']:.0f} ms, {got['nodes']} elements")
    # what is made to be slow or deep: told, not judged, by the clock
    bombs = ["-" + " " * n + "x" for n in (100_000,)] + ["|a|\n-" + " " * 100_000 + "x", "`" * 100_000 + "\nx", "# " + "# " * 50_000 + "x", "```" + " a" * 50_000, "> " * 50_000, "- " * 50_000, "[" * 50_000 + "]" * 50_000,
             "[a](" * 25_000, "[a](b" + " " * 100_000, "*a _b " * 20_000, "*" * 100_000, "`a``b" * 20_000, "$a " * 30_000, "http://" + "." * 100_000 + "a", "http://a" + ")" * 100_000, "\n" * 100_000 + "- a" + "\n" * 100_000 + "  b",
             "|" * 1000 + "\n" + "|-" * 1000 + "\n" + "|\n" * 30_000, "- a\n" * 25_000, "&#1114111;" * 10_000, "<" * 100_000, "\\[" * 50_000, "$$\n\n" * 25_000, "```html\n" + "<a b='" * 20_000, "```c\n" + "/*\n" * 30_000,
             "".join("  " * i + "- x\n" for i in range(300)), "**bold" * 20_000, "[x](http://a) " * 5_000, "a | b\n" * 20_000]
    for bomb in bombs:
        ms, deep, nodes = b.d.execute_async_script('''
            const [text, done] = arguments;
            import('./web/markdown.js').then(({Markdown}) => {
                const root = document.createElement('div'), begin = performance.now();
                new Markdown(root).update(text, true);
                const ms = performance.now() - begin;
                let deep = 0;
                for (const e of root.querySelectorAll('*')) if (!e.firstElementChild) { let k = 0; for (let p = e; p; p = p.parentNode) k++; deep = Math.max(deep, k); }
                done([ms, deep, root.querySelectorAll('*').length]);
            });''', bomb)
        check(f"bomb {bomb[:12]!r}", deep < 200 and nodes < 4 * len(bomb), (deep, nodes))
        if ms > 200:
            print(f"{bomb[:12]!r}: {ms:.0f} ms, {nodes} elements")
    # any cut of any text gives the same in the end
    texts = [HOSTILE] + ["".join(v for _, v in SCRIPT["markdown"])]
    same = b.d.execute_async_script("""
        const [texts, done] = arguments;
        import('./web/markdown.js').then(({Markdown}) => done(texts.map((text) => {
            const whole = document.createElement('div'), cut = document.createElement('div'), m = new Markdown(cut);
            new Markdown(whole).update(text, true);
            for (let at = 1; at < text.length; at += at < 1500 ? 1 : 37) m.update(text.slice(0, at), false);
            m.update(text, true);
            return whole.innerHTML === cut.innerHTML ? '' : whole.innerHTML.slice(0, 3000) + '\\n---\\n' + cut.innerHTML.slice(0, 3000);
        })));""", texts)
    check("any cut gives the same", not any(same), same)


def test_keyboard(b, fake):
    """From the address to an answer, a setting and a branch without a mouse; where the focus is can be seen."""
    b.open("/")
    b.js("document.activeElement.blur()")
    seen = []
    for _ in range(14):
        b.press(Keys.TAB)
        seen.append(b.js("const e = document.activeElement, s = getComputedStyle(e); return [e.id || e.className, e === document.body || e.id === 'input' || (s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2)]"))
    check("keyboard: the focus is seen", all(ok for _, ok in seen), seen)
    b.js("document.activeElement.blur(); scrollTo(0, 0)")
    b.js("document.querySelector('.skip').focus()")
    b.press(Keys.ENTER)
    b.until("keyboard: skip link", "document.activeElement.id === 'input'")
    b.press("by keys", hold=())
    b.press(Keys.ENTER, hold=(Keys.SHIFT,))
    b.press("two lines", Keys.ENTER)
    b.until("keyboard: answered", "document.querySelectorAll('.assistant').length === 1 && !document.querySelector('#send.busy')")
    check("keyboard: shift+enter", fake.bodies[-1]["messages"][-1]["content"] == "by keys\ntwo lines", fake.bodies[-1]["messages"])
    b.press(Keys.ARROW_UP, hold=(Keys.ALT,))
    check("keyboard: to the message", b.js("return document.activeElement.classList.contains('assistant')"))
    b.press(Keys.TAB, Keys.TAB, Keys.ENTER)
    b.until("keyboard: again", "document.querySelector('.assistant .count')?.innerText === '2 / 2' && !document.querySelector('#send.busy')")
    b.press(",", hold=(Keys.CONTROL,))
    b.until("keyboard: settings", "document.querySelector('#settings').open")
    b.press(Keys.ESCAPE)
    b.until("keyboard: closed", "!document.querySelector('#settings').open")
    b.press("k", hold=(Keys.CONTROL,))
    b.until("keyboard: search", "document.activeElement.id === 'search'")
    b.press(Keys.ARROW_DOWN)
    check("keyboard: to the list", b.js("return document.activeElement.className === 'open'"))
    b.js("document.querySelector('#log').focus()")
    b.press("/")
    b.until("keyboard: to the field", "document.activeElement.id === 'input'")
    b.press(Keys.ARROW_UP)
    b.until("keyboard: edit the last", "document.activeElement.id.startsWith('edit-')")
    b.press(Keys.ESCAPE)
    b.until("keyboard: leave it", "document.activeElement.getAttribute('aria-label') === 'Edit'")
    b.press("?")
    b.until("keyboard: help", "document.querySelector('#help').open")
    b.axe("help")
    b.press(Keys.ESCAPE)
    b.press("o", hold=(Keys.CONTROL, Keys.SHIFT))
    b.until("keyboard: new", "!document.querySelector('#empty').hidden")


def test_looks(b):
    b.open("/")
    light = b.js("return getComputedStyle(document.body).backgroundColor")
    b.click("#theme")
    dark = b.js("return getComputedStyle(document.body).backgroundColor")
    check("dark by the switch", light != dark and b.js("return document.documentElement.dataset.theme") == "dark", (light, dark))
    b.open("/")
    check("dark is kept", b.js("return getComputedStyle(document.body).backgroundColor") == dark)
    b.send("markdown please")
    b.axe("dark")
    b.shot("dark")
    b.click("#theme")
    b.click("#theme")
    b.d.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}, {"name": "prefers-reduced-motion", "value": "reduce"}]})
    check("dark by the system", b.js("return getComputedStyle(document.body).backgroundColor") == dark)
    b.d.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    b.d.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True})
    b.until("phone: no wider than the screen", "document.documentElement.scrollWidth <= 360 && [...document.querySelectorAll('main > header > *, #composer, .message')].every((e) => e.getBoundingClientRect().right <= 361)")
    b.axe("phone")
    b.shot("phone")
    b.click("#menu")
    b.until("phone: the list opens", "document.activeElement.id === 'new' && getComputedStyle(document.querySelector('#side')).visibility === 'visible'")
    b.press(Keys.ESCAPE)
    b.until("phone: and closes", "getComputedStyle(document.querySelector('#side')).visibility === 'hidden'")
    b.d.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    b.click("#language")
    check("Chinese", b.js("return document.documentElement.lang") == "zh-Hans" and b.one("#new").get_attribute("aria-label") == "新对话")
    b.axe("Chinese")
    b.click("#language")


def test_words():
    """Every text that the scripts and pages name is there, in both languages."""
    text = (ROOT / "web" / "text.js").read_text()
    there = dict(re.findall(r"^  (\w+): \[('(?:[^'\\]|\\.)*', '(?:[^'\\]|\\.)*')\],$", text, re.M))
    named = set()
    for f in (ROOT / "web").iterdir():
        s = f.read_text()
        named |= set(re.findall(r"""\bt\('(\w+)'""", s)) | set(re.findall(r'data-t(?:-label|-hint)?="(\w+)"', s))
    check("words", len(there) > 150 and not {n for n in named if not n.endswith("_")} - set(there), {n for n in named if not n.endswith("_")} - set(there))


def main():
    test_words()
    headers = test_real()
    if headers is None:
        finish()
    if not AXE:
        skip("the rules of axe", "want the package axe-playwright-python")
    test_real_forms()
    fake = Fake(headers)
    b = Browser(fake.port)
    test_chat(b, fake)
    test_parts(b, fake)
    test_hostile(b)
    test_failures(b, fake)
    test_store(b, fake)
    test_keyboard(b, fake)
    test_looks(b)
    test_many(b)
    b.finish("scripted server", allowed=("503 (Service Unavailable)", "429 (Too Many Requests)", "400 (Bad Request)", "net::ERR_"))
    zh = Browser(fake.port, "zh-CN")
    zh.open()
    check("Chinese by the browser", zh.js("return document.documentElement.lang") == "zh-Hans")
    zh.finish("Chinese")
    finish()


main()
