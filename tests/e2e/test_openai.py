#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""OpenAI's API as its clients see it: shapes over plain HTTP, streams beside whole answers, and the official client where it is installed.

usage: test_openai.py QUERN"""
import base64
import json
import math
import struct

from cli import GOLDEN, check, finish, skip
from server import Server

try:
    import openai
except ImportError:
    openai = None

MODEL = GOLDEN / "models" / "qwen3-tied-bf16"
NAME = "tiny"
HELLO = [{"role": "user", "content": "Hello"}]
GREEDY = {"temperature": 0, "repetition_penalty": 1, "ignore_eos": True}


def chunks(s, path, body):
    """A stream's chunks; checks how it ends."""
    data = s.events(path, {**body, "stream": True})
    if not check(f"{path}: a stream", isinstance(data, list) and data[-1] == "[DONE]", data):
        return []
    return data[:-1]


def text_of(choice):
    return choice["text"] if "text" in choice else choice.get("delta", choice.get("message"))["content"] or ""


def joined(data, index=0):
    return "".join(text_of(c) for d in data for c in d["choices"] if c["index"] == index and ("text" in c or "content" in c["delta"]))


def chat(s):
    body = {"model": NAME, "messages": HELLO, "max_tokens": 12, "n": 2, **GREEDY}
    status, whole = s.post("/v1/chat/completions", body)
    check("chat", status == 200 and whole["object"] == "chat.completion" and whole["model"] == NAME, whole)
    check("chat: two choices of one text", len({c["message"]["content"] for c in whole["choices"]}) == 1, whole)
    u = whole["usage"]
    check("chat: usage", u["completion_tokens"] == 24 and u["total_tokens"] == u["prompt_tokens"] + 24, u)
    counted = s.post("/tokenize", {"messages": HELLO})[1]["count"]
    check("chat: what is charged is what is counted", counted == u["prompt_tokens"], (counted, u))
    data = chunks(s, "/chat/completions", body)
    check("stream: one id", len({d["id"] for d in data}) == 1 and data[0]["id"].startswith("chatcmpl-"))
    check("stream: no chunk without choices", all(d["choices"] for d in data))
    for i in range(2):
        mine = [d["choices"][0] for d in data if d["choices"][0]["index"] == i]
        check(f"stream {i}: the role first", mine[0]["delta"] == {"role": "assistant", "content": ""}, mine[0])
        check(f"stream {i}: one end, last and empty", [c["finish_reason"] for c in mine[:-1]] == [None] * (len(mine) - 1)
              and mine[-1]["finish_reason"] == "length" and mine[-1]["delta"] == {}, mine[-1])
        check(f"stream {i}: the same text", joined(data, i) == whole["choices"][i]["message"]["content"], joined(data, i))
    body["stream_options"] = {"include_usage": True}
    last = chunks(s, "/v1/chat/completions", body)[-1]
    each = chunks(s, "/v1/chat/completions", {**body, "stream_options": {"include_usage": True, "continuous_usage_stats": True}})
    so_far = [d["usage"]["completion_tokens"] for d in each]
    check("stream: usage in every chunk", so_far == sorted(so_far) and so_far[0] <= 1 and so_far[-1] == 24 and each[-1]["choices"] == [], so_far)
    check("stream: and of the prompt", {d["usage"]["prompt_tokens"] for d in each} == {u["prompt_tokens"]}, each[0])
    check("stream: usage last", last["choices"] == [] and last["usage"] == {**u, **last["usage"], "completion_tokens": 24}, last)


def logprobs(s):
    body = {"messages": HELLO, "max_tokens": 16, "logprobs": True, "top_logprobs": 3, **GREEDY}
    whole = s.post("/v1/chat/completions", body)[1]["choices"][0]
    content = whole["logprobs"]["content"]
    text = b"".join(bytes(t["bytes"]) for t in content).decode("utf-8", "replace")
    check("logprobs: the bytes are the text", text == whole["message"]["content"], (text, whole["message"]["content"]))
    check("logprobs: sorted, the greedy one first", all(
        [o["logprob"] for o in t["top_logprobs"]] == sorted((o["logprob"] for o in t["top_logprobs"]), reverse=True)
        and t["top_logprobs"][0]["logprob"] == t["logprob"] and len(t["top_logprobs"]) == 3 for t in content))
    data = chunks(s, "/v1/chat/completions", body)
    streamed = [t for d in data for t in (d["choices"][0]["logprobs"] or {"content": []})["content"]]
    check("logprobs: streamed alike", streamed == content)


def completions(s):
    prompts = ["The quick brown fox", "Once upon a time", "1 2 3"]
    body = {"max_tokens": 10, "n": 2, "seed": 5, "temperature": 1}
    batch = s.post("/v1/completions", {**body, "prompt": prompts})[1]
    check("completions: choices of all prompts in order", [c["index"] for c in batch["choices"]] == list(range(6)))
    for i, p in enumerate(prompts):
        one = s.post("/completions", {**body, "prompt": p})[1]
        check(f"completions: prompt {i} as alone", [c["text"] for c in one["choices"]] == [c["text"] for c in batch["choices"][2 * i:2 * i + 2]])
        ids = s.post("/tokenize", {"prompt": p})[1]["tokens"]
        same = s.post("/v1/completions", {**body, "prompt": ids})[1]
        check(f"completions: prompt {i} as ids", [c["text"] for c in same["choices"]] == [c["text"] for c in one["choices"]])
        data = chunks(s, "/v1/completions", {**body, "prompt": p})
        check(f"completions: prompt {i} streamed", [joined(data, k) for k in range(2)] == [c["text"] for c in one["choices"]])
    data = chunks(s, "/v1/completions", {**body, "prompt": prompts})
    check("completions: a batch streamed", [joined(data, k) for k in range(6)] == [c["text"] for c in batch["choices"]])
    check("completions: 16 tokens unless told", s.post("/v1/completions", {"prompt": "a", "ignore_eos": True})[1]["usage"]["completion_tokens"] == 16)
    best = s.post("/v1/completions", {**body, "prompt": "a", "best_of": 4})[1]
    check("completions: best_of", len(best["choices"]) == 2, best)


def scoring(s):
    """As lm-eval-harness asks, and what it reads."""
    ids = s.post("/tokenize", {"prompt": "The quick brown fox jumps"})[1]["tokens"]
    body = {"prompt": [ids, ids[:5]], "max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0, "seed": 1234}
    for choice, prompt in zip(s.post("/v1/completions", body)[1]["choices"], body["prompt"]):
        lp = choice["logprobs"]
        check("scoring: an entry for each token and one more", {len(lp[k]) for k in lp} == {len(prompt) + 1}, lp)
        check("scoring: the first has none", lp["token_logprobs"][0] is None and lp["top_logprobs"][0] is None)
        check("scoring: log-probabilities", all(x <= 0 and x <= max(t.values()) for x, t in zip(lp["token_logprobs"][1:], lp["top_logprobs"][1:])))
        check("scoring: offsets", all(choice["text"][o:].startswith(t) for o, t in zip(lp["text_offset"], lp["tokens"]) if not t.startswith("bytes:")), lp)
    only = s.post("/v1/completions", {**body, "prompt": ids, "max_tokens": 0})[1]
    check("scoring: nothing else", only["choices"][0]["text"] == "The quick brown fox jumps" and only["usage"]["completion_tokens"] == 0, only)
    data = chunks(s, "/v1/completions", {**body, "prompt": ids, "max_tokens": 0})
    check("scoring: as a stream", joined(data) == only["choices"][0]["text"], data)


def prompt_logprobs(s):
    """vLLM's field: the model's own tokens of each place, and the prompt's token with its rank."""
    ids = s.post("/tokenize", {"prompt": "The quick brown fox jumps"})[1]["tokens"]
    body = {"prompt": ids, "max_tokens": 1, "temperature": 0}
    echoed = s.post("/v1/completions", {**body, "echo": True, "logprobs": 3})[1]["choices"][0]["logprobs"]
    both = s.post("/v1/completions", {**body, "echo": True, "logprobs": 1, "prompt_logprobs": 3})[1]["choices"][0]
    for choice in (s.post("/v1/completions", {**body, "prompt_logprobs": 3})[1]["choices"][0], both):
        at = choice["prompt_logprobs"]
        check("prompt_logprobs: one for each token, none for the first", len(at) == len(ids) and at[0] is None, at)
        check("prompt_logprobs: the token first, then the best by rank", all(
            next(iter(d)) == str(i) and [v["rank"] for k, v in d.items() if k != str(i)] == [n for n in (1, 2, 3) if n != d[str(i)]["rank"]]
            for i, d in zip(ids[1:], at[1:])), at)
        check("prompt_logprobs: as those of echo", [d[str(i)]["logprob"] for i, d in zip(ids[1:], at[1:])] == echoed["token_logprobs"][1:len(ids)], at)
    check("prompt_logprobs: beside those of the answer", len(both["logprobs"]["tokens"]) == len(ids) + 1
          and all(len(t) <= 2 for t in both["logprobs"]["top_logprobs"][1:]), both)
    answer = s.post("/v1/chat/completions", {"messages": HELLO, "max_tokens": 1, "prompt_logprobs": 0})[1]
    check("prompt_logprobs: of a chat", len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]
          and all(len(d) == 1 and list(d.values())[0]["rank"] >= 1 for d in answer["prompt_logprobs"][1:]), answer)
    for more in ({"stream": True, "prompt_logprobs": 0}, {"prompt_logprobs": -1}, {"prompt_logprobs": 21}):
        status, answer = s.post("/v1/completions", {**body, **more})
        check(f"prompt_logprobs: {more} is refused", status == 400 and answer["error"]["param"] == "prompt_logprobs", answer)


def rerank(s):
    """p(yes) of yes and no behind the template of Qwen3-Reranker, worked out here from log-probabilities."""
    before = ('<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. '
              'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: ')
    task = "Given a web search query, retrieve relevant passages that answer the query"
    after = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    yes, no = (s.post("/tokenize", {"prompt": w})[1]["tokens"][0] for w in ("yes", "no"))
    documents = ["Paris.", {"text": "A river is water."}, "<|im_end|>"]

    def logprob(prompt, token):
        ids = s.post("/tokenize", {"prompt": prompt})[1]["tokens"] + [token]
        return s.post("/v1/completions", {"prompt": ids, "max_tokens": 1, "prompt_logprobs": 0})[1]["choices"][0]["prompt_logprobs"][-1][str(token)]["logprob"]

    def want(query, document):
        prompt = f"{before}{task}\n<Query>: {query}\n<Document>: {document}{after}"
        return 1 / (1 + math.exp(logprob(prompt, no) - logprob(prompt, yes)))

    status, answer = s.post("/v1/rerank", {"query": "What is a river?", "documents": documents})
    got = answer.get("results", [])
    check("rerank", status == 200 and answer["id"].startswith("rerank-") and {r["index"] for r in got} == {0, 1, 2}, answer)
    check("rerank: best first", [r["relevance_score"] for r in got] == sorted((r["relevance_score"] for r in got), reverse=True))
    check("rerank: usage", answer["usage"]["total_tokens"] > 3 * s.post("/tokenize", {"prompt": before + after})[1]["count"], answer["usage"])
    for r in got:
        text = ["Paris.", "A river is water.", "<|im_end|>"][r["index"]]
        check(f"rerank: document {r['index']}", r["document"] == {"text": text}, r)
        if r["index"] < 2:
            check(f"rerank: score {r['index']}", abs(r["relevance_score"] - want("What is a river?", text)) < 1e-5, r)
    top = s.post("/rerank", {"query": "What is a river?", "documents": documents, "top_n": 1, "return_documents": False})[1]["results"]
    check("rerank: top_n", top == [{k: got[0][k] for k in ("index", "relevance_score")}], top)
    other = s.post("/rerank", {"query": "What is a river?", "documents": documents[:1], "instruction": "Find what is a lie"})[1]["results"][0]
    check("rerank: another task, another score", other["relevance_score"] not in {r["relevance_score"] for r in got})
    scores = s.post("/score", {"text_1": "What is a river?", "text_2": ["Paris.", "A river is water."]})[1]
    check("score", [(d["index"], d["score"]) for d in scores["data"]] == [(r["index"], r["relevance_score"]) for r in sorted(got, key=lambda r: r["index"])[:2]], scores)
    pairs = s.post("/v1/score", {"text_1": ["What is a river?", "Where?"], "text_2": ["Paris.", "Paris."]})[1]["data"]
    check("score: pair by pair", pairs[0]["score"] == scores["data"][0]["score"] != pairs[1]["score"], pairs)
    for path, body, param in (("/v1/rerank", {"documents": ["a"]}, "query"), ("/v1/rerank", {"query": "a", "documents": []}, "documents"),
                              ("/v1/rerank", {"query": "a", "documents": [1]}, "documents"), ("/v1/score", {"text_1": ["a", "b"], "text_2": ["c"]}, "text_2"),
                              ("/rerank", {"query": "a", "documents": ["b " * 1100]}, "documents"),
                              ("/rerank", {"query": "a", "documents": ["b"], "truncate_prompt_tokens": 5}, "truncate_prompt_tokens")):
        status, answer = s.post(path, body)
        check(f"rerank: {param} of {str(body)[:60]}", status == 400 and answer["error"]["param"] == param, answer)
    status, answer = s.post("/v1/rerank", {"model": "plain", "query": "a", "documents": ["b"]})
    check("rerank: not by a model that is none", status == 400 and "no reranker" in answer["error"]["message"], answer)


def stops(s):
    body = {"prompt": "The quick brown fox", "max_tokens": 40, **GREEDY}
    text = s.post("/v1/completions", body)[1]["choices"][0]["text"]
    stop = text[len(text) // 2:][:3]
    body["stop"] = [stop, "never there"]
    cut = s.post("/v1/completions", body)[1]["choices"][0]
    check("stop: ends before it", cut["text"] == text[:text.index(stop)] and cut["finish_reason"] == "stop", cut)
    check("stop: says which", cut["stop_reason"] == stop, cut)
    check("stop: streamed alike", joined(chunks(s, "/v1/completions", body)) == cut["text"])


def embeddings(s):
    status, a = s.post("/v1/embeddings", {"model": NAME, "input": ["one", "two"], "encoding_format": "float"})
    check("embeddings", status == 200 and [d["index"] for d in a["data"]] == [0, 1], a)
    v = a["data"][1]["embedding"]
    check("embeddings: unit length", abs(sum(x * x for x in v) - 1) < 1e-5)
    b = s.post("/v1/embeddings", {"input": "two", "encoding_format": "base64"})[1]["data"][0]["embedding"]
    packed = struct.unpack(f"<{len(v)}f", base64.b64decode(b))
    check("embeddings: base64 is the same", max(abs(x - y) for x, y in zip(v, packed)) < 1e-6)
    check("embeddings: dimensions", len(s.post("/v1/embeddings", {"input": "two", "dimensions": 5})[1]["data"][0]["embedding"]) == 5)


def models_and_tokens(s):
    status, _, text = s.get("/v1/models")
    entry = json.loads(text)["data"][0]
    check("models", status == 200 and entry["id"] == NAME and entry["object"] == "model" and entry["max_model_len"] == 512, entry)
    check("models: without /v1", s.get("/models")[2] == text)
    check("models: one", json.loads(s.get(f"/v1/models/{NAME}")[2])["id"] == NAME)
    status, _, text = s.get("/v1/models/none")
    check("models: none", status == 404 and json.loads(text)["error"]["code"] == "model_not_found", text)
    for text in ("Hello, world", "été \U0001f600", "<|im_end|>", "a\0b", ""):
        ids = s.post("/tokenize", {"prompt": text})[1]
        check(f"tokens: count of {text!r}", ids["count"] == len(ids["tokens"]) and ids["max_model_len"] == 512, ids)
        back = s.post("/detokenize", {"tokens": ids["tokens"]})[1]
        check(f"tokens: {text!r} and back", back == {"prompt": text, "content": text}, back)
    check("tokens: special ones are one in a prompt", s.post("/tokenize", {"prompt": "<|im_end|>"})[1]["count"] == 1)
    check("tokens: and text in a message", s.post("/tokenize", {"messages": [{"role": "user", "content": "<|im_end|>"}]})[1]["count"]
          > s.post("/tokenize", {"messages": [{"role": "user", "content": "x"}]})[1]["count"] + 2)
    info = json.loads(s.get("/tokenizer_info")[2])
    check("tokens: info", info["eos_token"] == "<|im_end|>" and "messages" in info["chat_template"], info)
    shown = s.post("/apply-template", {"messages": HELLO})[1]["prompt"]
    check("tokens: template", shown.endswith("<|im_start|>assistant\n") and "Hello" in shown, shown)


def errors(s):
    cases = [("/v1/chat/completions", b"{", 400, None, None), ("/v1/chat/completions", b"[]", 400, None, None),
             ("/v1/chat/completions", {}, 400, "messages", None), ("/v1/chat/completions", {"messages": HELLO, "model": "no"}, 404, "model", "model_not_found"),
             ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 10000}, 400, "messages", "context_length_exceeded"),
             ("/v1/completions", {"prompt": [9] * 600}, 400, "prompt", "context_length_exceeded"),
             ("/v1/embeddings", {"input": [9] * 600}, 400, "input", "context_length_exceeded")]
    for field, value in (("temperature", -1), ("temperature", "hot"), ("top_p", 2), ("n", 0), ("max_tokens", 0), ("max_tokens", 1.5), ("stop", 3), ("stop", [""]),
                         ("seed", "x"), ("stream", 1), ("logit_bias", {"x": 1}), ("logit_bias", []), ("top_logprobs", 3), ("priority", "nobody"),
                         ("tool_choice", "required"), ("response_format", {"type": "json_schema"}), ("guided_regex", "(a"), ("grammar", "root ::= x"),
                         ("chat_template_kwargs", {"tokenize": True}), ("presence_penalty", 3), ("min_p", -1), ("messages", "x")):
        cases.append(("/v1/chat/completions", {"messages": HELLO, **{field: value}}, 400, field, None))
    for path, body, want, param, code in cases:
        for stream in (False, True):
            if stream and isinstance(body, bytes):
                continue
            status, answer = s.post(path, body if isinstance(body, bytes) else {"stream": stream, **body})
            e = answer.get("error", {}) if isinstance(answer, dict) else {}
            check(f"error of {path} {str(body)[:80]}", status == want and e.get("param") == param and (code is None or e.get("code") == code)
                  and e.get("message") and e.get("type"), (status, answer))
    same = {"messages": HELLO, "max_tokens": 3, **GREEDY}
    plain = s.post("/v1/chat/completions", same)[1]["choices"][0]["message"]
    harmless = {k: None for k in ("stop", "logprobs", "tools", "response_format", "seed", "n", "top_p", "stream_options", "user", "max_completion_tokens")}
    harmless.update(store=True, metadata={"a": "b"}, verbosity="low", service_tier="auto", prompt_cache_key="k", unheard_of=[1], response_format={"type": "text"},
                    tool_choice="none")
    status, answer = s.post("/v1/chat/completions", {**same, **harmless})
    check("harmless fields", status == 200 and answer["choices"][0]["message"] == plain, answer)


def client(s):
    if openai is None:
        skip("the openai client", "it is not installed")
        return
    c = openai.OpenAI(base_url=f"http://127.0.0.1:{s.port}/v1", api_key="none", max_retries=0)
    check("client: models", [m.id for m in c.models.list()] == [NAME] and c.models.retrieve(NAME).id == NAME)
    ask = {"model": NAME, "messages": HELLO, "max_tokens": 9, "temperature": 0}
    whole = c.chat.completions.create(**ask, logprobs=True, top_logprobs=2)
    data = list(c.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    text = "".join(d.choices[0].delta.content or "" for d in data if d.choices)
    check("client: stream", text == whole.choices[0].message.content and data[-1].usage.completion_tokens == 9, data[-1])
    check("client: request id", bool(whole._request_id))
    check("client: logprobs", len(whole.choices[0].logprobs.content) == 9)
    done = c.completions.create(model=NAME, prompt=["a", "b"], max_tokens=4, logprobs=2)
    check("client: completions", len(done.choices) == 2 and len(done.choices[1].logprobs.tokens) == 4, done)
    vectors = c.embeddings.create(model=NAME, input=["a", "b"])
    check("client: embeddings", len(vectors.data) == 2 and abs(sum(x * x for x in vectors.data[0].embedding) - 1) < 1e-4)
    for more, kind in (({"temperature": 9}, openai.BadRequestError), ({"model": "none"}, openai.NotFoundError), ({"max_tokens": 9999}, openai.BadRequestError)):
        try:
            c.chat.completions.create(**{**ask, **more})
            check(f"client: {more}", False, "no error")
        except openai.APIStatusError as e:
            check(f"client: {more}", isinstance(e, kind) and e.param, e)


with Server("-m", MODEL, "--served-model-name", NAME, "-c", "512") as server:
    for part in (chat, logprobs, completions, scoring, prompt_logprobs, stops, embeddings, models_and_tokens, errors, client):
        part(server)
    check("the server is well and ends with 0", server.stop() == 0, server.log[-3:])
with Server("-m", f"tiny-reranker={MODEL}", "-m", f"plain={MODEL}", "-c", "1024") as server:
    rerank(server)
finish()
