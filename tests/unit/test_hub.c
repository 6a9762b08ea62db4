/* SPDX-License-Identifier: Apache-2.0
 * test_hub.c - specs, environment and the cache without a hub. tests/e2e/test_hub.py has the
 * hub. */
#include "check.h"

#include "base/file.h"
#include "format/hub.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COMMIT "0123456789abcdef0123456789abcdef01234567"

static void test_specs(void **state)
{
    (void)state;
    const char *good[] = {"a/b", "Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M", "a/b@main",
                          "a/b@refs/pr/1:x/y.gguf", "a_1/b-2.c:1/2/3/4/5/6/7/8"};
    const char *bad[] = {"",
                         "a",
                         "a/",
                         "/b",
                         "a/b/c",
                         "./b",
                         "a/..",
                         "a/b:",
                         "a/b@",
                         "a/b@:x",
                         "a/b:.x",
                         "a/b:x/../y",
                         "a/b:/x",
                         "a b/c",
                         "a/b:x:y",
                         "a/b@x@y",
                         "a/b:x//y",
                         "a/b:x/",
                         "a/b\n",
                         "a/b:\xc3\xa4",
                         "a/b%2e",
                         "~/b",
                         "a/b:1/2/3/4/5/6/7/8/9"};
    for (size_t i = 0; i < QN_COUNT(good); i++)
        if (!qn_hub_is_spec(good[i]))
            fail_msg("%s is a spec", good[i]);
    for (size_t i = 0; i < QN_COUNT(bad); i++)
        if (qn_hub_is_spec(bad[i]))
            fail_msg("%s is not a spec", bad[i]);
    char longest[260] = "a/";
    memset(longest + 2, 'b', 128);
    assert_true(qn_hub_is_spec(longest));
    longest[130] = 'b';
    assert_false(qn_hub_is_spec(longest));
}

static void test_environment(void **state)
{
    (void)state;
    const char *names[] = {"HF_ENDPOINT",  "HF_TOKEN", "HF_HUB_OFFLINE",
                           "HF_HUB_CACHE", "HF_HOME",  "XDG_CACHE_HOME",
                           "HOME"};
    const struct {
        const char *set[7]; /* in the order of names */
        const char *endpoint, *token, *cache;
        bool offline;
    } rows[] = {
        {{0, 0, 0, 0, 0, 0, "/h"},
         "https://huggingface.co",
         NULL,
         "/h/.cache/huggingface/hub",
         false},
        {{"", "", "", "", "", "/x", "/h"},
         "https://huggingface.co",
         NULL,
         "/x/huggingface/hub",
         false},
        {{"http://m/", "t", "1", 0, "/f", "/x", "/h"}, "http://m", "t", "/f/hub", true},
        {{"http://m//", 0, "0", "/c", "/f", "/x", "/h"}, "http://m", NULL, "/c", false},
        {{0, 0, "TRUE", "/c", 0, 0, 0}, "https://huggingface.co", NULL, "/c", true},
        {{0}, NULL, NULL, NULL, false},
    };
    for (size_t i = 0; i < QN_COUNT(rows); i++) {
        for (size_t j = 0; j < QN_COUNT(names); j++)
            assert_int_equal(
                rows[i].set[j] ? setenv(names[j], rows[i].set[j], 1) : unsetenv(names[j]), 0);
        qn_hub_config c;
        qn_str text = {0};
        qn_err err = {0};
        qn_status s = qn_hub_config_from_env(&c, &text, &err);
        if (!rows[i].endpoint) {
            assert_int_equal(s, QN_E_NOT_FOUND);
        } else {
            assert_int_equal(s, QN_OK);
            assert_string_equal(c.endpoint, rows[i].endpoint);
            assert_string_equal(c.cache, rows[i].cache);
            assert_int_equal(c.offline, rows[i].offline);
            assert_int_equal(c.token != NULL, rows[i].token != NULL);
            if (c.token)
                assert_string_equal(c.token, rows[i].token);
        }
        qn_str_fini(&text);
    }
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st, (void)kind, (void)at;
    return remove(path);
}

static void put(const char *cache, const char *name, const char *text)
{
    char path[512];
    qn_err err = {0};
    (void)snprintf(path, sizeof(path), "%s/models--a--b/%s", cache, name);
    *strrchr(path, '/') = 0;
    assert_int_equal(qn_mkdirs(path, &err), QN_OK);
    path[strlen(path)] = '/';
    assert_int_equal(qn_file_write(path, text, strlen(text), &err), QN_OK);
}

#define SNAPSHOT "snapshots/" COMMIT "/"

/* What is complete is found, by the choice that a hub's listing would get; anything less is an
 * error. */
static void test_cache(void **state)
{
    (void)state;
    char cache[] = "/tmp/quern-hub-XXXXXX";
    assert_non_null(mkdtemp(cache));
    put(cache, "refs/main", COMMIT "\n");
    put(cache, "refs/odd", "../../etc");
    put(cache, SNAPSHOT "config.json", "{}");
    put(cache, SNAPSHOT "model-00001-of-00002.safetensors", "x");
    put(cache, SNAPSHOT "model-00002-of-00002.safetensors", "x");
    put(cache, SNAPSHOT "q/m-Q4_K_M.gguf", "x");
    put(cache, SNAPSHOT "q/m-Q4_K_S.gguf", "x");
    put(cache, SNAPSHOT "m-Q8_0-00001-of-00002.gguf", "x");
    put(cache, SNAPSHOT ".hidden-Q2_K.gguf", "x");
    char dangling[512];
    (void)snprintf(dangling, sizeof(dangling), "%s/models--a--b/" SNAPSHOT "m-Q6_K.gguf", cache);
    assert_int_equal(symlink("../../blobs/gone", dangling), 0);
    const struct {
        const char *spec, *want; /* NULL: not complete */
    } rows[] = {
        {"a/b", ""},
        {"a/b@main", ""},
        {"a/b@" COMMIT, ""},
        {"a/b:config.json", "/config.json"},
        {"a/b:q4_k_m", "/q/m-Q4_K_M.gguf"},
        {"a/b:q/m-Q4_K_S.gguf", "/q/m-Q4_K_S.gguf"},
        {"a/b:Q4_K", NULL},
        {"a/b:Q8_0", NULL},
        {"a/b:Q6_K", NULL},
        {"a/b:m-Q6_K.gguf", NULL},
        {"a/b:Q2_K", NULL},
        {"a/b@odd", NULL},
        {"a/b@other", NULL},
        {"a/c", NULL},
    };
    const qn_hub_config cfg = {.endpoint = "http://127.0.0.1:1", .cache = cache, .offline = true};
    for (size_t i = 0; i < QN_COUNT(rows); i++) {
        qn_str out = {0};
        qn_err err = {0};
        char want[512];
        qn_status s = qn_hub_pull(&cfg, rows[i].spec, NULL, NULL, &out, &err);
        (void)snprintf(want, sizeof(want), "%s/models--a--b/snapshots/" COMMIT "%s", cache,
                       rows[i].want ? rows[i].want : "");
        if (rows[i].want && s != QN_OK)
            fail_msg("%s: %s", rows[i].spec, err.msg);
        if (rows[i].want)
            assert_string_equal(out.p, want);
        else
            assert_int_equal(s, QN_E_NOT_FOUND);
        qn_str_fini(&out);
    }
    assert_int_equal(nftw(cache, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_specs),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_cache),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
