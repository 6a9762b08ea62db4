/* SPDX-License-Identifier: Apache-2.0
 * test_opts.c - the option parser, help and completions. */
#include "base/opts.h"

#include <string.h>

#include "check.h"

typedef struct inner {
    float t;
    unsigned mask;
} inner;

typedef struct options {
    bool flag, other;
    int n, word;
    uint64_t seed, size;
    const char *name;
    qn_opt_list list;
    qn_opt_ints ints;
    inner in;
} options;

static const qn_opt own[] = {
    {"flag", 'f', QN_OPT_FLAG, offsetof(options, flag), .help = "a flag"},
    {"other", 'o', QN_OPT_FLAG, offsetof(options, other), .help = "it's [another]"},
    {"count", 'n', QN_OPT_INT, offsetof(options, n), "N", -5, 10, "3", "a count"},
    {"word", 0, QN_OPT_ENUM, offsetof(options, word), "auto|always|never", .help = "a word"},
    {"seed", 0, QN_OPT_U64, offsetof(options, seed), "N", .help = "a seed"},
    {"size", 0, QN_OPT_SIZE, offsetof(options, size), "BYTES", .help = "a size"},
    {"name", 'm', QN_OPT_STR, offsetof(options, name), "FILE", .help = "a name"},
    {"item", 'i', QN_OPT_LIST, offsetof(options, list), "TEXT", .help = "an item"},
    {"sizes", 0, QN_OPT_INTS, offsetof(options, ints), "N,...", 0, 99, "1", "sizes"},
};
static const qn_opt shared[] = {
    {"temperature", 0, QN_OPT_FLOAT, offsetof(inner, t), "T", 0, 2, "1", "a float"},
    {"mask", 0, QN_OPT_UINT, offsetof(inner, mask), "MASK", .help = "bits"},
};
static const qn_opt_group own_group = {"Own", own, QN_COUNT(own)};
static const qn_opt_group shared_group = {"Shared", shared, QN_COUNT(shared)};
static const qn_opts table = {
    .command = "test",
    .args = "[A [B]]",
    .summary = "Test it",
    .max_args = 2,
    .groups = {{&own_group, 0}, {&shared_group, offsetof(options, in)}},
};

static qn_status parse(options *o, qn_opts_found *found, qn_err *err, const char *const *words,
                       int n)
{
    char *argv[20] = {(char *)"test"};
    for (int i = 0; i < n; i++)
        argv[i + 1] = (char *)words[i];
    return qn_opts_parse(&table, o, n + 1, argv, found, err);
}

#define PARSE(o, ...)                                                                              \
    parse(o, &found, &err, (const char *const[]){__VA_ARGS__},                                     \
          (int)QN_COUNT(((const char *const[]){__VA_ARGS__})))

static void done(options *o, qn_opts_found *found)
{
    qn_opt_list_fini(&o->list);
    qn_opts_found_fini(found);
}

static void test_kinds(void **state)
{
    (void)state;
    options o = {.n = 3};
    qn_opts_found found;
    qn_err err;

    assert_int_equal(PARSE(&o, "--count=-4", "--word", "never", "--seed", "0x10", "--size=2K",
                           "-mfile", "--item=a", "-i", "b", "--temperature", "0.5",
                           "--mask=0xffffffff"),
                     QN_OK);
    assert_int_equal(o.n, -4);
    assert_int_equal(o.word, 2);
    assert_int_equal(o.seed, 16);
    assert_int_equal(o.size, 2048);
    assert_string_equal(o.name, "file");
    assert_int_equal(o.list.n, 2);
    assert_string_equal(o.list.items[0], "a");
    assert_string_equal(o.list.items[1], "b");
    assert_float_equal(o.in.t, 0.5f, 0);
    assert_int_equal(o.in.mask, 0xffffffffu);
    assert_false(o.flag);
    assert_int_equal(found.n_args, 0);
    assert_int_equal(found.given[1], 3);
    assert_int_equal(found.given[0], 0xfc); /* all but the two flags */
    done(&o, &found);
}

static void test_ints(void **state)
{
    (void)state;
    options o = {.ints = {{7, 8}, 2}};
    qn_opts_found found;
    qn_err err;

    assert_int_equal(PARSE(&o, "--sizes", "1,0,99"), QN_OK);
    assert_int_equal(o.ints.n, 3);
    assert_int_equal(o.ints.items[0], 1);
    assert_int_equal(o.ints.items[1], 0);
    assert_int_equal(o.ints.items[2], 99);
    done(&o, &found);
    const char *const bad[] = {"",     "1,",  ",1", "1,,2",
                               "1 ,2", "100", "-1", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17",
                               "x"};
    for (size_t i = 0; i < QN_COUNT(bad); i++) {
        assert_int_equal(PARSE(&o, "--sizes", bad[i]), QN_E_ARG);
        assert_non_null(strstr(err.msg, "up to 16 whole numbers from 0 to 99, with commas"));
        assert_int_equal(o.ints.n, 3); /* untouched */
        done(&o, &found);
    }
}

static void test_short_and_operands(void **state)
{
    (void)state;
    options o = {0};
    qn_opts_found found;
    qn_err err;

    assert_int_equal(PARSE(&o, "x", "-fon7", "-m", "-", "--", "-y"), QN_OK);
    assert_true(o.flag && o.other);
    assert_int_equal(o.n, 7);
    assert_string_equal(o.name, "-");
    assert_int_equal(found.n_args, 2);
    assert_string_equal(found.args[0], "x");
    assert_string_equal(found.args[1], "-y");
    done(&o, &found);
    o = (options){0};
    assert_int_equal(PARSE(&o, "-", ""), QN_OK); /* a lone dash and nothing are operands */
    assert_int_equal(found.n_args, 2);
    done(&o, &found);
}

static void test_help(void **state)
{
    (void)state;
    options o = {0};
    qn_opts_found found;
    qn_str text = {0};
    qn_err err;

    assert_int_equal(PARSE(&o, "--help", "--nonsense"), QN_OK);
    assert_true(found.help);
    done(&o, &found);
    assert_int_equal(PARSE(&o, "-fh"), QN_OK);
    assert_true(found.help);
    done(&o, &found);
    qn_opts_help(&text, &table);
    assert_false(text.failed);
    assert_non_null(strstr(text.p, "usage: quern test [OPTION...] [A [B]]\n"));
    assert_non_null(strstr(text.p, "  -n, --count N             a count [3]\n"));
    assert_non_null(strstr(text.p, "\nShared\n"));
    qn_str_fini(&text);
}

static void expect(const char *message, const char *const *words, int n)
{
    options o = {0};
    qn_opts_found found;
    qn_err err;

    assert_int_equal(parse(&o, &found, &err, words, n), QN_E_ARG);
    assert_string_equal(err.msg, message);
    done(&o, &found);
}
#define EXPECT(message, ...)                                                                       \
    expect(message, (const char *const[]){__VA_ARGS__},                                            \
           (int)QN_COUNT(((const char *const[]){__VA_ARGS__})))

static void test_errors(void **state)
{
    (void)state;
    EXPECT("--count: found 'x', wanted a whole number from -5 to 10", "--count=x");
    EXPECT("--count: found '11', wanted a whole number from -5 to 10", "-n", "11");
    EXPECT("--count: found '-6', wanted a whole number from -5 to 10", "-n-6");
    EXPECT("--count: found '', wanted a whole number from -5 to 10", "--count=");
    EXPECT("--count: found nothing after it, wanted a whole number from -5 to 10", "--count");
    EXPECT("--word: found 'alwa', wanted one of auto|always|never", "--word=alwa");
    EXPECT("--seed: found '-1', wanted a whole number, 0 or more", "--seed", "-1");
    EXPECT("--seed: found '0x', wanted a whole number, 0 or more", "--seed", "0x");
    EXPECT("--seed: found '0x12345678123456781', wanted a whole number, 0 or more",
           "--seed=0x12345678123456781");
    EXPECT("--size: found '1Q', wanted a number of bytes (512, 64K, 16M, 4G)", "--size", "1Q");
    EXPECT("--temperature: found '2.1', wanted a number from 0 to 2", "--temperature", "2.1");
    EXPECT("--temperature: found 'nan', wanted a number from 0 to 2", "--temperature", "nan");
    EXPECT("--mask: found '4294967296', wanted a whole number, 0 or more", "--mask", "4294967296");
    EXPECT("--flag: found 'yes', wanted no value", "--flag=yes");
    EXPECT("unknown option --cuont (did you mean --count?)", "--cuont");
    EXPECT("unknown option --zzzzzzz=1", "--zzzzzzz=1");
    EXPECT("unknown option -z", "-fz");
    EXPECT("--name: found nothing after it, wanted FILE", "-m");
    EXPECT("found the extra operand 'c', wanted only [A [B]]", "a", "b", "c");
    EXPECT("unknown option --\\x1b[2J", "--\x1b[2J"); /* nothing raw reaches a terminal */
}

static void test_copy(void **state)
{
    (void)state;
    options from = {.n = 9, .word = 1, .name = "new", .flag = true},
            to = {.n = 1, .word = 2, .name = "old"};

    qn_opts_copy(&own_group, 1u << 2 | 1u << 6, &from, &to);
    assert_int_equal(to.n, 9);
    assert_int_equal(to.word, 2);
    assert_string_equal(to.name, "new");
    assert_false(to.flag);
}

static void test_distance(void **state)
{
    (void)state;
    assert_int_equal(qn_opts_distance("run", "run"), 0);
    assert_int_equal(qn_opts_distance("run", "rum"), 1);
    assert_int_equal(qn_opts_distance("run", "rnu"), 1);
    assert_int_equal(qn_opts_distance("", "abc"), 3);
    assert_int_equal(qn_opts_distance("tokenize", "tokenise"), 1);
    assert_int_equal(qn_opts_distance("kitten", "sitting"), 3);
    assert_int_equal(
        qn_opts_distance("a", "0123456789012345678901234567890123456789012345678901234567890123"),
        64);
}

static void test_completion(void **state)
{
    (void)state;
    static const qn_opts *const commands[] = {&table};
    qn_str text = {0};

    qn_opts_completion(&text, QN_SHELL_BASH, "quern", commands, 1);
    assert_non_null(strstr(
        text.p, "--word) COMPREPLY=($(compgen -W 'auto always never' -- \"$cur\")); return ;;"));
    assert_non_null(strstr(text.p, "words='--help --flag --other --count"));
    qn_str_clear(&text);
    qn_opts_completion(&text, QN_SHELL_ZSH, "quern", commands, 1);
    assert_non_null(strstr(text.p, "'(-o --other)'{-o,--other}'[it'\\''s \\[another\\]]'"));
    assert_non_null(strstr(text.p, "'*'{-i+,--item=}'[an item]:TEXT: '"));
    qn_str_clear(&text);
    qn_opts_completion(&text, QN_SHELL_FISH, "quern", commands, 1);
    assert_non_null(strstr(text.p, "-l word -x -a 'auto always never' -d 'a word'"));
    assert_false(text.failed);
    qn_str_fini(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_ints),
        cmocka_unit_test(test_short_and_operands),
        cmocka_unit_test(test_help),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_copy),
        cmocka_unit_test(test_distance),
        cmocka_unit_test(test_completion),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
