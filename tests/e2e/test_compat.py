#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The APIs besides OpenAI's older ones: Anthropic's, Ollama's, /v1/responses and /generate, by their shapes and by their own clients
where these are installed.

usage: test_compat.py QUERN"""
import importlib
import json

from cli import GOLDEN, check, finish, skip
from server import Server

MODEL = GOLDEN / "models" / "qwen3-tied-bf16"
NAME = "qwen3-tied-bf16"
USER = [{"role": "user", "content": "x"}]


def refused(s, path, cases, message):
    """Each body must be a 400 whose text names the field."""
    for name, body in cases.items():
        status, answer = s.post(path, body)
        text = message(answer) if isinstance(answer, dict) else str(answer)
        check(f"{path} refuses {name}", status == 400 and name in text, (status, answer))


def named_events(s, path, body):
    """[(name, object)] of a stream, each name that of its object."""
    status, headers, text = s.request("POST", path, body)
    check(f"{path} streams", status == 200 and headers["content-type"].startswith("text/event-stream"), (status, headers, text[:200]))
    out = []
    for block in text.strip().split("\n\n"):
        lines = block.split("\n")
        out.append((lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: "))))
    check(f"{path} names its events", all(name == o["type"] for name, o in out), out)
    return out


# ---- Anthropic ----

def anthropic(s):
    path = "/v1/messages"
    base = {"model": NAME, "max_tokens": 24, "temperature": 0, "ignore_eos": True, "messages": USER}
    status, whole = s.post(path, base)
    check("a message", status == 200 and whole["type"] == "message" and whole["role"] == "assistant" and whole["model"] == NAME
          and whole["stop_reason"] == "max_tokens" and whole["stop_sequence"] is None and whole["id"].startswith("msg_"), whole)
    text = whole["content"][0]["text"]
    check("its text", len(whole["content"]) == 1 and whole["content"][0]["type"] == "text" and text, whole)
    usage = whole["usage"]
    check("its usage", usage["output_tokens"] == 24 and usage["input_tokens"] > 0 and usage["cache_read_input_tokens"] == 0, usage)

    events = named_events(s, path, {**base, "stream": True})
    names = [name for name, _ in events]
    check("the order of events", names[:3] == ["message_start", "ping", "content_block_start"]
          and set(names[3:-3]) == {"content_block_delta"}
          and names[-3:] == ["content_block_stop", "message_delta", "message_stop"], names)
    start, delta = events[0][1]["message"], events[-2][1]
    check("a stream's beginning", start["content"] == [] and start["stop_reason"] is None
          and start["usage"]["input_tokens"] == usage["input_tokens"], start)
    check("a stream's end", delta["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
          and delta["usage"]["output_tokens"] == 24, delta)
    check("a stream's text", "".join(o["delta"]["text"] for name, o in events if name == "content_block_delta") == text, events)

    stop = text[4:6]
    status, stopped = s.post(path, {**base, "stop_sequences": ["never seen", stop]})
    check("a stop sequence", status == 200 and stopped["stop_reason"] == "stop_sequence" and stopped["stop_sequence"] == stop
          and stopped["content"][0]["text"] == text[:text.index(stop)], (stop, stopped))

    count = {k: base[k] for k in ("model", "messages")}
    status, n = s.post(path + "/count_tokens", count)
    check("counted as billed", (status, n) == (200, {"input_tokens": usage["input_tokens"]}), (status, n))
    blocks = [{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]}]
    check("blocks are text", s.post(path + "/count_tokens", {"model": NAME, "messages": blocks})[1] == n)
    system = s.post(path + "/count_tokens", {**count, "system": [{"type": "text", "text": "Be brief."}]})[1]
    check("a system text counts", system == s.post(path + "/count_tokens", {**count, "system": "Be brief."})[1]
          and system["input_tokens"] > n["input_tokens"], system)
    begun = s.post(path, {**base, "messages": USER + [{"role": "assistant", "content": "The answer"}]})[1]
    check("goes on from a begun answer", begun["usage"]["input_tokens"] > usage["input_tokens"]
          and not begun["content"][0]["text"].startswith("The answer"), begun)

    tool = {"name": "f", "description": "d", "input_schema": {"type": "object"}}
    turns = USER + [{"role": "assistant", "content": [{"type": "thinking", "thinking": "t", "signature": ""}, {"type": "text", "text": "a"},
                                                      {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}]},
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "42"}]},
                                                 {"type": "text", "text": "so?"}]}]
    status, answer = s.post(path, {**base, "messages": turns, "tools": [tool], "tool_choice": {"type": "auto"}})
    check("tools and their results", status == 200, answer)
    status, answer = s.post(path, {**base, "model": "nobody"})
    check("an unknown model", status == 404 and answer["type"] == "error" and answer["error"]["type"] == "not_found_error", answer)

    image = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image", "source": {}}]}]
    refused(s, path, {
        "max_tokens": {k: v for k, v in base.items() if k != "max_tokens"},
        "messages": {**base, "messages": []},
        "messages.0": {**base, "messages": [5]},
        "messages.0.role": {**base, "messages": [{"role": "tool", "content": "x"}]},
        "messages.0.content": {**base, "messages": [{"role": "user"}]},
        "messages.0.content.1.type": {**base, "messages": image},
        "system": {**base, "system": 5},
        "stop_sequences": {**base, "stop_sequences": [""]},
        "temperature": {**base, "temperature": "hot"},
        "tool_choice": {**base, "tool_choice": {"type": "any"}},
        "tools.0.type": {**base, "tools": [{"type": "web_search_20250305", "name": "w"}]},
        "tools.0.input_schema": {**base, "tools": [{"name": "f"}]},
        "thinking.budget_tokens": {**base, "thinking": {"type": "enabled", "budget_tokens": 1024}},
        "output_config.format": {**base, "output_config": {"format": {"type": "json_schema"}}},
        "mcp_servers": {**base, "mcp_servers": [{"type": "url"}]},
        "n": {**base, "n": 2},
    }, lambda a: a["error"]["message"] if a.get("type") == "error" and a["error"]["type"] == "invalid_request_error" else "")


# ---- Ollama ----

def lines(s, path, body):
    status, headers, text = s.request("POST", path, body)
    check(f"{path} streams lines", status == 200 and headers["content-type"].startswith("application/x-ndjson"), (status, headers))
    return [json.loads(line) for line in text.strip().split("\n")]


def ollama(s):
    options = {"temperature": 0, "num_predict": 8, "ignore_eos": True, "num_ctx": 1 << 17, "num_thread": 3, "stop": None}
    tags = json.loads(s.get("/api/tags")[2])["models"]
    check("tags", [m["name"] for m in tags] == [NAME] and tags[0]["details"]["family"] == "qwen3" and tags[0]["size"] > 0
          and len(tags[0]["digest"]) == 64, tags)
    check("ps", [m["model"] for m in json.loads(s.get("/api/ps")[2])["models"]] == [NAME])
    check("version", "version" in json.loads(s.get("/api/version")[2]))
    status, show = s.post("/api/show", {"model": NAME})
    check("show", status == 200 and show["model_info"]["qwen3.block_count"] == 3 and "im_start" in show["template"]
          and "completion" in show["capabilities"], show)

    chat = {"model": NAME, "messages": USER, "options": options}
    whole = s.post("/api/chat", {**chat, "stream": False})[1]
    text = whole["message"]["content"]
    check("a chat", whole["done"] is True and whole["done_reason"] == "length" and whole["message"]["role"] == "assistant"
          and whole["eval_count"] == 8 and whole["prompt_eval_count"] > 0 and whole["total_duration"] >= whole["eval_duration"] > 0
          and whole["created_at"].endswith("Z"), whole)
    parts = lines(s, "/api/chat", {**chat, "model": NAME + ":latest"})
    check("a streamed chat", "".join(p["message"]["content"] for p in parts) == text and not any(p["done"] for p in parts[:-1])
          and parts[-1]["done"] and parts[-1]["eval_count"] == 8, parts)
    whole = s.post("/api/generate", {"model": NAME, "prompt": "x", "options": options, "stream": False})[1]
    check("a prompt is a chat of one message", whole["response"] == text, whole)
    parts = lines(s, "/api/generate", {"model": NAME, "prompt": "x", "options": options})
    check("a streamed answer", "".join(p["response"] for p in parts) == text and parts[-1]["done_reason"] == "length", parts)
    raw = s.post("/api/generate", {"model": NAME, "prompt": "<|im_start|>", "raw": True, "options": options, "stream": False})[1]
    check("special tokens of a raw prompt", raw["prompt_eval_count"] == 1, raw)
    check("nothing to answer", s.post("/api/chat", {"model": NAME})[1]["done_reason"] == "load")
    most = s.post("/api/generate", {"model": NAME, "prompt": "x", "options": {**options, "num_predict": 1 << 20, "stop": [text[1]]},
                                    "stream": False})[1]
    check("num_predict is the most", most["done_reason"] == "stop", most)

    both = s.post("/api/embed", {"model": NAME, "input": ["one text", "x"]})[1]
    one = s.post("/api/embeddings", {"model": NAME, "prompt": "x"})[1]["embedding"]
    check("embeddings", len(both["embeddings"]) == 2 and both["embeddings"][1] == one and len(one) == 64
          and abs(sum(v * v for v in one) - 1) < 1e-5 and both["prompt_eval_count"] > 1, both)
    check("fewer dimensions", len(s.post("/api/embed", {"model": NAME, "input": "x", "dimensions": 8})[1]["embeddings"][0]) == 8)

    turns = USER + [{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
                    {"role": "tool", "tool_name": "f", "content": "7"}]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    status, answer = s.post("/api/chat", {**chat, "messages": turns, "tools": [tool], "think": False, "keep_alive": "5m", "stream": False})
    check("tools and their results", status == 200, answer)
    status, answer = s.post("/api/chat", {**chat, "model": "nobody"})
    check("an unknown model", status == 404 and isinstance(answer["error"], str), answer)
    refused(s, "/api/chat", {
        "format": {**chat, "format": "yaml"},
        "think": {**chat, "think": "loud"},
        "images": {**chat, "messages": [{"role": "user", "content": "x", "images": ["AA=="]}]},
        "messages.0.role": {**chat, "messages": [{"role": "boss", "content": "x"}]},
        "messages.0.content": {**chat, "messages": [{"role": "user", "content": [1]}]},
        "mirostat": {**chat, "options": {"mirostat": 1}},
        "repeat_last_n": {**chat, "options": {"repeat_last_n": 64, "repeat_penalty": 1.1}},
        "temperature": {**chat, "options": {"temperature": []}},
        "tools.0": {**chat, "tools": [{"type": "function"}]},
        "logprobs": {**chat, "logprobs": True},
    }, lambda a: a["error"])
    refused(s, "/api/generate", {name: {"model": NAME, "prompt": "x", name: value} for name, value in
                                 {"template": "{{ .Prompt }}", "suffix": "y", "context": [1, 2], "images": ["AA=="], "prompt": 5}.items()},
            lambda a: a["error"])
    refused(s, "/api/embed", {"input": {"model": NAME}, "dimensions": {"model": NAME, "input": "x", "dimensions": 65}}, lambda a: a["error"])


# ---- Responses ----

def responses(s):
    path = "/v1/responses"
    base = {"model": NAME, "input": "x", "max_output_tokens": 16, "temperature": 0, "ignore_eos": True}
    status, whole = s.post(path, {**base, "metadata": {"a": "b"}, "instructions": None})
    item = whole["output"][0]
    text = item["content"][0]["text"]
    check("a response", status == 200 and whole["object"] == "response" and whole["status"] == "incomplete"
          and whole["incomplete_details"] == {"reason": "max_output_tokens"} and whole["error"] is None
          and whole["metadata"] == {"a": "b"} and whole["id"].startswith("resp_") and whole["temperature"] == 0, whole)
    check("its item", item["type"] == "message" and item["status"] == "incomplete" and item["content"][0]["type"] == "output_text"
          and item["content"][0]["annotations"] == [] and text, item)
    usage = whole["usage"]
    check("its usage", usage["output_tokens"] == 16 and usage["total_tokens"] == usage["input_tokens"] + 16
          and usage["input_tokens_details"] == {"cached_tokens": 0} and "reasoning_tokens" in usage["output_tokens_details"], usage)
    status, short = s.post(path, {**base, "stop": [text[3]]})
    check("a completed one", short["status"] == "completed" and short["incomplete_details"] is None
          and short["output"][0]["status"] == "completed", short)

    for more, last in (({}, "incomplete"), ({"stop": [text[3]]}, "completed")):
        events = named_events(s, path, {**base, **more, "stream": True})
        names = [name.removeprefix("response.") for name, _ in events]
        deltas = [o for name, o in events if name.endswith("text.delta")]
        check("the order of events", names[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
              and set(names[4:-4]) <= {"output_text.delta"}
              and names[-4:] == ["output_text.done", "content_part.done", "output_item.done", last], names)
        check("numbered", [o["sequence_number"] for _, o in events] == list(range(len(events))), events)
        made = events[2][1]["item"]["id"]
        check("every part says where it is", all(o["item_id"] == made and o["output_index"] == o["content_index"] == 0
                                                  for name, o in events if "text" in name or "part" in name), events)
        end = events[-1][1]["response"]
        check("the deltas are the text", "".join(o["delta"] for o in deltas) == events[-4][1]["text"]
              == end["output"][0]["content"][0]["text"], events)
        check("the last event has it all", end["status"] == last and end["id"] == events[0][1]["response"]["id"]
              and end["usage"]["output_tokens"] > 0 and events[0][1]["response"]["usage"] is None, end)

    items = [{"role": "developer", "content": "d"}, {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]},
             {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
             {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{\"a\": 1}"},
             {"type": "function_call_output", "call_id": "c", "output": "42"}]
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": None}
    status, answer = s.post(path, {**base, "input": items, "tools": [tool], "instructions": "be brief", "store": True,
                                   "include": ["reasoning.encrypted_content"], "text": {"format": {"type": "text"}}})
    check("items and tools", status == 200 and answer["tools"] == [tool], answer)
    for method in ("GET", "DELETE"):
        status, _, text = s.request(method, path + "/resp_123")
        check("answers are not kept", status == 404 and "resp_123" in json.loads(text)["error"]["message"], (status, text))
    for name, body in {
            "previous_response_id": {**base, "previous_response_id": "resp_1"},
            "conversation": {**base, "conversation": "c"},
            "background": {**base, "background": True},
            "text.format": {**base, "text": {"format": {"type": "json_schema"}}},
            "tool_choice": {**base, "tool_choice": "required"},
            "tools": {**base, "tools": [{"type": "web_search"}]},
            "include": {**base, "include": ["message.output_text.logprobs"]},
            "input": {"model": NAME},
            "input.0.type": {**base, "input": [{"type": "item_reference", "id": "i"}]},
            "input.0.content.0.type": {**base, "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "max_output_tokens": {**base, "max_output_tokens": 0}}.items():
        status, answer = s.post(path, body)
        check(f"{path} refuses {name}", status == 400 and answer["error"]["param"] == name and name.split(".")[0] in
              answer["error"]["message"], (status, answer))


# ---- /generate ----

def generate(s):
    path = "/generate"
    simple = s.post(path, {"prompt": "hello", "max_tokens": 12, "temperature": 0, "ignore_eos": True})[1]
    text = simple["text"]
    check("a text", isinstance(text, str) and not text.startswith("hello") and simple["finish_reason"] == "length"
          and simple["usage"]["completion_tokens"] == 12, simple)
    ids = s.post("/tokenize", {"prompt": "hello"})[1]["tokens"]
    check("from token ids", s.post(path, {"prompt": ids, "max_new_tokens": 12, "temperature": 0, "ignore_eos": True})[1]["text"] == text)
    many = s.post(path, {"prompt": "hello", "max_tokens": 3, "n": 2, "seed": 1})[1]
    check("n texts", len(many["text"]) == len(many["finish_reason"]) == 2, many)
    check("without a number of tokens", s.post(path, {"prompt": "hello", "temperature": 0, "ignore_eos": True})[1]["usage"]
          ["completion_tokens"] == 128)
    events = s.events(path, {"prompt": "hello", "max_tokens": 12, "temperature": 0, "ignore_eos": True, "stream": True})
    check("streamed", events[-1] == "[DONE]" and "".join(e["text"] for e in events[:-1]) == text
          and events[-2]["usage"]["completion_tokens"] == 12 and events[-3]["finish_reason"] == "length", events)
    stopped = s.post(path, {"prompt": "hello", "max_tokens": 12, "temperature": 0, "ignore_eos": True, "stop": text[2]})[1]
    check("stopped", stopped["finish_reason"] == "stop" and stopped["text"] == text[:text.index(text[2])], stopped)

    params = {"max_new_tokens": 12, "temperature": 0, "ignore_eos": True}
    one = s.post(path, {"text": "hello", "sampling_params": params, "return_logprob": True, "rid": "r1"})[1]
    meta = one["meta_info"]
    check("SGLang's answer", one["text"] == text and len(one["output_ids"]) == 12 == meta["completion_tokens"]
          and meta["finish_reason"] == {"type": "length", "length": 12} and meta["id"] == "r1"
          and [t[1] for t in meta["output_token_logprobs"]] == one["output_ids"], one)
    batch = s.post(path, {"input_ids": [ids, ids[:1]], "sampling_params": params})[1]
    check("SGLang's batch", [b["text"] == text for b in batch] == [True, False], batch)
    events = s.events(path, {"text": "hello", "sampling_params": params, "stream": True})
    check("SGLang's stream is all text so far", events[-1] == "[DONE]" and all(text.startswith(e["text"]) for e in events[:-1])
          and events[-2]["text"] == text and events[-2]["meta_info"]["finish_reason"]["type"] == "length", events)
    stopped = s.post(path, {"text": "hello", "sampling_params": {**params, "stop": [text[2]]}})[1]
    check("SGLang's stop", stopped["meta_info"]["finish_reason"] == {"type": "stop", "matched": text[2]}, stopped)

    one = s.post(path, {"inputs": "hello", "parameters": {"max_new_tokens": 12, "ignore_eos": True, "details": True, "return_full_text": True}})[1]
    check("TGI's answer", one["generated_text"] == "hello" + text and one["details"]["finish_reason"] == "length"
          and "".join(t["text"] for t in one["details"]["tokens"]) == text, one)
    for where, more in ((path, {"stream": True}), ("/generate_stream", {})):
        events = s.events(where, {"inputs": "hello", "parameters": {"max_new_tokens": 12, "ignore_eos": True}, **more})
        check("TGI's stream", len(events) == 12 and "".join(e["token"]["text"] for e in events) == text
              and events[-1]["generated_text"] == text and events[0]["details"] is None, events)
    refused(s, path, {
        "prompt": {"max_tokens": 5},
        "text": {"prompt": "a", "text": "b"},
        "max_tokens": {"prompt": "a", "max_tokens": -1},
        "guided_json": {"prompt": "a", "guided_json": 5},
        "top_p": {"prompt": "a", "top_p": 7},
        "n": {"prompt": "a", "n": 17},
        "regex": {"text": "a", "sampling_params": {"regex": "(a"}},
        "grammar": {"inputs": "a", "parameters": {"grammar": {"type": "xml", "value": 1}}},
        "sampling_params": {"text": "a", "sampling_params": [{}]},
        "input_ids": {"input_ids": [1 << 30]},
        "logprob_start_len": {"text": "a", "return_logprob": True, "logprob_start_len": 0},
        "watermark": {"inputs": "a", "parameters": {"watermark": True}},
        "inputs": {"inputs": ["a"]},
    }, lambda a: a["error"]["message"])


# ---- their clients ----

def client(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        skip(f"the {name} client", "it is not installed")
        return None


def with_anthropic(s):
    module = client("anthropic")
    if not module:
        return
    c = module.Anthropic(base_url=f"http://127.0.0.1:{s.port}", api_key="any", max_retries=0)
    base = {"model": NAME, "max_tokens": 8, "messages": USER, "extra_body": {"temperature": 0}}
    whole = c.messages.create(**base)
    with c.messages.stream(**base) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    check("anthropic: a stream is the message", text == whole.content[0].text == final.content[0].text
          and final.stop_reason == whole.stop_reason and final.usage.output_tokens == 8, (whole, final))
    count = c.messages.count_tokens(model=NAME, messages=USER)
    check("anthropic: tokens counted", count.input_tokens == whole.usage.input_tokens + whole.usage.cache_read_input_tokens, count)
    try:
        c.messages.create(**{**base, "model": "nobody"})
        check("anthropic: an unknown model", False)
    except module.NotFoundError:
        check("anthropic: an unknown model", True)


def with_ollama(s):
    module = client("ollama")
    if not module:
        return
    c = module.Client(host=f"http://127.0.0.1:{s.port}")
    options = {"temperature": 0, "num_predict": 8}
    whole = c.chat(NAME, messages=USER, options=options)
    text = "".join(part.message.content for part in c.chat(NAME, messages=USER, options=options, stream=True))
    check("ollama: a stream is the message", text == whole.message.content and whole.eval_count == 8, (text, whole))
    check("ollama: generate", c.generate(NAME, "x", options=options).response == text)
    check("ollama: models", [m.model for m in c.list().models] == [NAME] and [m.model for m in c.ps().models] == [NAME]
          and c.show(NAME).details.family == "qwen3")
    check("ollama: embed", len(c.embed(NAME, ["a", "b"]).embeddings) == 2)
    try:
        c.chat("nobody", messages=USER)
        check("ollama: an unknown model", False)
    except module.ResponseError as e:
        check("ollama: an unknown model", e.status_code == 404, e)


def with_openai(s):
    module = client("openai")
    if not module:
        return
    c = module.OpenAI(base_url=f"http://127.0.0.1:{s.port}/v1", api_key="any", max_retries=0)
    base = {"model": NAME, "input": "x", "max_output_tokens": 16, "temperature": 0}
    whole = c.responses.create(**base)
    stop = whole.output_text[3]
    with c.responses.stream(**base, extra_body={"stop": [stop]}) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    check("openai: a response's stream", final.output_text == whole.output_text[:whole.output_text.index(stop)]
          and final.status == "completed" and whole.status == "incomplete", (whole, final))


def with_huggingface(s):
    module = client("huggingface_hub")
    if not module:
        return
    c = module.InferenceClient(f"http://127.0.0.1:{s.port}/generate")
    whole = c.text_generation("hello", max_new_tokens=8, details=True)
    text = "".join(c.text_generation("hello", max_new_tokens=8, stream=True))
    check("huggingface_hub: a stream is the text", text == whole.generated_text and whole.details.generated_tokens == 8, (text, whole))


def main():
    with Server("-m", MODEL, "-c", "4096", "-t", "1") as s:
        for test in (anthropic, ollama, responses, generate, with_anthropic, with_ollama, with_openai, with_huggingface):
            test(s)
        check("ends with 0", s.stop() == 0, s.log)


main()
finish()
