/* SPDX-License-Identifier: Apache-2.0
 * example.c - a complete program with libquern: opens a model and continues a text, greedily.
 *
 *   cc example.c $(pkg-config --cflags --libs quern) -o example
 *   ./example model.gguf "Once upon a time" */
#include <quern/quern.h>
#include <stdio.h>

static int fail(const qn_err *err)
{
    fprintf(stderr, "example: %s\n", err->msg);
    return 1;
}

static int answer(qn_engine *engine, const char *text)
{
    qn_params params = qn_params_default();
    qn_prompt prompt = {.text = text};
    qn_request *request = NULL;
    qn_event event;
    qn_err err;

    params.temperature = 0;
    params.max_tokens = 32;
    if (qn_request_submit(&request, engine, &prompt, &params, &err) != QN_OK)
        return fail(&err);
    do {
        if (qn_request_next(request, &event, &err) != QN_OK) {
            qn_request_free(request);
            return fail(&err);
        }
        if (event.kind == QN_EVENT_TOKEN)
            fwrite(event.text, 1, event.n_text, stdout);
    } while (event.kind != QN_EVENT_DONE);
    printf("\n(%d tokens in %.0f ms)\n", event.n_output_tokens, event.prefill_ms + event.decode_ms);
    qn_request_free(request);
    return event.n_output_tokens == 0;
}

int main(int argc, char **argv)
{
    qn_config config = qn_config_default();
    qn_engine *engine = NULL;
    qn_err err;

    if (argc != 3) {
        fprintf(stderr, "usage: example MODEL TEXT\n");
        return 2;
    }
    config.model = argv[1];
    if (qn_engine_open(&engine, &config, &err) != QN_OK)
        return fail(&err);
    int status = answer(engine, argv[2]);
    qn_engine_free(engine);
    return status;
}
