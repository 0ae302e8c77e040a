#include "formats/manifest.h"

#include <stdio.h>
#include <stdlib.h>

#include "formats/json.h"

static void write_files(struct json_writer *w, const char *key, const struct manifest_file *files, size_t count)
{
    json_begin_object(w, key);
    for (size_t i = 0; i < count; i++) {
        json_begin_object(w, files[i].name);
        w->compact = true;
        json_put_u64(w, "bytes", files[i].bytes);
        json_put_string(w, "sha256", files[i].sha256);
        json_end(w, '}');
        w->compact = false;
    }
    json_end(w, '}');
}

static void write_drops(struct json_writer *w, const struct manifest *m)
{
    json_begin_array(w, "dropped");
    for (size_t i = 0; i < m->drop_count; i++) {
        json_begin_object(w, NULL);
        w->compact = true;
        json_put_string(w, "tensor", m->drops[i].tensor);
        json_put_string(w, "why", m->drops[i].why);
        json_end(w, '}');
        w->compact = false;
    }
    json_end(w, ']');
}

static void write_names(struct json_writer *w, const char *key, const char *const names[PART_COUNT])
{
    json_begin_array(w, key);
    for (size_t i = 0; i < PART_COUNT; i++)
        if (names[i])
            json_put_string(w, NULL, names[i]);
    json_end(w, ']');
}

/* Six digits: what is measured deserves no more, and a reader compares them by eye. */
static double six_digits(double x)
{
    char text[32];

    snprintf(text, sizeof text, "%.6g", x);
    return strtod(text, NULL);
}

static void write_rows(struct json_writer *w, const struct manifest *m)
{
    json_begin_array(w, "weights");
    for (size_t i = 0; i < m->row_count; i++) {
        const struct manifest_row *r = &m->rows[i];
        char scheme[SCHEME_TEXT];
        json_begin_object(w, NULL);
        w->compact = true;
        json_put_string(w, "weight", r->name);
        json_put_string(w, "role", r->role);
        json_put_string(w, "scheme", scheme_text(r->scheme, scheme));
        json_put_string(w, "method", scheme_method_name(r->scheme->method));
        json_put_string(w, "why", r->why);
        write_names(w, "tensors", r->tensors);
        write_names(w, "sources", r->sources);
        if (r->error >= 0)
            json_put_double(w, "error", six_digits(r->error));
        json_end(w, '}');
        w->compact = false;
    }
    json_end(w, ']');
}

void manifest_write(struct buf *out, const struct manifest *m)
{
    struct json_writer w = {.out = out};

    json_begin_object(&w, NULL);
    json_put_u64(&w, "manifest", MANIFEST_VERSION);
    json_put_string(&w, "quern", m->tool_version);
    json_put_string(&w, "kernel_class", m->kernel_class);
    json_put_raw(&w, "recipe", m->recipe_text);
    json_put_string(&w, "source_config_sha256", m->config_sha256);
    if (m->source_count > 0)
        write_files(&w, "source_files", m->sources, m->source_count);
    write_files(&w, "files", m->files, m->file_count);
    write_drops(&w, m);
    write_rows(&w, m);
    json_end(&w, '}');
    buf_puts(out, "\n");
}
