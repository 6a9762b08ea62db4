/* SPDX-License-Identifier: Apache-2.0
 * test_openai.c - OpenAI's endpoints over a tiny model: shapes, defaults, streams beside whole answers, errors. */
#include "fake_exchange.h"

#include "server/openai.h"
#include <math.h>

static qn_engine *engine;

static int open_once(void **state)
{
    (void)state;
    qn_config c = qn_config_default();
    c.model = QN_SOURCE_DIR "/tests/golden/models/qwen3-untied-f32";
    c.n_threads = 1;
    c.max_ctx = 256;
    c.max_seqs = 8;
    c.exact = true;
    engine = open_engine(&c);
    return 0;
}

static int close_once(void **state)
{
    (void)state;
    qn_engine_free(engine);
    for (int t = 0; t < QN_MEM_N_TAGS; t++)
        if (qn_mem_live((qn_mem_tag)t))
            print_message("%zu bytes of %s are left\n", qn_mem_live((qn_mem_tag)t),
                          qn_mem_tag_name((qn_mem_tag)t));
    return qn_mem_live(QN_MEM_REQUEST) || qn_mem_live(QN_MEM_MISC);
}

/* ---- reading answers ---- */

static json_t *parse(const char *text, size_t n)
{
    json_t *v = NULL;
    qn_err err;
    char *copy = qn_strndup(text, n, QN_MEM_MISC), *nul = copy;
    assert_non_null(copy);
    while ((nul = strstr(nul, "\\u0000"))) /* the tiny model likes it; jansson not, in a key */
        nul[5] = '1';
    if (qn_json_parse(&v, copy, n, 0, "answer", &err) != QN_OK)
        fail_msg("%s: %.*s", err.msg, (int)n, text);
    qn_free(copy);
    return v;
}

/* "choices.0.text"; NULL: not there. */
static const json_t *at(const json_t *v, const char *path)
{
    while (*path && v) {
        size_t n = strcspn(path, ".");
        char key[64];
        uint64_t i;
        (void)snprintf(key, sizeof key, "%.*s", (int)n, path);
        v = qn_parse_u64(key, n, 1000, &i) ? json_array_get(v, i) : json_object_get(v, key);
        path += n + (path[n] == '.');
    }
    return v;
}

static const char *text_at(const json_t *v, const char *path)
{
    const json_t *s = at(v, path);
    if (!json_is_string(s))
        fail_msg("no string at %s", path);
    return json_string_value(s);
}

static long long int_at(const json_t *v, const char *path)
{
    const json_t *i = at(v, path);
    if (!json_is_integer(i))
        fail_msg("no integer at %s", path);
    return json_integer_value(i);
}

/* A POST that gives 200 and one object. */
static json_t *post(const char *path, const char *body)
{
    qn_exchange x;
    call(&x, strstr(path, "oken") || strstr(path, "apply") ? qn_tokens_routes : qn_openai_routes,
         path, engine, body);
    if (x.status != 200)
        fail_msg("%s %s: %d %s", path, body, x.status, x.out.p);
    assert_string_equal(x.type, "application/json");
    json_t *v = parse(x.out.p, x.out.n);
    close_exchange(&x);
    return v;
}

/* A stream's chunks as an array; checks the framing. */
static json_t *stream(const char *path, const char *body)
{
    qn_exchange x;
    call(&x, qn_openai_routes, path, engine, body);
    if (x.status != 200)
        fail_msg("%s %s: %d %s", path, body, x.status, x.out.p);
    assert_string_equal(x.type, "text/event-stream");
    json_t *list = json_array();
    const char *p = x.out.p, *end;
    bool is_over = false;
    for (; *p; p = end + 2) {
        end = strstr(p, "\n\n");
        assert_non_null(end);
        assert_false(is_over);
        assert_memory_equal(p, "data: ", 6);
        is_over = strncmp(p + 6, "[DONE]", 6) == 0;
        if (!is_over)
            assert_int_equal(json_array_append_new(list, parse(p + 6, (size_t)(end - p) - 6)), 0);
    }
    assert_true(is_over);
    close_exchange(&x);
    return list;
}

static void expect_error(const char *path, const char *body, int status, const char *param,
                         const char *code)
{
    qn_exchange x;
    call(&x, strstr(path, "oken") ? qn_tokens_routes : qn_openai_routes, path, engine, body);
    if (x.status != status || strcmp(x.param, param) != 0 || strcmp(x.code, code) != 0)
        fail_msg("%s %s: found %d, param '%s', code '%s' (%s); want %d, '%s', '%s'", path, body,
                 x.status, x.param, x.code, x.out.p, status, param, code);
    close_exchange(&x);
}

#define CHAT        "/v1/chat/completions"
#define COMPLETIONS "/v1/completions"
#define HELLO       "\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]"
#define GREEDY      "\"temperature\":0,\"repetition_penalty\":1,\"ignore_eos\":true"

/* ---- chat ---- */

static void test_chat(void **state)
{
    (void)state;
    json_t *v = post(CHAT, "{\"model\":\"alias\"," HELLO "," GREEDY
                           ",\"max_tokens\":5,\"user\":\"u\",\"store\":null,\"stop\":null}");
    assert_memory_equal(text_at(v, "id"), "chatcmpl-", 9);
    assert_string_equal(text_at(v, "object"), "chat.completion");
    assert_string_equal(text_at(v, "model"), "tiny");
    assert_true(strlen(text_at(v, "system_fingerprint")) > 5);
    assert_string_equal(text_at(v, "choices.0.message.role"), "assistant");
    assert_true(strlen(text_at(v, "choices.0.message.content")) > 0);
    assert_string_equal(text_at(v, "choices.0.finish_reason"), "length");
    assert_true(json_is_null(at(v, "choices.0.logprobs")));
    assert_true(json_is_null(at(v, "choices.0.stop_reason")));
    assert_int_equal(int_at(v, "usage.completion_tokens"), 5);
    assert_int_equal(int_at(v, "usage.total_tokens"), int_at(v, "usage.prompt_tokens") + 5);
    assert_int_equal(int_at(v, "usage.prompt_tokens_details.cached_tokens"), 0);
    assert_int_equal(int_at(v, "usage.completion_tokens_details.reasoning_tokens"), 0);
    assert_int_equal(int_at(v, "timings.predicted_n"), 5);
    /* what is counted is what is charged */
    json_t *t = post("/tokenize", "{" HELLO "}");
    assert_int_equal(int_at(t, "count"), int_at(v, "usage.prompt_tokens"));
    assert_int_equal(int_at(t, "max_model_len"), 256);
    json_decref(t);
    json_decref(v);
}

/* Contents, roles and template variables as the template gets them. */
static void test_messages(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {HELLO, "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"},
        {"\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
         "{\"type\":\"text\",\"text\":\"b\"}]}]",
         "<|im_start|>user\na\nb<|im_end|>\n<|im_start|>assistant\n"},
        {"\"messages\":[{\"role\":\"developer\",\"content\":\"d\"},{\"role\":\"user\",\"content\":"
         "\"u\"}],\"add_generation_prompt\":false",
         "<|im_start|>system\nd<|im_end|>\n<|im_start|>user\nu<|im_end|>\n"},
        {"\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"1\","
         "\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]},"
         "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"r\"}]",
         "<|im_start|>assistant\n<|im_end|>\n<|im_start|>tool\nr<|im_end|>\n"
         "<|im_start|>assistant\n"},
        {"\"messages\":[{\"role\":\"user\",\"content\":\"u\"},{\"role\":\"assistant\",\"content\":"
         "\"So, \"}],\"continue_final_message\":true,\"add_generation_prompt\":false",
         "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\nSo, "},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        char body[600];
        (void)snprintf(body, sizeof body, "{%s}", cases[i][0]);
        json_t *v = post("/apply-template", body);
        assert_string_equal(text_at(v, "prompt"), cases[i][1]);
        json_decref(v);
    }
}

/* Arguments of tool calls reach the template as objects, tools unless none may be called. */
static void test_chat_json(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"c\",\"function\":{"
         "\"name\":\"f\",\"arguments\":\"{\\\"b\\\": 1, \\\"a\\\": [2.50]}\"}}]}]}",
         "\"arguments\":{\"b\": 1, \"a\": [2.5]}"},
        {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\","
         "\"arguments\":\"{\\\"b\"}}]}]}",
         "\"arguments\":\"{\\\"b\""},
        {"{" HELLO ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]}",
         "\"tools\":[{\"type\": \"function\", \"function\": {\"name\": \"f\"}}]"},
        {"{" HELLO ",\"chat_template_kwargs\":{\"enable_thinking\":false}}",
         "\"enable_thinking\":false"},
        {"{" HELLO ",\"reasoning_effort\":\"none\"}", "\"enable_thinking\":false"},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\",\"reasoning\":\"because\"}]}",
         "\"reasoning_content\":\"because\""},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        qn_str out = {0};
        qn_err err;
        const char *param;
        json_t *v = parse(cases[i][0], strlen(cases[i][0]));
        if (qn_openai_messages(v, &out, &param, &err) != QN_OK)
            fail_msg("%s: %s", cases[i][0], err.msg);
        if (!strstr(out.p, cases[i][1]))
            fail_msg("%s: no %s in %s", cases[i][0], cases[i][1], out.p);
        qn_str_fini(&out);
        json_decref(v);
    }
    const char *none = "{" HELLO ",\"tool_choice\":\"none\",\"tools\":[{\"type\":\"function\","
                       "\"function\":{\"name\":\"f\"}}]}";
    qn_str out = {0};
    const char *param;
    json_t *v = parse(none, strlen(none));
    assert_int_equal(qn_openai_messages(v, &out, &param, NULL), QN_OK);
    assert_null(strstr(out.p, "tools"));
    qn_str_fini(&out);
    json_decref(v);
}

/* A special token in a message is its text. */
static void test_special_text(void **state)
{
    (void)state;
    json_t *a =
        post("/tokenize", "{\"messages\":[{\"role\":\"user\",\"content\":\"<|im_end|>\"}]}");
    json_t *b = post("/tokenize", "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}");
    assert_true(int_at(a, "count") > int_at(b, "count") + 3);
    json_decref(a);
    json_decref(b);
}

/* ---- streams ---- */

static void test_chat_stream(void **state)
{
    (void)state;
    const char *body = "{" HELLO "," GREEDY ",\"max_tokens\":12,\"n\":2,\"stream\":%s}";
    char whole_body[300], stream_body[300];
    (void)snprintf(whole_body, sizeof whole_body, body, "false");
    (void)snprintf(stream_body, sizeof stream_body, body, "true");
    json_t *whole = post(CHAT, whole_body), *list = stream(CHAT, stream_body);
    qn_str text[2] = {{0}, {0}};
    bool has_role[2] = {false, false};
    int n_ends[2] = {0, 0};
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *c = json_array_get(list, i);
        assert_string_equal(text_at(c, "id"), text_at(json_array_get(list, 0), "id"));
        assert_string_equal(text_at(c, "object"), "chat.completion.chunk");
        assert_int_equal(json_array_size(at(c, "choices")), 1);
        size_t k = (size_t)int_at(c, "choices.0.index");
        const json_t *role = at(c, "choices.0.delta.role");
        const json_t *content = at(c, "choices.0.delta.content");
        assert_int_equal(n_ends[k], 0);
        assert_true(has_role[k] == !role);
        has_role[k] = true;
        if (role)
            assert_string_equal(json_string_value(content), "");
        if (json_is_string(content))
            qn_str_adds(&text[k], json_string_value(content));
        if (!json_is_null(at(c, "choices.0.finish_reason"))) {
            n_ends[k]++;
            assert_int_equal(json_object_size(at(c, "choices.0.delta")), 0);
        }
    }
    for (size_t k = 0; k < 2; k++) {
        assert_int_equal(n_ends[k], 1);
        assert_string_equal(text[k].p, text_at(whole, k ? "choices.1.message.content"
                                                        : "choices.0.message.content"));
        qn_str_fini(&text[k]);
    }
    json_decref(whole);
    json_decref(list);
}

static void test_stream_usage(void **state)
{
    (void)state;
    json_t *list = stream(CHAT, "{" HELLO "," GREEDY ",\"max_tokens\":4,\"stream\":true,"
                                "\"stream_options\":{\"include_usage\":true}}");
    size_t n = json_array_size(list);
    const json_t *last = json_array_get(list, n - 1);
    assert_int_equal(json_array_size(at(last, "choices")), 0);
    assert_int_equal(int_at(last, "usage.completion_tokens"), 4);
    assert_int_equal(int_at(last, "timings.predicted_n"), 4);
    for (size_t i = 0; i + 1 < n; i++) {
        assert_int_equal(json_array_size(at(json_array_get(list, i), "choices")), 1);
        assert_true(json_is_null(at(json_array_get(list, i), "usage")));
    }
    json_decref(list);
    list = stream(CHAT, "{" HELLO "," GREEDY ",\"max_tokens\":4,\"stream\":true,"
                        "\"stream_options\":{\"include_usage\":true,"
                        "\"continuous_usage_stats\":true}}");
    long long before = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *c = json_array_get(list, i);
        assert_true(int_at(c, "usage.prompt_tokens") > 0);
        assert_true(int_at(c, "usage.completion_tokens") >= before);
        before = int_at(c, "usage.completion_tokens");
    }
    assert_int_equal(before, 4);
    json_decref(list);
}

/* ---- log-probabilities ---- */

/* Bytes of the entries of a chat's logprobs, behind what is there. */
static void add_bytes(qn_str *out, const json_t *content, bool check_top)
{
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *t = json_array_get(content, i), *bytes = at(t, "bytes");
        for (size_t k = 0; k < json_array_size(bytes); k++)
            qn_str_addc(out, (char)QN_MAX(json_integer_value(json_array_get(bytes, k)), 1));
        double best = 1;
        for (size_t k = 0; check_top && k < json_array_size(at(t, "top_logprobs")); k++) {
            const json_t *o = json_array_get(at(t, "top_logprobs"), k);
            assert_true(json_number_value(at(o, "logprob")) <= best);
            best = json_number_value(at(o, "logprob"));
            assert_true(k || best == json_number_value(at(t, "logprob"))); /* greedy */
        }
    }
}

static void test_chat_logprobs(void **state)
{
    (void)state;
    const char *body = "{" HELLO "," GREEDY ",\"max_tokens\":20,\"logprobs\":true,"
                       "\"top_logprobs\":3,\"stream\":%s}";
    char whole_body[300], stream_body[300];
    (void)snprintf(whole_body, sizeof whole_body, body, "false");
    (void)snprintf(stream_body, sizeof stream_body, body, "true");
    json_t *whole = post(CHAT, whole_body), *list = stream(CHAT, stream_body);
    qn_str a = {0}, b = {0};
    const json_t *content = at(whole, "choices.0.logprobs.content");
    assert_int_equal(json_array_size(content), 20);
    assert_int_equal(json_array_size(at(json_array_get(content, 0), "top_logprobs")), 3);
    add_bytes(&a, content, true);
    for (size_t i = 0; i < json_array_size(list); i++)
        add_bytes(&b, at(json_array_get(list, i), "choices.0.logprobs.content"), true);
    assert_string_equal(a.p, b.p);
    qn_str shown = {0};
    qn_utf8_lossy(&shown, a.p, a.n);
    assert_string_equal(shown.p, text_at(whole, "choices.0.message.content"));
    qn_str_fini(&shown);
    qn_str_fini(&a);
    qn_str_fini(&b);
    json_decref(whole);
    json_decref(list);
    whole = post(CHAT, "{" HELLO "," GREEDY ",\"max_tokens\":2,\"logprobs\":true}");
    assert_int_equal(json_array_size(at(whole, "choices.0.logprobs.content.0.top_logprobs")), 0);
    json_decref(whole);
}

/* Entries end with the text, whether a string or a token ends it, and the reason is named. */
static void test_stops(void **state)
{
    (void)state;
    const char *all_body = "{\"prompt\":\"The quick brown fox\"," GREEDY
                           ",\"max_tokens\":30,\"logprobs\":0,\"return_token_ids\":true}";
    json_t *all = post(COMPLETIONS, all_body);
    qn_str text = {0};
    qn_str_adds(&text, text_at(all, "choices.0.text"));
    size_t from = text.n / 2;
    while ((text.p[from] & 0xc0) == 0x80)
        from++;
    qn_str body = {0};
    qn_str_adds(&body, "{\"prompt\":\"The quick brown fox\"," GREEDY
                       ",\"max_tokens\":30,\"logprobs\":0,\"stop\":[\"not there\",");
    size_t n_stop = qn_utf8_whole(text.p + from, QN_MIN(text.n - from, (size_t)6));
    qn_str_add_json(&body, text.p + from, n_stop);
    qn_str_adds(&body, "]}");
    json_t *v = post(COMPLETIONS, body.p);
    const char *cut = text_at(v, "choices.0.text");
    assert_true(strlen(cut) <= from && strncmp(cut, text.p, strlen(cut)) == 0);
    assert_string_equal(text_at(v, "choices.0.finish_reason"), "stop");
    assert_int_equal(strncmp(text_at(v, "choices.0.stop_reason"), text.p + from, n_stop), 0);
    size_t n_entries = json_array_size(at(v, "choices.0.logprobs.tokens"));
    assert_true(n_entries < json_array_size(at(all, "choices.0.logprobs.tokens")));
    const json_t *offsets = at(v, "choices.0.logprobs.text_offset");
    for (size_t i = 0; i < n_entries; i++)
        assert_true((size_t)json_integer_value(json_array_get(offsets, i)) <= strlen(cut));
    json_decref(v);
    long long id = int_at(all, "choices.0.token_ids.4");
    qn_str_clear(&body);
    qn_str_addf(&body,
                "{\"prompt\":\"The quick brown fox\"," GREEDY
                ",\"max_tokens\":30,\"logprobs\":0,\"stop_token_ids\":[%lld]}",
                id);
    v = post(COMPLETIONS, body.p);
    assert_int_equal(int_at(v, "choices.0.stop_reason"), id);
    assert_int_equal(json_array_size(at(v, "choices.0.logprobs.tokens")),
                     int_at(v, "usage.completion_tokens") - 1);
    json_decref(v);
    json_decref(all);
    qn_str_fini(&text);
    qn_str_fini(&body);
}

/* ---- completions ---- */

static void test_completion(void **state)
{
    (void)state;
    json_t *v = post("/completions", "{\"prompt\":\"The quick\"," GREEDY ",\"logprobs\":2}");
    assert_memory_equal(text_at(v, "id"), "cmpl-", 5);
    assert_string_equal(text_at(v, "object"), "text_completion");
    assert_int_equal(int_at(v, "usage.completion_tokens"), 16);
    assert_int_equal(json_array_size(at(v, "choices.0.logprobs.tokens")), 16);
    assert_int_equal(json_array_size(at(v, "choices.0.logprobs.token_logprobs")), 16);
    assert_int_equal(json_array_size(at(v, "choices.0.logprobs.text_offset")), 16);
    assert_int_equal(int_at(v, "choices.0.logprobs.text_offset.0"), 0);
    assert_int_equal(json_object_size(at(v, "choices.0.logprobs.top_logprobs.0")), 2);
    json_decref(v);
}

static void test_batch(void **state)
{
    (void)state;
    static const char *const prompts[] = {"\"The quick brown fox\"", "\"Once upon\"", "[5,6,7,8]"};
    json_t *batch = post(COMPLETIONS, "{\"prompt\":[\"The quick brown fox\",\"Once upon\"],\"n\":2,"
                                      "\"seed\":7,\"temperature\":1.5,\"max_tokens\":9}");
    assert_int_equal(json_array_size(at(batch, "choices")), 4);
    for (size_t i = 0; i < 2; i++) {
        char body[200], path[40];
        (void)snprintf(body, sizeof body,
                       "{\"prompt\":%s,\"n\":2,\"seed\":7,\"temperature\":1.5,\"max_tokens\":9}",
                       prompts[i]);
        json_t *one = post(COMPLETIONS, body);
        for (size_t k = 0; k < 2; k++) {
            (void)snprintf(path, sizeof path, "choices.%zu.text", i * 2 + k);
            assert_string_equal(text_at(batch, path),
                                text_at(one, k ? "choices.1.text" : "choices.0.text"));
            (void)snprintf(path, sizeof path, "choices.%zu.index", i * 2 + k);
            assert_int_equal(int_at(batch, path), i * 2 + k);
        }
        json_decref(one);
    }
    json_decref(batch);
    json_t *ids = post(COMPLETIONS, "{\"prompt\":[[5,6,7,8],[9,10]]," GREEDY ",\"max_tokens\":4}");
    json_t *one = post(COMPLETIONS, "{\"prompt\":[5,6,7,8]," GREEDY ",\"max_tokens\":4}");
    assert_int_equal(int_at(ids, "usage.prompt_tokens"), 6);
    assert_string_equal(text_at(ids, "choices.0.text"), text_at(one, "choices.0.text"));
    json_decref(ids);
    json_decref(one);
}

static void test_best_of(void **state)
{
    (void)state;
    const char *body = "{\"prompt\":\"The quick\",\"seed\":3,\"temperature\":1.5,\"max_tokens\":6,"
                       "\"ignore_eos\":true,\"logprobs\":0,\"n\":%d%s}";
    char all_body[200], best_body[200];
    (void)snprintf(all_body, sizeof all_body, body, 5, "");
    (void)snprintf(best_body, sizeof best_body, body, 2, ",\"best_of\":5");
    json_t *all = post(COMPLETIONS, all_body), *best = post(COMPLETIONS, best_body);
    assert_int_equal(json_array_size(at(best, "choices")), 2);
    assert_int_equal(int_at(best, "usage.completion_tokens"), 30);
    double sums[7];
    for (size_t i = 0; i < 7; i++) {
        char path[60];
        sums[i] = 0;
        (void)snprintf(path, sizeof path, "choices.%zu.logprobs.token_logprobs", i < 5 ? i : i - 5);
        const json_t *list = at(i < 5 ? all : best, path);
        for (size_t k = 0; k < json_array_size(list); k++)
            sums[i] += json_number_value(json_array_get(list, k));
    }
    for (size_t i = 0; i < 5; i++)
        assert_true(sums[5] >= sums[i] - 1e-5);
    assert_true(sums[5] >= sums[6]);
    json_decref(all);
    json_decref(best);
}

/* The prompt's tokens and their scores, as lm-eval-harness reads them. */
static void test_scoring(void **state)
{
    (void)state;
    json_t *v =
        post(COMPLETIONS, "{\"prompt\":[[72,101,108,108,111,44],[72,101]],\"echo\":true,"
                          "\"max_tokens\":1,\"logprobs\":1,\"temperature\":0,\"seed\":1234}");
    const json_t *lp = at(v, "choices.0.logprobs");
    assert_int_equal(json_array_size(at(lp, "token_logprobs")), 7);
    assert_int_equal(json_array_size(at(lp, "top_logprobs")), 7);
    assert_int_equal(json_array_size(at(lp, "tokens")), 7);
    assert_int_equal(json_array_size(at(v, "choices.1.logprobs.tokens")), 3);
    assert_true(json_is_null(at(lp, "token_logprobs.0")) && json_is_null(at(lp, "top_logprobs.0")));
    for (size_t i = 1; i < 7; i++) {
        double mine = json_number_value(json_array_get(at(lp, "token_logprobs"), i)), top = -1e30;
        const char *key;
        json_t *o;
        json_object_foreach((json_t *)json_array_get(at(lp, "top_logprobs"), i), key, o)
        {
            assert_non_null(key);
            top = fmax(top, json_number_value(o));
        }
        assert_true(mine <= 0 && mine <= top);
        assert_true(i < 6 || mine == top); /* the generated one is greedy */
    }
    json_t *only = post(COMPLETIONS, "{\"prompt\":[72,101,108,108,111,44],\"echo\":true,"
                                     "\"max_tokens\":0,\"logprobs\":1}");
    assert_int_equal(json_array_size(at(only, "choices.0.logprobs.tokens")), 6);
    assert_int_equal(int_at(only, "usage.completion_tokens"), 0);
    for (size_t i = 1; i < 6; i++)
        assert_true(json_equal(json_array_get(at(only, "choices.0.logprobs.token_logprobs"), i),
                               json_array_get(at(lp, "token_logprobs"), i)));
    json_decref(v);
    json_decref(only);
}

/* What the model says of a prompt's last token is what it says when it generates it. */
static void test_scores_agree(void **state)
{
    (void)state;
    json_t *v = post(COMPLETIONS, "{\"prompt\":\"The quick\"," GREEDY ",\"max_tokens\":8,"
                                  "\"logprobs\":2,\"return_token_ids\":true}");
    qn_str body = {0};
    qn_str_adds(&body, "{\"echo\":true,\"max_tokens\":0,\"logprobs\":2,\"prompt\":[");
    size_t n = json_array_size(at(v, "choices.0.prompt_token_ids"));
    for (size_t i = 0; i < n; i++)
        qn_str_addf(&body, "%lld,",
                    json_integer_value(json_array_get(at(v, "choices.0.prompt_token_ids"), i)));
    for (size_t i = 0; i < 8; i++)
        qn_str_addf(&body, "%s%lld", i ? "," : "",
                    json_integer_value(json_array_get(at(v, "choices.0.token_ids"), i)));
    qn_str_adds(&body, "]}");
    json_t *s = post(COMPLETIONS, body.p);
    for (size_t i = 0; i < 8; i++) {
        double a = json_number_value(json_array_get(at(v, "choices.0.logprobs.token_logprobs"), i));
        double b =
            json_number_value(json_array_get(at(s, "choices.0.logprobs.token_logprobs"), n + i));
        assert_true(fabs(a - b) < 1e-5);
        assert_true(
            json_object_size(json_array_get(at(s, "choices.0.logprobs.top_logprobs"), n + i)) == 2);
    }
    qn_str_fini(&body);
    json_decref(v);
    json_decref(s);
}

static void test_echo_stream(void **state)
{
    (void)state;
    static const int max_tokens[] = {0, 6};
    for (size_t k = 0; k < 2; k++) {
        char whole_body[300], stream_body[300];
        const char *body = "{\"prompt\":\"caf\\u00e9 au lait\",\"echo\":true,\"logprobs\":1," GREEDY
                           ",\"max_tokens\":%d,\"stream\":%s}";
        (void)snprintf(whole_body, sizeof whole_body, body, max_tokens[k], "false");
        (void)snprintf(stream_body, sizeof stream_body, body, max_tokens[k], "true");
        json_t *whole = post(COMPLETIONS, whole_body), *list = stream(COMPLETIONS, stream_body);
        qn_str text = {0};
        size_t n = 0;
        const json_t *offsets = at(whole, "choices.0.logprobs.text_offset");
        for (size_t i = 0; i < json_array_size(list); i++) {
            const json_t *c = json_array_get(list, i);
            qn_str_adds(&text, text_at(c, "choices.0.text"));
            const json_t *o = at(c, "choices.0.logprobs.text_offset");
            for (size_t j = 0; j < json_array_size(o); j++, n++)
                assert_true(json_equal(json_array_get(o, j), json_array_get(offsets, n)));
        }
        assert_string_equal(text.p, text_at(whole, "choices.0.text"));
        assert_memory_equal(text.p, "caf\xc3\xa9 au lait", 13);
        assert_int_equal(n, json_array_size(offsets));
        qn_str_fini(&text);
        json_decref(whole);
        json_decref(list);
    }
}

/* ---- embeddings ---- */

static double length_of(const json_t *v)
{
    double sum = 0;
    for (size_t i = 0; i < json_array_size(v); i++)
        sum += pow(json_number_value(json_array_get(v, i)), 2);
    return sqrt(sum);
}

static void test_embeddings(void **state)
{
    (void)state;
    qn_engine_info info;
    qn_engine_get_info(engine, &info);
    json_t *v = post("/v1/embeddings", "{\"input\":[\"one text\",\"another text\"]}");
    assert_string_equal(text_at(v, "object"), "list");
    assert_string_equal(text_at(v, "model"), "tiny");
    assert_int_equal(json_array_size(at(v, "data")), 2);
    assert_int_equal(json_array_size(at(v, "data.0.embedding")), info.hidden_size);
    assert_true(fabs(length_of(at(v, "data.1.embedding")) - 1) < 1e-5);
    assert_int_equal(int_at(v, "usage.prompt_tokens"), int_at(v, "usage.total_tokens"));
    json_t *one = post("/v1/embeddings", "{\"input\":\"another text\",\"dimensions\":8}");
    assert_int_equal(json_array_size(at(one, "data.0.embedding")), 8);
    assert_true(fabs(length_of(at(one, "data.0.embedding")) - 1) < 1e-5);
    double ratio = json_number_value(at(one, "data.0.embedding.0")) /
                   json_number_value(at(v, "data.1.embedding.0"));
    for (size_t i = 0; i < 8; i++)
        assert_true(fabs(json_number_value(json_array_get(at(one, "data.0.embedding"), i)) -
                         ratio * json_number_value(json_array_get(at(v, "data.1.embedding"), i))) <
                    1e-5);
    json_decref(one);
    json_decref(v);
    v = post("/v1/embeddings",
             "{\"input\":[1,2,3],\"encoding_format\":\"base64\",\"dimensions\":2}");
    assert_int_equal(strlen(text_at(v, "data.0.embedding")), 12); /* 8 bytes */
    assert_int_equal(int_at(v, "usage.prompt_tokens"), 3);
    json_decref(v);
}

/* Nothing more is computed for a client that has gone. */
static void test_gone(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"/v1/embeddings", "{\"input\":[\"a\",\"b\"]}"},
        {COMPLETIONS, "{\"prompt\":\"a b c\",\"echo\":true,\"logprobs\":1,\"max_tokens\":0}"},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        qn_exchange x = {
            .path = cases[i][0], .body = cases[i][1], .engine = engine, .is_gone = true};
        qn_arena_init(&x.arena, 0, QN_MEM_REQUEST);
        find_route(qn_openai_routes, x.path)->handle(&x);
        assert_int_equal(x.status, 500);
        assert_string_equal(x.out.p, "the client has gone");
        close_exchange(&x);
    }
}

/* ---- models, tokens ---- */

static void test_models(void **state)
{
    (void)state;
    qn_exchange x;
    call(&x, qn_openai_routes, "/v1/models", engine, NULL);
    json_t *v = parse(x.out.p, x.out.n);
    assert_string_equal(text_at(v, "object"), "list");
    assert_string_equal(text_at(v, "data.0.id"), "tiny");
    assert_string_equal(text_at(v, "data.0.object"), "model");
    assert_int_equal(int_at(v, "data.0.max_model_len"), 256);
    json_decref(v);
    close_exchange(&x);
    static const char *const names[] = {"tiny", "alias", "none"};
    for (size_t i = 0; i < 3; i++) {
        x = (qn_exchange){.path = "/v1/models/x", .rest = names[i], .engine = engine};
        qn_arena_init(&x.arena, 0, QN_MEM_REQUEST);
        qn_openai_model(&x);
        assert_int_equal(x.status, i < 2 ? 200 : 404);
        close_exchange(&x);
    }
}

static void test_tokens(void **state)
{
    (void)state;
    json_t *v = post("/tokenize", "{\"prompt\":\"Hello <|im_end|>\",\"return_token_strs\":true}");
    size_t n = (size_t)int_at(v, "count");
    assert_int_equal(json_array_size(at(v, "tokens")), n);
    assert_string_equal(json_string_value(json_array_get(at(v, "token_strs"), n - 1)),
                        "<|im_end|>");
    qn_str body = {0};
    qn_str_adds(&body, "{\"tokens\":");
    qn_json_write(&body, at(v, "tokens"));
    qn_str_adds(&body, "}");
    json_t *back = post("/detokenize", body.p);
    assert_string_equal(text_at(back, "prompt"), "Hello <|im_end|>");
    assert_string_equal(text_at(back, "content"), "Hello <|im_end|>");
    json_decref(back);
    json_decref(v);
    v = post("/tokenize", "{\"content\":\"Hi\",\"with_pieces\":true}");
    assert_true(json_is_string(at(v, "tokens.0.piece")) && json_is_integer(at(v, "tokens.0.id")));
    json_decref(v);
    v = post("/tokenize", "{\"prompt\":\"\"}");
    assert_int_equal(int_at(v, "count"), 0);
    json_decref(v);
    v = post("/tokenize", "{\"prompt\":\"a\\u0000b\"}");
    assert_true(int_at(v, "count") >= 3);
    json_decref(v);
    qn_str_fini(&body);
    qn_exchange x;
    call(&x, qn_tokens_routes, "/tokenizer_info", engine, NULL);
    v = parse(x.out.p, x.out.n);
    assert_string_equal(text_at(v, "eos_token"), "<|im_end|>");
    assert_non_null(strstr(text_at(v, "chat_template"), "add_generation_prompt"));
    json_decref(v);
    close_exchange(&x);
}

/* ---- errors ---- */

static void test_errors(void **state)
{
    (void)state;
    static const struct {
        const char *path, *body;
        int status;
        const char *param, *code;
    } cases[] = {
        {CHAT, "{", 400, "", ""},
        {CHAT, "{\"model\":\"none\"," HELLO "}", 404, "model", "model_not_found"},
        {CHAT, "{\"model\":3," HELLO "}", 400, "model", ""},
        {CHAT, "{}", 400, "messages", ""},
        {CHAT, "{\"messages\":[]}", 400, "messages", ""},
        {CHAT, "{\"messages\":\"hi\"}", 400, "messages", ""},
        {CHAT, "{\"messages\":[\"hi\"]}", 400, "messages[0]", ""},
        {CHAT, "{\"messages\":[{\"content\":\"hi\"}]}", 400, "messages[0].role", ""},
        {CHAT, "{\"messages\":[{\"role\":\"wizard\",\"content\":\"hi\"}]}", 400, "messages[0].role",
         ""},
        {CHAT, "{\"messages\":[{\"role\":\"user\"}]}", 400, "messages[0].content", ""},
        {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":null}]}", 400, "messages[0].content",
         ""},
        {CHAT,
         "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{"
         "\"url\":\"x\"}}]}]}",
         400, "messages[0].content", ""},
        {CHAT, "{" HELLO ",\"temperature\":-1}", 400, "temperature", ""},
        {CHAT, "{" HELLO ",\"temperature\":2.5}", 400, "temperature", ""},
        {CHAT, "{" HELLO ",\"temperature\":\"hot\"}", 400, "temperature", ""},
        {CHAT, "{" HELLO ",\"max_tokens\":0}", 400, "max_tokens", ""},
        {CHAT, "{" HELLO ",\"max_tokens\":-1}", 400, "max_tokens", ""},
        {CHAT, "{" HELLO ",\"max_completion_tokens\":1.5}", 400, "max_completion_tokens", ""},
        {CHAT, "{" HELLO ",\"max_tokens\":1000}", 400, "messages", "context_length_exceeded"},
        {CHAT, "{" HELLO ",\"n\":17}", 400, "n", ""},
        {CHAT, "{" HELLO ",\"stop\":[\"a\",1]}", 400, "stop", ""},
        {CHAT, "{" HELLO ",\"stop\":\"\"}", 400, "stop", ""},
        {CHAT, "{" HELLO ",\"logit_bias\":{\"x\":1}}", 400, "logit_bias", ""},
        {CHAT, "{" HELLO ",\"logit_bias\":{\"1\":101}}", 400, "logit_bias", ""},
        {CHAT, "{" HELLO ",\"top_logprobs\":2}", 400, "top_logprobs", ""},
        {CHAT, "{" HELLO ",\"logprobs\":true,\"top_logprobs\":21}", 400, "top_logprobs", ""},
        {CHAT, "{" HELLO ",\"priority\":\"nobody\"}", 400, "priority", ""},
        {CHAT, "{" HELLO ",\"priority\":99}", 400, "priority", ""},
        {CHAT, "{" HELLO ",\"stream\":\"yes\"}", 400, "stream", ""},
        {CHAT, "{" HELLO ",\"stream_options\":{\"include_usage\":1}}", 400, "stream_options", ""},
        {CHAT, "{" HELLO ",\"tool_choice\":\"required\"}", 400, "tool_choice", ""},
        {CHAT, "{" HELLO ",\"tool_choice\":{\"type\":\"function\"}}", 400, "tool_choice", ""},
        {CHAT, "{" HELLO ",\"tools\":[{}]}", 400, "tools", ""},
        {CHAT, "{" HELLO ",\"response_format\":{\"type\":\"structural_tag\"}}", 400,
         "response_format", ""},
        {CHAT, "{" HELLO ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{}}}", 400,
         "response_format", ""},
        {CHAT, "{" HELLO ",\"response_format\":7}", 400, "response_format", ""},
        {CHAT, "{" HELLO ",\"guided_json\":7}", 400, "guided_json", ""},
        {CHAT, "{" HELLO ",\"structured_outputs\":{\"choice\":\"a\"}}", 400, "structured_outputs",
         ""},
        {CHAT, "{" HELLO ",\"grammar\":\"root ::= x\"}", 400, "grammar", ""},
        {CHAT, "{" HELLO ",\"chat_template_kwargs\":{\"tokenize\":true}}", 400,
         "chat_template_kwargs", ""},
        {CHAT, "{" HELLO ",\"chat_template_kwargs\":{\"messages\":[]}}", 400,
         "chat_template_kwargs", ""},
        {CHAT, "{" HELLO ",\"chat_template\":\"x\"}", 400, "chat_template", ""},
        {CHAT, "{" HELLO ",\"continue_final_message\":true}", 400, "continue_final_message", ""},
        {COMPLETIONS, "{}", 400, "prompt", ""},
        {COMPLETIONS, "{\"prompt\":\"\"}", 400, "prompt", ""},
        {COMPLETIONS, "{\"prompt\":[]}", 400, "prompt", ""},
        {COMPLETIONS, "{\"prompt\":[[]]}", 400, "prompt", ""},
        {COMPLETIONS, "{\"prompt\":[1,\"a\"]}", 400, "prompt", ""},
        {COMPLETIONS, "{\"prompt\":[\"a\",1]}", 400, "prompt", ""},
        {COMPLETIONS, "{\"prompt\":[-1]}", 400, "prompt", ""},
        {COMPLETIONS, "{\"prompt\":[99999999]}", 400, "prompt", ""},
        {COMPLETIONS, "{\"prompt\":[99999999],\"echo\":true}", 400, "prompt", ""},
        {COMPLETIONS, "{\"prompt\":{}}", 400, "prompt", ""},
        {COMPLETIONS, "{\"prompt\":\"a\",\"logprobs\":21}", 400, "logprobs", ""},
        {COMPLETIONS, "{\"prompt\":\"a\",\"logprobs\":true}", 400, "logprobs", ""},
        {COMPLETIONS, "{\"prompt\":\"a\",\"n\":3,\"best_of\":2}", 400, "best_of", ""},
        {COMPLETIONS, "{\"prompt\":\"a\",\"best_of\":2,\"stream\":true}", 400, "best_of", ""},
        {COMPLETIONS, "{\"prompt\":\"a\",\"max_tokens\":0}", 400, "max_tokens", ""},
        {COMPLETIONS, "{\"prompt\":\"a\",\"max_tokens\":300}", 400, "prompt",
         "context_length_exceeded"},
        {COMPLETIONS, "{\"prompt\":[\"a\"],\"suffix\":\"b\"}", 400, "suffix", ""},
        {"/v1/embeddings", "{}", 400, "input", ""},
        {"/v1/embeddings", "{\"input\":\"\"}", 400, "input", ""},
        {"/v1/embeddings", "{\"input\":[]}", 400, "input", ""},
        {"/v1/embeddings", "{\"input\":[true]}", 400, "input", ""},
        {"/v1/embeddings", "{\"input\":\"a\",\"dimensions\":100000}", 400, "dimensions", ""},
        {"/v1/embeddings", "{\"input\":\"a\",\"encoding_format\":\"int8\"}", 400, "encoding_format",
         ""},
        {"/tokenize", "{}", 400, "prompt", ""},
        {"/tokenize", "{\"prompt\":3}", 400, "prompt", ""},
        {"/detokenize", "{}", 400, "tokens", ""},
        {"/detokenize", "{\"tokens\":[99999999]}", 400, "tokens", ""},
        {"/detokenize", "{\"tokens\":[\"a\"]}", 400, "tokens", ""},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++)
        expect_error(cases[i].path, cases[i].body, cases[i].status, cases[i].param, cases[i].code);
}

static void test_too_long(void **state)
{
    (void)state;
    qn_str body = {0}, ids = {0};
    for (size_t i = 0; i < 300; i++)
        qn_str_addf(&ids, "%s%zu", i ? "," : "", 10 + i % 50);
    qn_str_addf(&body, "{\"prompt\":[%s],\"echo\":true,\"logprobs\":1,\"max_tokens\":0}", ids.p);
    expect_error(COMPLETIONS, body.p, 400, "prompt", "context_length_exceeded");
    qn_exchange x;
    call(&x, qn_openai_routes, COMPLETIONS, engine, body.p);
    assert_non_null(strstr(x.out.p, "256"));
    assert_non_null(strstr(x.out.p, "300"));
    close_exchange(&x);
    qn_str_clear(&body);
    qn_str_addf(&body, "{\"input\":[%s]}", ids.p);
    expect_error("/v1/embeddings", body.p, 400, "input", "context_length_exceeded");
    qn_str_fini(&body);
    qn_str_fini(&ids);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chat),          cmocka_unit_test(test_messages),
        cmocka_unit_test(test_chat_json),     cmocka_unit_test(test_special_text),
        cmocka_unit_test(test_chat_stream),   cmocka_unit_test(test_stream_usage),
        cmocka_unit_test(test_chat_logprobs), cmocka_unit_test(test_stops),
        cmocka_unit_test(test_completion),    cmocka_unit_test(test_batch),
        cmocka_unit_test(test_best_of),       cmocka_unit_test(test_scoring),
        cmocka_unit_test(test_scores_agree),  cmocka_unit_test(test_echo_stream),
        cmocka_unit_test(test_embeddings),    cmocka_unit_test(test_gone),
        cmocka_unit_test(test_models),        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_errors),        cmocka_unit_test(test_too_long),
    };
    return cmocka_run_group_tests(tests, open_once, close_once);
}
