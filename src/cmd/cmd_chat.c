/* SPDX-License-Identifier: Apache-2.0
 * cmd_chat.c - the chat of `quern run`: line editing, history, commands.
 *
 * A message is a line; one that ends in a backslash goes on in the next; """ alone opens and closes a block.
 * Ctrl-C ends the answer or the line, never the program; Ctrl-D on an empty line leaves. */
#include <errno.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#include "base/mem.h"
#include "cmd/cmd_run.h"

#define HISTORY_LINES 1000

typedef struct chat {
    const run_options *o;
    qn_engine *e;
    const qn_params *params;
    bool raw;
    EditLine *el;
    History *history;
    qn_str history_path;
    const char *prompt;
    bool is_interrupted; /* the line being read */
    char *system;        /* NULL: none */
    run_turn *turns;
    size_t n_turns, cap;
} chat;

/* ---- lines ---- */

/* Set by handlers, acted upon where the line is read: libedit's own would end the program. */
static atomic_bool is_resized, is_continued;

static void on_terminal(int sig)
{
    atomic_store(sig == SIGWINCH ? &is_resized : &is_continued, true);
    run_wake();
}

static void catch_terminal(void)
{
    struct sigaction a = {.sa_handler = on_terminal, .sa_flags = SA_RESTART};
    (void)sigemptyset(&a.sa_mask);
    (void)sigaction(SIGWINCH, &a, NULL);
    (void)sigaction(SIGCONT, &a, NULL);
}

/* 1: a byte; 0: end; -1: interrupted or failed. */
static int read_byte(chat *c, char *out)
{
    struct pollfd fds[2] = {{.fd = STDIN_FILENO, .events = POLLIN},
                            {.fd = run_wake_fd(), .events = POLLIN}};

    for (;;) {
        if (poll(fds, QN_COUNT(fds), -1) < 0 && errno != EINTR)
            return -1;
        if (atomic_exchange(&is_resized, false))
            el_resize(c->el);
        if (atomic_exchange(&is_continued, false)) {
            el_set(c->el, EL_PREP_TERM, 1);
            el_set(c->el, EL_REFRESH);
        }
        if (fds[1].revents && run_take_interrupt()) {
            c->is_interrupted = true;
            return -1;
        }
        if (fds[0].revents)
            return (int)read(STDIN_FILENO, out, 1);
    }
}

static chat *chat_of(EditLine *el)
{
    void *data = NULL;

    el_get(el, EL_CLIENTDATA, &data);
    return data;
}

/* libedit's reader of one character: its own does not end with Ctrl-C. */
static int read_char(EditLine *el, wchar_t *out)
{
    chat *c = chat_of(el);
    char buf[4];
    uint32_t cp;

    for (size_t n = 0; n < sizeof(buf);) {
        int got = read_byte(c, &buf[n]);
        if (got <= 0)
            return got;
        n++;
        if (qn_utf8_decode(buf, n, &cp)) {
            *out = (wchar_t)cp;
            return 1;
        }
        if (qn_utf8_whole(buf, n) == n) /* can not become a character */
            n = 0;
    }
    *out = L'?';
    return 1;
}

static char *prompt_of(EditLine *el)
{
    static char text[8];

    snprintf(text, sizeof(text), "%s", chat_of(el)->prompt);
    return text;
}

static qn_status open_lines(chat *c, qn_err *err)
{
    HistEvent ev;

    (void)setlocale(LC_CTYPE, "");
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
        (void)setlocale(LC_CTYPE, "C.UTF-8");
    c->el = el_init("quern", stdin, stdout, stderr);
    c->history = history_init();
    if (!c->el || !c->history)
        return qn_fail_nomem(err, 0);
    el_set(c->el, EL_CLIENTDATA, c);
    el_set(c->el, EL_PROMPT, prompt_of);
    el_set(c->el, EL_EDITOR, "emacs");
    el_set(c->el, EL_SIGNAL, 0);
    el_set(c->el, EL_GETCFN, read_char);
    el_set(c->el, EL_HIST, history, c->history);
    history(c->history, &ev, H_SETSIZE, HISTORY_LINES);
    history(c->history, &ev, H_SETUNIQUE, 1);
    /* Without a cache folder there is no history file, and that is no reason to stop. */
    if (qn_cache_dir(&c->history_path, NULL) == QN_OK) {
        qn_str_adds(&c->history_path, "/history");
        if (!c->history_path.failed && qn_file_exists(c->history_path.p))
            history(c->history, &ev, H_LOAD, c->history_path.p);
    }
    catch_terminal();
    return QN_OK;
}

static void close_lines(chat *c)
{
    HistEvent ev;

    if (c->history && c->history_path.n && !c->history_path.failed)
        history(c->history, &ev, H_SAVE, c->history_path.p);
    if (c->history)
        history_end(c->history);
    if (c->el)
        el_end(c->el);
    qn_str_fini(&c->history_path);
}

typedef enum read_result { READ_MESSAGE, READ_NOTHING, READ_END } read_result;

/* One line without its newline, into the history. Valid until the next. */
static read_result read_line(chat *c, const char *prompt, const char **line, size_t *n)
{
    HistEvent ev;
    int count = 0;

    c->prompt = prompt;
    (void)run_take_interrupt(); /* what stopped the last answer is not meant for this line */
    const char *got = el_gets(c->el, &count);
    if (c->is_interrupted) {
        c->is_interrupted = false;
        fputs("^C\n", stdout);
        el_reset(c->el);
        return READ_NOTHING;
    }
    if (!got || count <= 0)
        return READ_END;
    *n = strcspn(got, "\n");
    *line = got;
    if (*n)
        history(c->history, &ev, H_ENTER, got);
    return READ_MESSAGE;
}

static bool is_fence(const char *line, size_t n)
{
    return n == 3 && memcmp(line, "\"\"\"", 3) == 0;
}

static read_result read_message(chat *c, qn_str *out)
{
    const char *line;
    size_t n;
    read_result r = read_line(c, ">>> ", &line, &n);

    qn_str_clear(out);
    if (r != READ_MESSAGE)
        return r;
    if (is_fence(line, n)) {
        while ((r = read_line(c, "... ", &line, &n)) == READ_MESSAGE && !is_fence(line, n)) {
            qn_str_add(out, line, n);
            qn_str_addc(out, '\n');
        }
        if (out->n)
            out->p[--out->n] = 0; /* the last newline belongs to the fence */
    } else {
        while (r == READ_MESSAGE && n && line[n - 1] == '\\') {
            qn_str_add(out, line, n - 1);
            qn_str_addc(out, '\n');
            r = read_line(c, "... ", &line, &n);
        }
        if (r == READ_MESSAGE)
            qn_str_add(out, line, n);
    }
    return r == READ_MESSAGE && out->n == 0 ? READ_NOTHING : r;
}

/* ---- the conversation ---- */

static bool push_turn(chat *c, const char *role, const char *text, size_t n)
{
    if (!qn_grow(&c->turns, &c->cap, c->n_turns + 1, sizeof(*c->turns), QN_MEM_MISC))
        return false;
    char *content = qn_strndup(text, n, QN_MEM_MISC);
    if (!content)
        return false;
    c->turns[c->n_turns++] = (run_turn){role, content, n};
    return true;
}

static void drop_turns(chat *c, size_t keep)
{
    while (c->n_turns > keep)
        qn_free(c->turns[--c->n_turns].content);
}

static void help(void)
{
    puts("/help          this list\n"
         "/clear         forget the conversation\n"
         "/system TEXT   set the system message (without TEXT: none) and forget the conversation\n"
         "/again         answer the last message again\n"
         "/exit          leave (so does Ctrl-D)\n"
         "A line that ends in \\ goes on in the next; \"\"\" alone opens and closes a block of "
         "lines.\n"
         "Ctrl-C stops an answer. A message that begins with / can be written with a space before "
         "it.");
}

static void answer(chat *c)
{
    qn_str json = {0};
    qn_prompt prompt = {0};
    run_answer a = {0};
    qn_err err;

    if (c->raw)
        prompt =
            (qn_prompt){.text = c->turns[c->n_turns - 1].content, .parse_special = c->o->special};
    else {
        run_add_chat_json(&json, c->o, c->system, c->turns, c->n_turns);
        prompt.chat_json = json.p;
    }
    qn_status s = json.failed ? qn_fail_nomem(&err, json.n)
                              : run_ask(c->o, c->e, c->params, &prompt, &a, &err);
    qn_str_fini(&json);
    if (s == QN_OK && a.text[0].n && !push_turn(c, "assistant", a.text[0].p, a.text[0].n))
        s = qn_fail_nomem(&err, a.text[0].n);
    if (s != QN_OK) {
        (void)cmd_fail(&err);
        if (s == QN_E_TOO_LONG)
            fputs(
                "quern: /clear begins a new conversation; --max-ctx makes room for a longer one\n",
                stderr);
        drop_turns(c, c->n_turns - 1); /* the message that had no answer */
    } else if (a.text[0].n == 0)
        drop_turns(c, c->n_turns - 1);
    run_answer_fini(&a);
}

static void set_system(chat *c, const char *text)
{
    qn_free(c->system);
    c->system = *text ? qn_strdup(text, QN_MEM_MISC) : NULL;
    drop_turns(c, 0);
    puts(c->system ? "The system message is set." : "There is no system message.");
}

/* A line that begins with a slash. False: leave. */
static bool command(chat *c, const char *line)
{
    if (strcmp(line, "/exit") == 0 || strcmp(line, "/quit") == 0 || strcmp(line, "/bye") == 0)
        return false;
    if (strcmp(line, "/help") == 0 || strcmp(line, "/?") == 0)
        help();
    else if (strcmp(line, "/clear") == 0) {
        drop_turns(c, 0);
        puts("The conversation is forgotten.");
    } else if (strcmp(line, "/system") == 0 || qn_starts_with(line, "/system "))
        set_system(c, line[7] ? line + 8 : "");
    else if (strcmp(line, "/again") == 0) {
        if (c->n_turns && strcmp(c->turns[c->n_turns - 1].role, "assistant") == 0)
            drop_turns(c, c->n_turns - 1);
        if (c->n_turns)
            answer(c);
    } else
        printf("%.*s is no command; /help lists them\n", (int)strcspn(line, " "), line);
    return true;
}

static int talk(chat *c)
{
    qn_str message = {0};
    qn_err err;

    for (;;) {
        read_result r = read_message(c, &message);
        if (r == READ_END)
            break;
        if (r == READ_NOTHING)
            continue;
        if (message.failed)
            break;
        if (message.p[0] == '/') {
            if (!command(c, message.p))
                break;
        } else if (push_turn(c, "user", message.p, message.n))
            answer(c);
        else {
            (void)qn_fail_nomem(&err, message.n);
            (void)cmd_fail(&err);
        }
    }
    putchar('\n');
    qn_str_fini(&message);
    return CMD_OK;
}

int run_chat(const run_options *o, qn_engine *e, const qn_params *params, bool raw)
{
    chat c = {.o = o, .e = e, .params = params, .raw = raw, .prompt = ""};
    qn_engine_info info;
    char name[80];
    qn_err err;
    int rc;

    qn_engine_get_info(e, &info);
    if (o->system && !(c.system = qn_strdup(o->system, QN_MEM_MISC))) {
        (void)qn_fail_nomem(&err, strlen(o->system));
        rc = cmd_fail(&err);
    } else if (run_catch_interrupt(&err) != QN_OK || open_lines(&c, &err) != QN_OK)
        rc = cmd_fail(&err);
    else {
        qn_escape(name, sizeof(name), info.name ? info.name : "",
                  info.name ? strlen(info.name) : 0);
        printf("%s, %s, context of %d tokens. /help lists the commands.\n", name,
               info.device ? info.device : "", info.max_ctx);
        rc = talk(&c);
    }
    close_lines(&c);
    drop_turns(&c, 0);
    qn_free(c.turns);
    qn_free(c.system);
    return rc;
}
