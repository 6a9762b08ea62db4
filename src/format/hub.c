/* SPDX-License-Identifier: Apache-2.0
 * hub.c - see hub.h.
 *
 * A pull: parse the spec -> list the repository's names (the hub's answer, or what the cached
 * snapshot holds) -> choose those wanted -> make each one complete (blob, then the snapshot's link
 * to it) -> write the ref last, so that a ref names a snapshot that was whole for somebody. The
 * same choice is made from the hub's list and from the cache's, which is how the cache alone
 * answers when the hub cannot. */
#include "format/hub.h"

#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/mem.h"
#include "format/fetch.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME_MAX_BYTES (QN_LIMIT_HUB_COMPONENTS * (QN_LIMIT_HUB_COMPONENT_BYTES + 1))
#define N_LISTED       12 /* choices named in an error */
#define PART_SUFFIX    15 /* strlen("-00001-of-00002") */
#define COMMIT_DIGITS  40

typedef struct names {
    char **p;
    size_t n, cap;
} names;

typedef struct pull {
    const qn_hub_config *cfg;
    qn_fetch *fetch;                                 /* NULL when offline */
    char repo[2 * QN_LIMIT_HUB_COMPONENT_BYTES + 2]; /* OWNER/NAME */
    char revision[256];
    char file[1024]; /* "": the whole repository */
    qn_str root;     /* CACHE/models--OWNER--NAME */
    char commit[COMMIT_DIGITS + 1];
    names all;           /* of the repository, sorted */
    const char **wanted; /* [all.n], borrowed from all */
    size_t n_wanted;
    qn_hub_progress progress;
    void *progress_arg;
} pull;

/* ---- names ---- */

static bool is_plain_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
}

/* Components [A-Za-z0-9._-] that do not start with a dot, 1 to n_max of them. */
static bool is_plain_path(const char *s, size_t n, size_t n_max)
{
    size_t n_components = 1, length = 0;
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '/') {
            if (length == 0)
                return false;
            n_components++;
            length = 0;
        } else if (!is_plain_char(s[i]) || (length == 0 && s[i] == '.') ||
                   ++length > QN_LIMIT_HUB_COMPONENT_BYTES) {
            return false;
        }
    }
    return length > 0 && n_components <= n_max;
}

static bool is_hex(const char *s, size_t n)
{
    return strlen(s) == n && strspn(s, "0123456789abcdef") == n;
}

static void free_names(names *l)
{
    for (size_t i = 0; i < l->n; i++)
        qn_free(l->p[i]);
    qn_free(l->p);
    *l = (names){0};
}

static qn_status add_name(names *l, const char *s, size_t n, qn_err *err)
{
    if (l->n == QN_LIMIT_HUB_FILES)
        return qn_fail(err, QN_E_FORMAT, "repository: more than %d files", QN_LIMIT_HUB_FILES);
    char *copy = qn_strndup(s, n, QN_MEM_MISC);
    if (!copy || !qn_grow(&l->p, &l->cap, l->n + 1, sizeof(*l->p), QN_MEM_MISC)) {
        qn_free(copy);
        return qn_fail_nomem(err, n + 1);
    }
    l->p[l->n++] = copy;
    return QN_OK;
}

/* Sorted and without doubles. Heap sort: names come from a server, so no input may be a slow one,
 * and none may need memory. */
static void settle_names(names *l)
{
    size_t n = l->n, start = n / 2;
    while (n > 1) {
        char *moved;
        if (start > 0) {
            moved = l->p[--start];
        } else {
            moved = l->p[--n];
            l->p[n] = l->p[0];
        }
        size_t i = start, child;
        while ((child = 2 * i + 1) < n) {
            if (child + 1 < n && strcmp(l->p[child + 1], l->p[child]) > 0)
                child++;
            if (strcmp(l->p[child], moved) <= 0)
                break;
            l->p[i] = l->p[child];
            i = child;
        }
        l->p[i] = moved;
    }
    size_t n_kept = 0;
    for (size_t i = 0; i < l->n; i++)
        if (n_kept > 0 && strcmp(l->p[n_kept - 1], l->p[i]) == 0)
            qn_free(l->p[i]);
        else
            l->p[n_kept++] = l->p[i];
    l->n = n_kept;
}

/* "model-00002-of-00003.gguf": part 2 of 3; n_stem counts up to the dash. False for a file that is
 * whole. */
static bool parse_part(const char *name, size_t *n_stem, uint64_t *part, uint64_t *n_parts)
{
    const char *dot = strrchr(name, '.');
    if (!dot || dot - name < PART_SUFFIX ||
        (strcmp(dot, ".gguf") != 0 && strcmp(dot, ".safetensors") != 0))
        return false;
    const char *p = dot - PART_SUFFIX;
    *n_stem = (size_t)(p - name);
    return p[0] == '-' && strncmp(p + 6, "-of-", 4) == 0 && qn_parse_u64(p + 1, 5, 99999, part) &&
           qn_parse_u64(p + 10, 5, 99999, n_parts) && *part >= 1 && *part <= *n_parts;
}

/* The list's own copy of a name, or NULL. */
static const char *find_name(const names *l, const char *name)
{
    size_t lo = 0, hi = l->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int order = strcmp(l->p[mid], name);
        if (order == 0)
            return l->p[mid];
        if (order < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

/* ---- the spec ---- */

/* The parts of OWNER/NAME[@REVISION][:FILE]; absent ones are empty. */
static bool split_spec(const char *s, qn_slice *repo, qn_slice *revision, qn_slice *file)
{
    size_t n = strcspn(s, "@:");
    *repo = (qn_slice){s, n};
    *revision = *file = (qn_slice){s, 0};
    const char *slash = memchr(s, '/', n);
    if (!slash || !is_plain_path(s, n, 2))
        return false;
    s += n;
    if (*s == '@') {
        n = strcspn(++s, ":");
        *revision = (qn_slice){s, n};
        if (n > 255 || !is_plain_path(s, n, QN_LIMIT_HUB_COMPONENTS))
            return false;
        s += n;
    }
    if (*s == ':') {
        *file = (qn_slice){s + 1, strlen(s + 1)};
        if (file->n > 1023 || !is_plain_path(file->p, file->n, QN_LIMIT_HUB_COMPONENTS))
            return false;
    }
    return true;
}

bool qn_hub_is_spec(const char *s)
{
    qn_slice repo, revision, file;
    return split_spec(s, &repo, &revision, &file);
}

static qn_status init_pull(pull *p, const char *spec, qn_err *err)
{
    qn_slice repo, revision, file;
    if (!split_spec(spec, &repo, &revision, &file))
        return qn_fail(err, QN_E_ARG, "%s: want OWNER/NAME[@REVISION][:FILE] of [A-Za-z0-9._-]",
                       spec);
    (void)snprintf(p->repo, sizeof(p->repo), "%.*s", (int)repo.n, repo.p);
    (void)snprintf(p->revision, sizeof(p->revision), "%.*s", revision.n ? (int)revision.n : 4,
                   revision.n ? revision.p : "main");
    (void)snprintf(p->file, sizeof(p->file), "%.*s", (int)file.n, file.p);
    size_t n_owner = strcspn(p->repo, "/");
    qn_str_addf(&p->root, "%s/models--%.*s--%s", p->cfg->cache, (int)n_owner, p->repo,
                p->repo + n_owner + 1);
    return p->root.failed ? qn_fail_nomem(err, p->root.n) : QN_OK;
}

/* ---- choosing ---- */

static const char *const needed[] = {
    "config.json",     "generation_config.json",  "tokenizer*.json",          "vocab.json",
    "merges.txt",      "special_tokens_map.json", "added_tokens.json",        "*.tiktoken",
    "chat_template.*", "*.safetensors",           "*.safetensors.index.json",
};

static bool is_needed(const char *name)
{
    for (size_t i = 0; i < QN_COUNT(needed); i++)
        if (!strchr(name, '/') && fnmatch(needed[i], name, 0) == 0)
            return true;
    return false;
}

/* A GGUF file that stands for a model: whole, or the first part; not a projector or an importance
 * matrix. */
static bool is_gguf_model(const char *name)
{
    size_t n_stem;
    uint64_t part, n_parts;
    const char *base = strrchr(name, '/');
    base = base ? base + 1 : name;
    return qn_ends_with(name, ".gguf") && !qn_starts_with(base, "mmproj") &&
           !qn_starts_with(base, "imatrix") &&
           (!parse_part(name, &n_stem, &part, &n_parts) || part == 1);
}

static bool is_word_char(char c)
{
    return is_plain_char(c) && c != '.' && c != '-';
}

/* Does name hold the tag, in any case? whole: and not as a part of a longer word. An empty tag is
 * in every name. */
static bool has_tag(const char *name, const char *tag, bool whole)
{
    size_t n = strlen(tag);
    if (n == 0)
        return true;
    for (const char *p = name; *p; p++)
        if (strncasecmp(p, tag, n) == 0 &&
            (!whole || ((p == name || !is_word_char(p[-1])) && !is_word_char(p[n]))))
            return true;
    return false;
}

/* Adds a file and, if it is part of a set, all the set's parts in order; they must be there. */
static qn_status want_set(pull *p, const char *name, qn_err *err)
{
    size_t n_stem;
    uint64_t part, n_parts;
    char other[NAME_MAX_BYTES + 1];
    if (!parse_part(name, &n_stem, &part, &n_parts)) {
        p->wanted[p->n_wanted++] = name;
        return QN_OK;
    }
    if (n_parts > QN_LIMIT_SHARDS)
        return qn_fail(err, QN_E_FORMAT, "%s: %llu parts, want at most %d", name,
                       (unsigned long long)n_parts, QN_LIMIT_SHARDS);
    for (part = 1; part <= n_parts; part++) {
        (void)snprintf(other, sizeof(other), "%.*s-%05llu-of-%05llu%s", (int)n_stem, name,
                       (unsigned long long)part, (unsigned long long)n_parts, strrchr(name, '.'));
        const char *found = find_name(&p->all, other);
        if (!found)
            return qn_fail(err, QN_E_NOT_FOUND, "%s: %s of its set is missing", name, other);
        p->wanted[p->n_wanted++] = found;
    }
    return QN_OK;
}

/* The one GGUF model whose name holds p->file ("" holds in all). */
static qn_status want_tagged(pull *p, qn_err *err)
{
    qn_str choices = {0};
    const char *found = NULL;
    size_t n_found = 0, n_models = 0;
    for (int whole = 1; whole >= 0 && n_found == 0; whole--)
        for (size_t i = 0; i < p->all.n; i++)
            if (is_gguf_model(p->all.p[i]) && has_tag(p->all.p[i], p->file, whole)) {
                found = p->all.p[i];
                n_found++;
            }
    for (size_t i = 0; i < p->all.n; i++) {
        if (!is_gguf_model(p->all.p[i]) || (n_found > 0 && !has_tag(p->all.p[i], p->file, false)))
            continue;
        if (++n_models <= N_LISTED)
            qn_str_addf(&choices, "%s%s", n_models > 1 ? ", " : "", p->all.p[i]);
    }
    if (n_models > N_LISTED)
        qn_str_addf(&choices, " and %zu more", n_models - N_LISTED);
    qn_status s = QN_OK;
    if (choices.failed)
        s = qn_fail_nomem(err, choices.n);
    else if (n_found == 1)
        s = want_set(p, found, err);
    else if (n_models == 0)
        s = qn_fail(err, QN_E_NOT_FOUND, "%s: no file %s", p->repo,
                    p->file[0] ? p->file : "of safetensors or GGUF");
    else if (n_found == 0)
        s = qn_fail(err, QN_E_NOT_FOUND, "%s: no file %s; there are: %s", p->repo, p->file,
                    choices.p);
    else
        s = qn_fail(err, QN_E_ARG, "%s: name one of these after a colon: %s", p->repo, choices.p);
    qn_str_fini(&choices);
    return s;
}

/* Fills p->wanted from p->all. */
static qn_status choose(pull *p, qn_err *err)
{
    qn_free(p->wanted);
    p->n_wanted = 0;
    p->wanted = qn_alloc_array(QN_MAX(p->all.n, 1), sizeof(*p->wanted), QN_MEM_MISC);
    if (!p->wanted)
        return qn_fail_nomem(err, p->all.n * sizeof(*p->wanted));
    if (p->file[0]) {
        const char *exact = find_name(&p->all, p->file);
        return exact ? want_set(p, exact, err) : want_tagged(p, err);
    }
    bool has_weights = false;
    for (size_t i = 0; i < p->all.n; i++)
        has_weights = has_weights || fnmatch("*.safetensors", p->all.p[i], FNM_PATHNAME) == 0;
    if (!has_weights)
        return want_tagged(p, err);
    if (!find_name(&p->all, "config.json"))
        return qn_fail(err, QN_E_NOT_FOUND, "%s: no file config.json", p->repo);
    for (size_t i = 0; i < p->all.n; i++) {
        const char *name = p->all.p[i];
        size_t n_stem;
        uint64_t part, n_parts;
        if (!is_needed(name))
            continue;
        /* The first part brings its set; a later one whose first is missing says so. */
        if (parse_part(name, &n_stem, &part, &n_parts) && part > 1) {
            char first[NAME_MAX_BYTES + 1];
            (void)snprintf(first, sizeof(first), "%.*s-00001%s", (int)n_stem, name,
                           name + n_stem + 6);
            if (find_name(&p->all, first))
                continue;
        }
        QN_TRY(want_set(p, name, err));
    }
    return QN_OK;
}

/* ---- the cache ---- */

/* root/folder/name into *out (cleared first). */
static qn_status cache_path(const pull *p, qn_str *out, const char *folder, const char *name,
                            qn_err *err)
{
    qn_str_clear(out);
    qn_str_addf(out, "%s/%s/%s", p->root.p, folder, name);
    return out->failed ? qn_fail_nomem(err, p->root.n + strlen(name)) : QN_OK;
}

/* root/snapshots/COMMIT[/name] into *out. */
static qn_status snapshot_path(const pull *p, qn_str *out, const char *name, qn_err *err)
{
    qn_str_clear(out);
    qn_str_addf(out, "%s/snapshots/%s%s%s", p->root.p, p->commit, *name ? "/" : "", name);
    return out->failed ? qn_fail_nomem(err, p->root.n + strlen(name)) : QN_OK;
}

/* Adds the complete files of one folder of the snapshot and puts its folders into *dirs. */
static qn_status list_folder(pull *p, const char *dir, names *dirs, qn_str *path, qn_err *err)
{
    qn_str name = {0};
    QN_TRY(snapshot_path(p, path, dir, err));
    DIR *d = opendir(path->p);
    if (!d)
        return QN_OK; /* not there: nothing is complete */
    qn_status s = QN_OK;
    for (struct dirent *e; s == QN_OK && (e = readdir(d)) != NULL;) {
        qn_str_clear(&name);
        qn_str_addf(&name, "%s%s%s", dir, *dir ? "/" : "", e->d_name);
        s = name.failed ? qn_fail_nomem(err, name.n) : snapshot_path(p, path, name.p, err);
        if (s != QN_OK || !is_plain_path(name.p, name.n, QN_LIMIT_HUB_COMPONENTS))
            continue;
        if (qn_file_exists(path->p))
            s = add_name(&p->all, name.p, name.n, err);
        else if (e->d_type != DT_LNK && qn_dir_exists(path->p))
            s = add_name(dirs, name.p, name.n, err);
    }
    (void)closedir(d);
    qn_str_fini(&name);
    return s;
}

/* Fills p->commit and p->all with what the cache holds of the revision; QN_E_NOT_FOUND if it holds
 * none. */
static qn_status list_cache(pull *p, qn_err *err)
{
    qn_str text = {0};
    names dirs = {0};
    qn_status s = QN_OK;
    if (is_hex(p->revision, COMMIT_DIGITS)) {
        memcpy(p->commit, p->revision, COMMIT_DIGITS + 1);
    } else {
        qn_str path = {0};
        s = cache_path(p, &path, "refs", p->revision, err);
        if (s == QN_OK)
            s = qn_file_read(&text, path.p, 256, err);
        while (s == QN_OK && text.n > 0 && (unsigned char)text.p[text.n - 1] <= ' ')
            text.p[--text.n] = 0;
        if (s == QN_OK && (text.n != COMMIT_DIGITS || !is_hex(text.p, COMMIT_DIGITS)))
            s = qn_fail(err, QN_E_FORMAT, "%s: holds no commit, want 40 hex digits", path.p);
        if (s == QN_OK)
            memcpy(p->commit, text.p, COMMIT_DIGITS + 1);
        qn_str_fini(&path);
    }
    free_names(&p->all);
    if (s == QN_OK)
        s = add_name(&dirs, "", 0, err);
    for (size_t i = 0; s == QN_OK && i < dirs.n; i++)
        s = list_folder(p, dirs.p[i], &dirs, &text, err);
    settle_names(&p->all);
    free_names(&dirs);
    qn_str_fini(&text);
    return s;
}

/* The cache's answer: everything the spec calls for, complete. */
static qn_status pull_from_cache(pull *p, qn_err *err)
{
    qn_status s = list_cache(p, err);
    if (s == QN_OK)
        s = choose(p, err);
    if (s == QN_E_NOMEM || s == QN_OK)
        return s;
    return qn_fail(err, QN_E_NOT_FOUND, "%s%s%s: not complete in %s", p->repo,
                   p->file[0] ? ":" : "", p->file, p->cfg->cache);
}

/* ---- the hub ---- */

/* The revision in one component of an address: "refs/pr/1" -> "refs%2Fpr%2F1". */
static void add_revision(qn_str *out, const char *revision)
{
    for (const char *c = revision; *c; c++)
        if (*c == '/')
            qn_str_adds(out, "%2F");
        else
            qn_str_addc(out, *c);
}

/* Fills p->commit and p->all from the hub's description of the revision. */
static qn_status read_listing(pull *p, const json_t *o, qn_err *err)
{
    const char *sha = NULL;
    QN_TRY(qn_json_str(o, p->repo, "sha", &sha, err));
    if (!sha || !is_hex(sha, COMMIT_DIGITS))
        return qn_fail(err, QN_E_FORMAT, "%s: the hub's sha is '%.80s', want 40 hex digits",
                       p->repo, sha ? sha : "");
    memcpy(p->commit, sha, COMMIT_DIGITS + 1);
    const json_t *files = json_object_get(o, "siblings");
    if (!json_is_array(files))
        return qn_fail(err, QN_E_FORMAT, "%s: the hub's siblings are %s, want an array", p->repo,
                       qn_json_type_name(files));
    free_names(&p->all);
    for (size_t i = 0; i < json_array_size(files); i++) {
        const json_t *name = json_object_get(json_array_get(files, i), "rfilename");
        if (json_is_string(name) && is_plain_path(json_string_value(name), json_string_length(name),
                                                  QN_LIMIT_HUB_COMPONENTS))
            QN_TRY(add_name(&p->all, json_string_value(name), json_string_length(name), err));
    }
    settle_names(&p->all);
    return QN_OK;
}

static qn_status list_hub(pull *p, qn_err *err)
{
    qn_str path = {0}, text = {0};
    json_t *o = NULL;
    qn_str_addf(&path, "/api/models/%s/revision/", p->repo);
    add_revision(&path, p->revision);
    qn_status s = path.failed
                      ? qn_fail_nomem(err, path.n)
                      : qn_fetch_text(p->fetch, path.p, p->repo, QN_LIMIT_HUB_LISTING, &text, err);
    if (s == QN_OK)
        s = qn_json_parse(&o, text.p ? text.p : "", text.n, 0, p->repo, err);
    if (s == QN_OK)
        s = read_listing(p, o, err);
    json_decref(o);
    qn_str_fini(&text);
    qn_str_fini(&path);
    return s;
}

/* snapshots/COMMIT/name -> ../../blobs/ETAG, in place of whatever was there. */
static qn_status link_blob(const pull *p, const char *name, const char *etag, qn_err *err)
{
    qn_str path = {0}, target = {0}, temporary = {0};
    qn_str_adds(&target, "../../");
    for (const char *c = name; *c; c++)
        if (*c == '/')
            qn_str_adds(&target, "../");
    qn_str_addf(&target, "blobs/%s", etag);
    qn_status s = snapshot_path(p, &path, name, err);
    qn_str_addf(&temporary, "%s.%ld", path.p ? path.p : "", (long)getpid());
    if (s == QN_OK && (target.failed || temporary.failed))
        s = qn_fail_nomem(err, path.n);
    if (s == QN_OK) {
        char *slash = strrchr(path.p, '/');
        *slash = 0;
        s = qn_mkdirs(path.p, err);
        *slash = '/';
    }
    if (s == QN_OK) {
        (void)unlink(temporary.p);
        if (symlink(target.p, temporary.p) != 0 || rename(temporary.p, path.p) != 0) {
            char buf[128];
            s = qn_fail(err, QN_E_IO, "%s: cannot link: %s", path.p,
                        strerror_r(errno, buf, sizeof(buf)));
            (void)unlink(temporary.p);
        }
    }
    qn_str_fini(&temporary);
    qn_str_fini(&target);
    qn_str_fini(&path);
    return s;
}

/* Makes one file complete. A snapshot is of one commit, so what it holds is never out of date. */
static qn_status pull_file(pull *p, const char *name, qn_err *err)
{
    qn_str path = {0}, url = {0};
    qn_remote remote;
    struct stat st;
    qn_status s = snapshot_path(p, &path, name, err);
    if (s == QN_OK && qn_file_exists(path.p)) {
        qn_str_fini(&path);
        return QN_OK;
    }
    qn_str_addf(&url, "/%s/resolve/%s/%s", p->repo, p->commit, name);
    if (s == QN_OK)
        s = url.failed ? qn_fail_nomem(err, url.n)
                       : qn_fetch_head(p->fetch, url.p, name, &remote, err);
    if (s == QN_OK && remote.commit[0] && strcmp(remote.commit, p->commit) != 0)
        s = qn_fail(err, QN_E_FORMAT, "%s: the hub gives commit %s, want %s", name, remote.commit,
                    p->commit);
    if (s == QN_OK)
        s = cache_path(p, &path, "blobs", "", err);
    if (s == QN_OK)
        s = qn_mkdirs(path.p, err);
    if (s == QN_OK)
        s = cache_path(p, &path, "blobs", remote.etag, err);
    if (s == QN_OK &&
        (stat(path.p, &st) != 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != remote.size))
        s = qn_fetch_file(p->fetch, url.p, name, &remote, path.p, p->progress, p->progress_arg,
                          err);
    if (s == QN_OK)
        s = link_blob(p, name, remote.etag, err);
    qn_str_fini(&url);
    qn_str_fini(&path);
    return s;
}

static qn_status write_ref(const pull *p, qn_err *err)
{
    qn_str path = {0};
    if (is_hex(p->revision, COMMIT_DIGITS))
        return QN_OK;
    qn_status s = cache_path(p, &path, "refs", p->revision, err);
    if (s == QN_OK) {
        char *slash = strrchr(path.p, '/');
        *slash = 0;
        s = qn_mkdirs(path.p, err);
        *slash = '/';
    }
    if (s == QN_OK)
        s = qn_file_write(path.p, p->commit, COMMIT_DIGITS, err);
    qn_str_fini(&path);
    return s;
}

static qn_status pull_from_hub(pull *p, qn_err *err)
{
    QN_TRY(qn_fetch_new(&p->fetch, p->cfg->endpoint, p->cfg->token, err));
    /* With everything at hand an unreachable hub is not worth waiting for. */
    bool is_cached = pull_from_cache(p, NULL) == QN_OK;
    qn_fetch_set_patient(p->fetch, !is_cached);
    qn_status s = list_hub(p, err);
    if (s != QN_OK && is_cached && qn_fetch_is_offline(p->fetch))
        return pull_from_cache(p, err);
    QN_TRY(s);
    qn_fetch_set_patient(p->fetch, true);
    QN_TRY(choose(p, err));
    for (size_t i = 0; i < p->n_wanted; i++)
        QN_TRY(pull_file(p, p->wanted[i], err));
    return write_ref(p, err);
}

qn_status qn_hub_pull(const qn_hub_config *cfg, const char *spec, qn_hub_progress progress,
                      void *progress_arg, qn_str *out_path, qn_err *err)
{
    pull p = {.cfg = cfg, .progress = progress, .progress_arg = progress_arg};
    qn_str path = {0};
    qn_status s = init_pull(&p, spec, err);
    if (s == QN_OK)
        s = cfg->offline ? pull_from_cache(&p, err) : pull_from_hub(&p, err);
    if (s == QN_OK) {
        bool is_file = p.file[0] || qn_ends_with(p.wanted[0], ".gguf");
        s = snapshot_path(&p, &path, is_file ? p.wanted[0] : "", err);
    }
    if (s == QN_OK) {
        qn_str_add(out_path, path.p, path.n);
        if (out_path->failed)
            s = qn_fail_nomem(err, path.n);
    }
    qn_fetch_free(p.fetch);
    qn_free(p.wanted);
    free_names(&p.all);
    qn_str_fini(&p.root);
    qn_str_fini(&path);
    return s;
}

qn_status qn_hub_config_from_env(qn_hub_config *out, qn_str *text, qn_err *err)
{
    const char *endpoint = qn_env("HF_ENDPOINT"), *token = qn_env("HF_TOKEN");
    const char *cache = qn_env("HF_HUB_CACHE"), *hf_home = qn_env("HF_HOME");
    const char *xdg = qn_env("XDG_CACHE_HOME"), *home = qn_env("HOME");
    const char *offline = qn_env("HF_HUB_OFFLINE");
    endpoint = endpoint ? endpoint : "https://huggingface.co";
    qn_str_clear(text);
    qn_str_adds(text, endpoint);
    while (text->n > 0 && text->p[text->n - 1] == '/')
        text->n--;
    qn_str_addc(text, 0);
    size_t token_at = text->n;
    qn_str_adds(text, token ? token : "");
    qn_str_addc(text, 0);
    size_t cache_at = text->n;
    if (cache)
        qn_str_adds(text, cache);
    else if (hf_home)
        qn_str_addf(text, "%s/hub", hf_home);
    else if (xdg)
        qn_str_addf(text, "%s/huggingface/hub", xdg);
    else if (home)
        qn_str_addf(text, "%s/.cache/huggingface/hub", home);
    else
        return qn_fail(err, QN_E_NOT_FOUND, "no cache folder: want HF_HOME or HOME to be set");
    if (text->failed)
        return qn_fail_nomem(err, text->n);
    *out = (qn_hub_config){
        .endpoint = text->p,
        .token = token ? text->p + token_at : NULL,
        .cache = text->p + cache_at,
        .offline = offline && (strcmp(offline, "1") == 0 || strcasecmp(offline, "true") == 0 ||
                               strcasecmp(offline, "on") == 0 || strcasecmp(offline, "yes") == 0)};
    return QN_OK;
}
