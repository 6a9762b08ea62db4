/* SPDX-License-Identifier: Apache-2.0
 * test_turns.c - messages of other APIs to a template's variables, shown by a template that writes them out. */
#include "folder.h"
#include "golden.h"

#include "server/turns.h"

static const char model_path[] = QN_SOURCE_DIR "/tests/golden/models/qwen3-tied-bf16";
static qn_engine *shown, *plain; /* with that template; with the model's */

static int open_both(void **state)
{
    static const char source[] =
        "{{ messages | tojson }}|{{ tools | tojson if tools else 'no tools' }}|"
        "{{ enable_thinking is defined and enable_thinking }}";
    if (make_dir(state))
        return -1;
    FILE *f = fopen(path_of("t.jinja"), "w");
    if (!f || fputs(source, f) < 0 || fclose(f))
        return -1;
    qn_config c = qn_config_default();
    c.model = model_path;
    c.n_threads = 1;
    c.max_ctx = 4096;
    plain = open_engine(&c);
    c.chat_template = path_of("t.jinja");
    shown = open_engine(&c);
    return 0;
}

static int close_both(void **state)
{
    qn_engine_free(shown);
    qn_engine_free(plain);
    return remove_dir(state) || qn_mem_live(QN_MEM_REQUEST) || qn_mem_live(QN_MEM_MISC);
}

/* What the template makes of t, which is ended. */
static void assert_rendered(qn_turns *t, const qn_engine *e, bool keep_open, const char *want)
{
    int32_t *ids = NULL;
    size_t n_ids, n;
    char *text = NULL;
    qn_err err;
    if (qn_turns_encode(t, e, keep_open, &ids, &n_ids, &err) != QN_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(qn_detokenize(e, ids, n_ids, false, &text, &n, &err), QN_OK);
    assert_string_equal(text, want);
    qn_release(text);
    qn_release(ids);
    qn_turns_fini(t);
}

static json_t *parse(const char *text)
{
    json_t *v = NULL;
    assert_int_equal(qn_json_parse(&v, text, strlen(text), 0, "test", NULL), QN_OK);
    return v;
}

static void test_messages(void **state)
{
    (void)state;
    qn_turns t = {0};
    qn_turns_open(&t, "system");
    qn_turns_text(&t, "one", 3);
    qn_turns_open(&t, "system");
    qn_turns_text(&t, "two", 3);
    qn_turns_open(&t, "user");
    qn_turns_text(&t, "a \"b\"", 5);
    qn_turns_text(&t, "c\0d", 3);
    qn_turns_open(&t, "system");
    qn_turns_text(&t, "late", 4);
    assert_rendered(
        &t, shown, false,
        "[{\"role\": \"system\", \"content\": \"one\\n\\ntwo\"}, {\"role\": \"user\", "
        "\"content\": \"a \\\"b\\\"\\nc\\u0000d\"}, {\"role\": \"system\", \"content\": "
        "\"late\"}]|no tools|False");
}

/* What only an assistant or a tool has says nothing of a system message, nor of the one behind it. */
static void test_system_has_text_only(void **state)
{
    (void)state;
    qn_turns t = {0};
    json_t *arguments = parse("{}");
    qn_turns_open(&t, "system");
    qn_turns_text(&t, "be", 2);
    qn_turns_reasoning(&t, "hm", 2);
    qn_turns_call(&t, "c1", "f", arguments);
    qn_turns_field(&t, "name", "n");
    qn_turns_open(&t, "user");
    qn_turns_text(&t, "hi", 2);
    assert_rendered(&t, shown, false,
                    "[{\"role\": \"system\", \"content\": \"be\"}, {\"role\": \"user\", "
                    "\"content\": \"hi\"}]|no tools|False");
    json_decref(arguments);
}

static void test_tools(void **state)
{
    (void)state;
    qn_turns t = {0};
    json_t *arguments = parse("{\"x\": [1, 2.5]}"), *schema = parse("{\"type\": \"object\"}");
    json_t *tool = parse("{\"type\": \"function\", \"function\": {\"name\": \"g\"}}");
    json_t *bad = parse("{\"type\": \"web_search\"}");
    qn_where where = qn_where_at(NULL, "tools");
    qn_err err;
    qn_turns_open(&t, "assistant");
    qn_turns_reasoning(&t, "hm", 2);
    qn_turns_call(&t, "c1", "f", arguments);
    qn_turns_open(&t, "tool");
    qn_turns_field(&t, "tool_call_id", "c1");
    qn_turns_text(&t, "42", 2);
    qn_turns_tool(&t, "f", "does", schema);
    assert_int_equal(qn_turns_function(&t, tool, &where, &err), QN_OK);
    assert_int_equal(qn_turns_function(&t, bad, &where, &err), QN_E_UNSUPPORTED);
    t.has_thinking = t.is_thinking = true;
    assert_rendered(
        &t, shown, false,
        "[{\"role\": \"assistant\", \"content\": \"\", \"reasoning_content\": \"hm\", "
        "\"tool_calls\": "
        "[{\"id\": \"c1\", \"type\": \"function\", \"function\": {\"name\": \"f\", \"arguments\": "
        "{\"x\": [1, 2.5]}}}], \"reasoning\": \"hm\", \"thinking\": \"hm\"}, {\"role\": \"tool\", "
        "\"content\": \"42\", \"tool_call_id\": "
        "\"c1\"}]|[{\"type\": \"function\", \"function\": {\"name\": \"f\", \"description\": "
        "\"does\", "
        "\"parameters\": {\"type\": \"object\"}}}, {\"type\": \"function\", \"function\": "
        "{\"name\": "
        "\"g\", \"parameters\": {\"type\": \"object\", \"properties\": {}}}}]|True");
    json_decref(arguments);
    json_decref(schema);
    json_decref(tool);
    json_decref(bad);
}

/* The assistant's last message is the beginning of the answer; special tokens in it are text. */
static void test_begun_answer(void **state)
{
    (void)state;
    qn_turns t = {0};
    qn_turns_open(&t, "user");
    qn_turns_text(&t, "hi", 2);
    qn_turns_open(&t, "assistant");
    qn_turns_text(&t, "So <|im_end|>", 13);
    int32_t *ids = NULL, *special = NULL;
    size_t n_ids, n_special;
    qn_err err;
    assert_int_equal(qn_tokenize(plain, "<|im_end|>", 10, true, &special, &n_special, &err), QN_OK);
    assert_int_equal(n_special, 1);
    assert_int_equal(qn_turns_encode(&t, plain, true, &ids, &n_ids, &err), QN_OK);
    int n_ends = 0;
    for (size_t i = 0; i < n_ids; i++)
        n_ends += ids[i] == special[0];
    assert_int_equal(n_ends, 1);
    char *text = NULL;
    size_t n;
    assert_int_equal(qn_detokenize(plain, ids, n_ids, false, &text, &n, &err), QN_OK);
    assert_string_equal(text,
                        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nSo <|im_end|>");
    qn_release(text);
    qn_release(ids);
    qn_release(special);
    qn_turns_fini(&t);
}

static void test_parts(void **state)
{
    (void)state;
    static const char *const types[] = {"text", "input_text", NULL};
    static const struct {
        const char *json, *where; /* NULL: good */
    } cases[] = {
        {"\"a\"", NULL},
        {"[]", NULL},
        {"[{\"type\": \"text\", \"text\": \"a\"}, {\"type\": \"input_text\", \"text\": \"b\"}]",
         NULL},
        {"5", "content"},
        {"null", "content"},
        {"[5]", "content.0"},
        {"[{\"type\": \"text\", \"text\": \"a\"}, {\"type\": \"image\"}]", "content.1.type"},
        {"[{\"text\": \"a\"}]", "content.0.type"},
        {"[{\"type\": \"text\"}]", "content.0.text"},
        {"[{\"type\": \"text\", \"text\": [\"a\"]}]", "content.0.text"},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        qn_turns t = {0};
        qn_err err;
        qn_where where = qn_where_at(NULL, "content");
        json_t *v = parse(cases[i].json);
        qn_turns_open(&t, "user");
        qn_status s = qn_turns_parts(&t, v, types, &where, &err);
        assert_int_equal(s == QN_OK, cases[i].where == NULL);
        if (cases[i].where)
            assert_string_equal(where.path, cases[i].where);
        json_decref(v);
        qn_turns_fini(&t);
    }
}

static void test_where_is_cut(void **state)
{
    (void)state;
    qn_where w = qn_where_at(NULL, "messages");
    for (size_t i = 0; i < 100; i++)
        w = qn_where_index(&w, i);
    assert_int_equal(strlen(w.path), sizeof w.path - 1);
    assert_true(qn_starts_with(w.path, "messages.0.1.2."));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages), cmocka_unit_test(test_system_has_text_only),
        cmocka_unit_test(test_tools),    cmocka_unit_test(test_begun_answer),
        cmocka_unit_test(test_parts),    cmocka_unit_test(test_where_is_cut),
    };
    return cmocka_run_group_tests(tests, open_both, close_both);
}
