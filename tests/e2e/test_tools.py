#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Forms, tool calls and thoughts over HTTP: a tiny model of random weights, which wants to say nonsense, with the templates of Qwen2.5,
Qwen3 and Qwen3-Coder. What is asked for must come, in the shape of each API, whole and streamed; what cannot be enforced is a 400.

usage: test_tools.py QUERN"""
import json

from cli import GOLDEN, check, finish, skip
from server import Server

try:
    import openai
    import pydantic
except ImportError:
    openai = None

MODEL = GOLDEN / "models" / "qwen3-untied-f32"
NAME = MODEL.name
USER = [{"role": "user", "content": "Weather?"}]
WEATHER = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 8}, "unit": {"type": "string", "enum": ["C", "F"]},
                                            "days": {"type": "integer", "minimum": 1, "maximum": 9}},
           "required": ["city", "unit", "days"], "additionalProperties": False}
SWITCH = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "The weather.", "parameters": WEATHER}},
         {"type": "function", "function": {"name": "switch", "parameters": SWITCH}}]
FORM = {"type": "object", "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["ok", "n"], "additionalProperties": False}
BAD = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=b)"}}}
CHAT = "/v1/chat/completions"


def is_weather(o):
    return (list(o) == ["city", "unit", "days"] and isinstance(o["city"], str) and len(o["city"]) <= 8 and o["unit"] in "CF"
            and isinstance(o["days"], int) and 1 <= o["days"] <= 9)


def is_form(o):
    return list(o) == ["ok", "n"] and isinstance(o["ok"], bool) and isinstance(o["n"], int) and 0 <= o["n"] <= 99


def is_call(call):
    f = call["function"]
    o = json.loads(f["arguments"])
    good = is_weather(o) if f["name"] == "get_weather" else f["name"] == "switch" and list(o) == ["on"] and isinstance(o["on"], bool)
    return good and call["type"] == "function" and call["id"].startswith("call_")


def joined(events):
    """A stream's chunks as the message that they make, and the finish reason."""
    message, finish_reason = {"content": "", "reasoning_content": "", "tool_calls": []}, None
    for e in events[:-1]:
        for c in e["choices"]:
            finish_reason = c["finish_reason"] or finish_reason
            for key in ("content", "reasoning_content"):
                message[key] += c["delta"].get(key) or ""
            for call in c["delta"].get("tool_calls", []):
                if call["index"] == len(message["tool_calls"]):
                    message["tool_calls"].append({"id": call["id"], "type": call["type"], "function": dict(call["function"])})
                else:
                    check("later pieces of a call are arguments only", set(call) == {"index", "function"} and set(call["function"]) == {"arguments"}, call)
                    message["tool_calls"][call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    return message, finish_reason


def without_ids(calls):
    return [c["function"] for c in calls]


def calls(s, name, more):
    """Required, named, single and streamed."""
    base = {"messages": USER, "tools": TOOLS, "max_tokens": 400, "temperature": 1, **more}
    for seed in range(1, 5):
        ask = {**base, "seed": seed, "tool_choice": "required", "parallel_tool_calls": False}
        status, answer = s.post(CHAT, ask)
        if not check(f"{name}: a call is made", status == 200, answer):
            continue
        choice = answer["choices"][0]
        check(f"{name}: one call, as its schema says", choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None
              and len(choice["message"]["tool_calls"]) == 1 and is_call(choice["message"]["tool_calls"][0]), choice)
        message, why = joined(s.events(CHAT, {**ask, "stream": True}))
        check(f"{name}: the same streamed", why == "tool_calls" and message["content"] == ""
              and without_ids(message["tool_calls"]) == without_ids(choice["message"]["tool_calls"]), (message, choice))
        named = {**base, "seed": seed, "tool_choice": {"type": "function", "function": {"name": "switch"}}}
        choice = s.post(CHAT, named)[1]["choices"][0]
        check(f"{name}: the one that is named", [c["function"]["name"] for c in choice["message"]["tool_calls"]] == ["switch"]
              and is_call(choice["message"]["tool_calls"][0]), choice)
        allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [TOOLS[0]]}}
        choice = s.post(CHAT, {**base, "seed": seed, "tool_choice": allowed, "parallel_tool_calls": False})[1]["choices"][0]
        check(f"{name}: one of those allowed", choice["message"]["tool_calls"][0]["function"]["name"] == "get_weather"
              and is_call(choice["message"]["tool_calls"][0]), choice)
    several = s.post(CHAT, {**base, "seed": 1, "tool_choice": "required"})[1]["choices"][0]
    whole = several["message"]["tool_calls"][:None if several["finish_reason"] == "tool_calls" else -1]
    check(f"{name}: several calls", all(is_call(c) for c in whole) and len({c["id"] for c in whole}) == len(whole), several)
    turns = USER + [{"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": {
        "name": "switch", "arguments": "{\"on\": true}"}}]}, {"role": "tool", "tool_call_id": "c1", "content": "done"}]
    shown = s.post("/apply-template", {"messages": turns, "tools": TOOLS})[1]["prompt"]
    check(f"{name}: calls and their results are told", "<tool_response>\ndone" in shown and "<tool_call>" in shown, shown)
    strict = [{"type": "function", "function": {**t["function"], "strict": True}} for t in TOOLS]
    status, answer = s.post(CHAT, {**base, "tools": strict, "seed": 3, "max_tokens": 40})
    check(f"{name}: strict tools", status == 200 and "<tool_call>" not in answer["choices"][0]["message"]["content"], answer)
    both = s.post(CHAT, {**base, "tools": strict, "seed": 4, "parallel_tool_calls": False, "response_format": {
        "type": "json_schema", "json_schema": {"name": "f", "strict": True, "schema": FORM}}})[1]["choices"][0]
    check(f"{name}: a form or a call", is_form(json.loads(both["message"]["content"])) if both["finish_reason"] == "stop"
          else is_call(both["message"]["tool_calls"][0]), both)


def forms(s, name, more):
    base = {"messages": USER, "max_tokens": 400, "temperature": 1, "seed": 5, **more}
    schema = {"type": "json_schema", "json_schema": {"name": "f", "schema": FORM}}
    for field, value, holds in (
            ("response_format", schema, lambda t: is_form(json.loads(t))),
            ("guided_json", FORM, lambda t: is_form(json.loads(t))),
            ("guided_json", json.dumps(FORM), lambda t: is_form(json.loads(t))),
            ("json_schema", json.dumps(FORM), lambda t: is_form(json.loads(t))),
            ("structured_outputs", {"json": FORM}, lambda t: is_form(json.loads(t))),
            ("guided_regex", "a/[b-d]{2}", lambda t: len(t) == 4 and t[:2] == "a/" and set(t[2:]) <= set("bcd")),
            ("regex", "x{3}", lambda t: t == "xxx"),
            ("structured_outputs", {"regex": "y{2}"}, lambda t: t == "yy"),
            ("guided_choice", ["yes", "no \"n\""], lambda t: t in ("yes", "no \"n\"")),
            ("structured_outputs", {"choice": ["a", "b"]}, lambda t: t in ("a", "b")),
            ("guided_grammar", "root ::= \"root\" r # root\nr ::= [0-1] [x]", lambda t: t in ("root0x", "root1x")),
            ("grammar", "root ::= \"q\"", lambda t: t == "q"), ("ebnf", "root ::= \"q\"", lambda t: t == "q")):
        status, answer = s.post(CHAT, {**base, field: value})
        text = answer["choices"][0]["message"]["content"] if status == 200 else None
        check(f"{name}: {field} {str(value)[:40]}", status == 200 and answer["choices"][0]["finish_reason"] == "stop" and holds(text), answer)
        if status == 200:
            message, why = joined(s.events(CHAT, {**base, field: value, "stream": True}))
            check(f"{name}: {field} streamed", why == "stop" and message["content"] == text, message)
    status, answer = s.post(CHAT, {**base, "response_format": {"type": "json_object"}, "max_tokens": 200})
    choice = answer["choices"][0]
    check(f"{name}: json_object", choice["finish_reason"] == "length" or isinstance(json.loads(choice["message"]["content"]), dict), answer)


def thoughts(s):
    base = {"messages": USER, "max_tokens": 400, "temperature": 1, "seed": 2, "thinking_budget": 8}
    for more in ({}, {"guided_choice": ["yes", "no"]}):
        status, answer = s.post(CHAT, {**base, **more})
        choice, usage = answer["choices"][0], answer["usage"]
        message = choice["message"]
        check("thoughts are told apart", status == 200 and message["reasoning_content"] and message["reasoning"] == message["reasoning_content"]
              and "think>" not in message["content"], answer)
        n = len(s.post("/tokenize", {"prompt": message["reasoning_content"]})[1]["tokens"])
        check("and counted", 8 < usage["completion_tokens_details"]["reasoning_tokens"] <= min(usage["completion_tokens"], n + 40), (usage, n))
        check("a budget ends them", message["reasoning_content"].endswith("directly now."), message)
        check("the form comes after them", not more or message["content"] in more["guided_choice"], message)
        events = s.events(CHAT, {**base, **more, "stream": True})
        streamed, _ = joined(events)
        check("the same streamed", streamed["reasoning_content"] == message["reasoning_content"] and streamed["content"] == message["content"],
              (streamed, message))
    silent = s.post(CHAT, {**base, "include_reasoning": False, "guided_choice": ["yes"]})[1]["choices"][0]["message"]
    check("thoughts that are not asked for", "reasoning_content" not in silent and silent["content"] == "yes", silent)
    for more in ({"thinking_budget": 0}, {"chat_template_kwargs": {"enable_thinking": False}}, {"reasoning_effort": "none"}):
        answer = s.post(CHAT, {**base, "thinking_budget": None, "max_tokens": 20, **more})[1]
        check(f"no thoughts: {more}", "reasoning_content" not in answer["choices"][0]["message"]
              and answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0, answer)
    cut = s.post(CHAT, {**base, "thinking_budget": None, "max_tokens": 5, "guided_choice": ["yes"]})[1]["choices"][0]
    check("thoughts that are cut off", cut["finish_reason"] == "length" and cut["message"]["content"] == "", cut)


def named_events(s, path, body):
    text = s.request("POST", path, body)[2]
    pairs = [block.split("\n") for block in text.strip().split("\n\n") if not block.startswith(":")]
    return [(p[0].removeprefix("event: "), json.loads(p[1].removeprefix("data: "))) for p in pairs if p[0].startswith("event: ")]


def responses(s):
    path = "/v1/responses"
    tools = [{"type": "function", "name": t["function"]["name"], "parameters": t["function"]["parameters"], "strict": True} for t in TOOLS]
    base = {"input": "Weather?", "max_output_tokens": 400, "temperature": 1, "seed": 3, "thinking_budget": 8}
    ask = {**base, "tools": tools, "tool_choice": "required", "parallel_tool_calls": False}
    whole = s.post(path, ask)[1]
    kinds = [o["type"] for o in whole["output"]]
    call = whole["output"][-1]
    check("a response that calls", kinds == ["reasoning", "function_call"] and whole["status"] == "completed"
          and call["call_id"].startswith("call_") and call["id"].startswith("fc_"), whole)
    check("as the schema says", is_call({"type": "function", "id": call["call_id"], "function": call}), call)
    check("thoughts counted", whole["usage"]["output_tokens_details"]["reasoning_tokens"] > 0, whole["usage"])
    events = named_events(s, path, {**ask, "stream": True})
    names = [n.removeprefix("response.") for n, _ in events]
    short = [n for i, n in enumerate(names) if not n.endswith(".delta") or names[i - 1] != n]
    check("the order of events", short == [
        "created", "in_progress", "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done", "content_part.done",
        "output_item.done", "output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done", "completed"], short)
    deltas = "".join(o["delta"] for n, o in events if n == "response.function_call_arguments.delta")
    check("arguments in pieces", deltas == events[-3][1]["arguments"] == call["arguments"] and events[-3][1]["output_index"] == 1, deltas)
    check("the last event has all", [o["type"] for o in events[-1][1]["response"]["output"]] == kinds)
    form = {"format": {"type": "json_schema", "name": "f", "strict": True, "schema": FORM}}
    whole = s.post(path, {**base, "text": form})[1]
    check("text.format", [o["type"] for o in whole["output"]] == ["reasoning", "message"]
          and is_form(json.loads(whole["output"][1]["content"][0]["text"])), whole)


def anthropic(s):
    path = "/v1/messages"
    tools = [{"name": t["function"]["name"], "input_schema": t["function"]["parameters"]} for t in TOOLS]
    base = {"model": NAME, "messages": USER, "max_tokens": 400, "temperature": 1, "seed": 3, "thinking": {"type": "enabled", "budget_tokens": 8}}
    ask = {**base, "tools": tools, "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}
    whole = s.post(path, ask)[1]
    check("a message that calls", [b["type"] for b in whole["content"]] == ["thinking", "tool_use"] and whole["stop_reason"] == "tool_use", whole)
    use = whole["content"][-1]
    check("its input", use["id"].startswith("toolu_") and (is_weather(use["input"]) if use["name"] == "get_weather" else list(use["input"]) == ["on"]), use)
    check("thoughts counted", whole["usage"]["output_tokens_details"]["thinking_tokens"] > 0, whole["usage"])
    events = named_events(s, path, {**ask, "stream": True})
    blocks = [o["content_block"]["type"] for n, o in events if n == "content_block_start"]
    text = "".join(o["delta"]["partial_json"] for _, o in events if o.get("delta", {}).get("type") == "input_json_delta")
    thought = "".join(o["delta"]["thinking"] for _, o in events if o.get("delta", {}).get("type") == "thinking_delta")
    check("streamed", blocks == ["thinking", "tool_use"] and json.loads(text) == use["input"] and thought == whole["content"][0]["thinking"], events)
    check("its end", events[-2][1]["delta"]["stop_reason"] == "tool_use", events[-2])
    named = s.post(path, {**ask, "thinking": {"type": "disabled"}, "tool_choice": {"type": "tool", "name": "switch"}})[1]
    check("the one that is named", [b.get("name") for b in named["content"]] == ["switch"], named)
    for field in ({"output_config": {"format": {"type": "json_schema", "schema": FORM}}}, {"output_format": {"type": "json_schema", "schema": FORM}}):
        whole = s.post(path, {**base, "thinking": {"type": "disabled"}, **field})[1]
        check(f"{next(iter(field))}", is_form(json.loads(whole["content"][0]["text"])), whole)


def ollama(s):
    base = {"model": NAME, "messages": USER, "think": False, "stream": False, "options": {"temperature": 1, "seed": 3, "num_predict": 300}}
    whole = s.post("/api/chat", {**base, "format": FORM})[1]
    check("ollama: a schema", is_form(json.loads(whole["message"]["content"])) and "thinking" not in whole["message"], whole)
    whole = s.post("/api/generate", {"prompt": "x", **base, "format": FORM})[1]
    check("ollama: a schema of generate", is_form(json.loads(whole["response"])), whole)
    whole = s.post("/api/generate", {"prompt": "x", "raw": True, **base, "format": FORM})[1]
    check("ollama: a schema of raw text", is_form(json.loads(whole["response"])), whole)
    whole = s.post("/api/chat", {**base, "format": "json"})[1]
    check("ollama: json", whole["done_reason"] == "length" or isinstance(json.loads(whole["message"]["content"]), dict), whole)
    # a grammar that leaves nothing but a call: Ollama itself has no tool_choice
    call = "<tool_call>\\n{\\\"name\\\": \\\"switch\\\", \\\"arguments\\\": {\\\"on\\\": true}}\\n</tool_call>"
    ask = {**base, "think": True, "thinking_budget": 4, "tools": [{"type": "function", "function": {**TOOLS[1]["function"], "strict": True}}], "grammar": f"root ::= \"{call}\""}
    whole = s.post("/api/chat", ask)[1]
    made = whole["message"].get("tool_calls", [{}])
    check("ollama: calls and thoughts", all(isinstance(c["function"]["arguments"]["on"], bool) for c in made)
          and whole["message"]["content"] == "" and whole["message"]["thinking"], whole)
    text = s.request("POST", "/api/chat", {**ask, "stream": True})[2]
    lines = [json.loads(line) for line in text.strip().split("\n")]
    check("ollama: streamed", "".join(o["message"].get("thinking", "") for o in lines) == whole["message"]["thinking"]
          and [c["function"] for o in lines for c in o["message"].get("tool_calls", [])] == [c["function"] for c in made], lines)
    check("ollama: what the model can", set(s.post("/api/show", {"model": NAME})[1]["capabilities"]) >= {"tools", "thinking"})


def raw(s):
    check("completions", s.post("/v1/completions", {"prompt": "x", "guided_choice": ["yes", "no"]})[1]["choices"][0]["text"] in ("yes", "no"))
    text = s.post("/v1/completions", {"prompt": "x", "max_tokens": 60, "response_format": {"type": "json_schema", "json_schema": {"name": "f", "schema": FORM}}})
    check("completions: a schema", is_form(json.loads(text[1]["choices"][0]["text"])), text)
    check("/generate", s.post("/generate", {"prompt": "x", "guided_regex": "z{4}"})[1]["text"] == "zzzz")
    check("/generate: SGLang's", s.post("/generate", {"text": "x", "sampling_params": {"regex": "z{4}"}})[1]["text"] == "zzzz")
    answer = s.post("/generate", {"text": "x", "sampling_params": {"json_schema": json.dumps(FORM)}})[1]
    check("/generate: SGLang's schema", is_form(json.loads(answer["text"])), answer)
    for kind, value in (("regex", "z{4}"), ("json", {"const": "zzzz"})):
        answer = s.post("/generate", {"inputs": "x", "parameters": {"grammar": {"type": kind, "value": value}}})[1]
        check(f"/generate: TGI's {kind}", answer["generated_text"].strip('"') == "zzzz", answer)


def refused(s, is_xml):
    bad_tool = [{"type": "function", "function": {"name": "f", "strict": True, "parameters": BAD}}]
    schema = {"type": "json_schema", "json_schema": {"name": "f", "schema": BAD}}
    for param, body in (("response_format", {"response_format": schema}), ("guided_json", {"guided_json": BAD}),
                        ("structured_outputs", {"structured_outputs": {"json": BAD}}),
                        ("tools[0].function.parameters", {"tools": bad_tool}),
                        ("tools[0].function.parameters", {"tools": bad_tool, "tool_choice": "required"}),
                        ("tools[0].function.parameters", {"tools": bad_tool, "response_format": {"type": "json_object"}})):
        status, answer = s.post(CHAT, {"messages": USER, **body})
        e = answer.get("error", {})
        check(f"refused: {body}", status == 400 and param in (e["param"], "tools[0].function.parameters" if e["param"] == "tools" else "")
              and "#/properties/a/pattern" in e["message"], answer)
    for param, body in (("regex", {"regex": "(a"}), ("grammar", {"grammar": "root ::= ("}), ("guided_choice", {"guided_choice": []}),
                        ("guided_choice", {"guided_choice": [1]}), ("guided_json", {"guided_json": "{} root ::= [a]"}),
                        ("guided_regex", {"guided_regex": "a", "regex": "b"}), ("tool_choice", {"tools": TOOLS, "tool_choice": "always"}),
                        ("tool_choice", {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "g"}}}),
                        ("tool_choice", {"tool_choice": "required"}), ("tools", {"tools": [{"type": "function", "function": {"name": "a b"}}]}),
                        ("thinking_budget", {"thinking_budget": -1}), ("structured_outputs", {"structured_outputs": {"structural_tag": "x"}})):
        for more in ({}, {"thinking_budget": 4}):
            status, answer = s.post(CHAT, {"messages": USER, **more, **body})
            check(f"refused: {body}", status == 400 and answer["error"]["param"] in (param, "regex"), answer)
    any_object = [{"type": "function", "function": {"name": "f", "strict": False, "parameters": BAD}}]
    status, answer = s.post(CHAT, {"messages": USER, "tools": any_object, "tool_choice": "required", "thinking_budget": 0, "max_tokens": 60})
    check("a tool that is not strict", status == 200 and answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "f", answer)
    if is_xml:
        odd = {"type": "object", "properties": {"a": {"type": "string", "format": "date"}}}
        tool = [{"type": "function", "function": {"name": "f", "parameters": odd}}]
        status, answer = s.post(CHAT, {"messages": USER, "tools": tool, "tool_choice": "required"})
        check("text that has no form", status == 400 and "#/properties/a/format" in answer["error"]["message"], answer)


def with_openai(s):
    if openai is None:
        skip("the openai client", "openai or pydantic is not installed")
        return

    class Form(pydantic.BaseModel):
        ok: bool
        n: int = pydantic.Field(ge=0, le=99)

    class Switch(pydantic.BaseModel):
        """Turns it on or off."""
        on: bool

    c = openai.OpenAI(base_url=f"http://127.0.0.1:{s.port}/v1", api_key="none", max_retries=0)
    base = {"model": NAME, "messages": USER, "max_tokens": 400, "extra_body": {"thinking_budget": 4}}
    parsed = c.chat.completions.parse(**base, response_format=Form).choices[0].message
    check("openai: parse", isinstance(parsed.parsed, Form) and parsed.reasoning_content, parsed)
    tool = openai.pydantic_function_tool(Switch)
    message = c.chat.completions.parse(**base, tools=[tool], tool_choice="required", parallel_tool_calls=False).choices[0].message
    check("openai: tools", isinstance(message.tool_calls[0].function.parsed_arguments, Switch) and message.content is None, message)
    with c.chat.completions.stream(**base, tools=[tool], tool_choice="required", parallel_tool_calls=False) as stream:
        kinds = {e.type for e in stream}
        final = stream.get_final_completion().choices[0]
    check("openai: a stream of a call", "tool_calls.function.arguments.done" in kinds and final.finish_reason == "tool_calls"
          and isinstance(final.message.tool_calls[0].function.parsed_arguments, Switch), (kinds, final))
    with c.chat.completions.stream(**base, response_format=Form) as stream:
        for _ in stream:
            pass
        check("openai: a stream of a form", isinstance(stream.get_final_completion().choices[0].message.parsed, Form))
    ask = {"model": NAME, "input": "x", "max_output_tokens": 400, "extra_body": {"thinking_budget": 4}}
    answer = c.responses.parse(**ask, text_format=Form)
    check("openai: responses.parse", isinstance(answer.output_parsed, Form) and answer.output[0].type == "reasoning", answer)
    function = openai.pydantic_function_tool(Switch)["function"]
    tools = [{"type": "function", "name": "Switch", "parameters": function["parameters"], "strict": True}]
    answer = c.responses.parse(**ask, tools=tools, tool_choice="required", parallel_tool_calls=False)
    check("openai: responses' calls", answer.output[-1].type == "function_call" and isinstance(json.loads(answer.output[-1].arguments)["on"], bool), answer)
    with c.responses.stream(**ask, tools=tools, tool_choice="required", parallel_tool_calls=False) as stream:
        kinds = {e.type for e in stream}
        final = stream.get_final_response()
    check("openai: a response's stream", final.output[-1].type == "function_call" and "response.reasoning_text.delta" in kinds, (kinds, final))


def main():
    for name, more in (("qwen2.5-instruct", {}), ("qwen3", {"thinking_budget": 8}), ("qwen3", {"enable_thinking": False}), ("qwen3-coder", {})):
        with Server("-m", MODEL, "-c", "4096", "-t", "1", "--chat-template", GOLDEN / "templates" / f"{name}.jinja") as s:
            calls(s, name, more)
            forms(s, name, more)
            if "thinking_budget" in more:
                for part in (thoughts, responses, anthropic, ollama, raw, with_openai):
                    part(s)
            if "enable_thinking" not in more:
                refused(s, name == "qwen3-coder")
            check("ends with 0", s.stop() == 0, s.log[-3:])


main()
finish()
