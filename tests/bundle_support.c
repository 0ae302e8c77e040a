#include "tests/bundle_support.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/file.h"
#include "formats/checkpoint.h"
#include "tests/convert_support.h"
#include "tests/ct.h"

#define FILE_BYTES_MAX (256u << 20)

void bundle_copy(const char *from, const char *to)
{
    struct arena a = {0};
    struct err e = {0};
    char **names = NULL;
    size_t count = 0;

    EXPECT_OK(dir_make(to, &e), e);
    EXPECT_OK(dir_list(from, &a, &names, &count, &e), e);
    for (size_t i = 0; i < count; i++)
        EXPECT_EQ_I64(0, link(path_join(&a, from, names[i]), path_join(&a, to, names[i])));
    arena_release(&a);
}

void bundle_edit_manifest(const char *dir, void (*edit)(struct manifest *m, struct arena *a))
{
    struct arena a = {0};
    struct err e = {0};
    struct buf text = {0};
    struct manifest m;
    const char *path = path_join(&a, dir, MANIFEST_NAME);

    if (manifest_load(&m, &a, path, &e)) {
        edit(&m, &a);
        manifest_write(&text, &m);
        EXPECT_OK(file_write_whole(path, text.data, text.bytes, &e), e);
    } else {
        EXPECT_OK(false, e);
    }
    buf_release(&text);
    arena_release(&a);
}

/* The folder for the edit that takes none. */
static const char *rehashed_dir;

/* A file that is still a link of the bundle it was copied from is what its row says already. */
static void rehash(struct manifest *m, struct arena *a)
{
    for (size_t i = 0; i < m->file_count; i++) {
        struct manifest_file *f = &m->files[i];
        struct stat st;
        char *hex = arena_alloc(a, 65);
        if (stat(path_join(a, rehashed_dir, f->name), &st) != 0 || st.st_nlink > 1)
            continue;
        f->bytes = (uint64_t)st.st_size;
        support_file_hash(rehashed_dir, f->name, hex);
        f->sha256 = hex;
    }
}

void bundle_rehash(const char *dir)
{
    rehashed_dir = dir;
    bundle_edit_manifest(dir, rehash);
}

/* ---- files as bytes ---- */

static bool slurp(struct arena *a, const char *dir, const char *file, char **data, size_t *bytes)
{
    struct err e = {0};

    EXPECT_OK(file_slurp(path_join(a, dir, file), FILE_BYTES_MAX, data, bytes, &e), e);
    return e.code == ERR_NONE;
}

static void spill(struct arena *a, const char *dir, const char *file, const void *data, size_t bytes)
{
    struct err e = {0};

    EXPECT_OK(file_write_whole(path_join(a, dir, file), data, bytes, &e), e);
}

void bundle_replace(const char *dir, const char *file, const char *from, const char *to)
{
    struct arena a = {0};
    struct buf out = {0};
    char *data = NULL;
    size_t bytes = 0;

    if (slurp(&a, dir, file, &data, &bytes)) {
        char *at = memmem(data, bytes, from, strlen(from));
        EXPECT_TRUE(at != NULL);
        if (at) {
            char *behind = at + strlen(from);
            buf_add(&out, data, (size_t)(at - data));
            buf_puts(&out, to);
            buf_add(&out, behind, bytes - (size_t)(behind - data));
            spill(&a, dir, file, out.data, out.bytes);
        }
    }
    buf_release(&out);
    mem_free(data);
    arena_release(&a);
}

void bundle_remove(const char *dir, const char *file)
{
    struct arena a = {0};

    EXPECT_EQ_I64(0, unlink(path_join(&a, dir, file)));
    arena_release(&a);
}

void bundle_truncate(const char *dir, const char *file, uint64_t cut)
{
    struct arena a = {0};
    char *data = NULL;
    size_t bytes = 0;

    if (slurp(&a, dir, file, &data, &bytes) && cut <= bytes)
        spill(&a, dir, file, data, bytes - cut);
    mem_free(data);
    arena_release(&a);
}

/* ---- tensors ---- */

/* A tensor's place, by headers alone: the bundle may be spoilt already. */
static bool find_place(struct arena *a, const char *dir, const char *tensor, const char **shard, uint64_t *offset)
{
    struct checkpoint c = {0};
    struct err e = {0};
    bool found = false;

    EXPECT_OK(checkpoint_open(&c, dir, &e), e);
    if (e.code == ERR_NONE) {
        const struct tensor *t = checkpoint_find(&c, tensor);
        found = t != NULL;
        EXPECT_TRUE(found);
        *shard = found ? arena_strdup(a, c.shards[t->shard].name) : "";
        *offset = found ? t->offset : 0;
    }
    checkpoint_close(&c);
    return found;
}

const char *bundle_shard_of(struct arena *a, const char *dir, const char *tensor)
{
    const char *shard = "";
    uint64_t offset = 0;

    (void)find_place(a, dir, tensor, &shard, &offset);
    return shard;
}

void bundle_poke(const char *dir, const char *tensor, uint64_t offset, const void *data, size_t bytes)
{
    struct arena a = {0};
    const char *shard = "";
    char *whole = NULL;
    size_t whole_bytes = 0;
    uint64_t at = 0;

    if (find_place(&a, dir, tensor, &shard, &at) && slurp(&a, dir, shard, &whole, &whole_bytes)) {
        bool inside = at + offset + bytes <= whole_bytes;
        EXPECT_TRUE(inside);
        if (inside) {
            memcpy(whole + at + offset, data, bytes);
            spill(&a, dir, shard, whole, whole_bytes);
        }
    }
    mem_free(whole);
    arena_release(&a);
}

void bundle_peek(const char *dir, const char *tensor, uint64_t offset, void *data, size_t bytes)
{
    struct arena a = {0};
    struct file f = {0};
    struct err e = {0};
    const char *shard = "";
    uint64_t at = 0;

    if (find_place(&a, dir, tensor, &shard, &at)) {
        EXPECT_OK(file_open(&f, path_join(&a, dir, shard), &e), e);
        if (e.code == ERR_NONE)
            EXPECT_OK(file_read(&f, at + offset, data, bytes, &e), e);
        file_close(&f);
    }
    arena_release(&a);
}

/* The header in data, edited in place; false: there is no such text, or not enough padding. */
static bool edit_header(char *data, const char *tensor, const char *from, const char *to)
{
    uint64_t header = 0;
    struct buf name = {0}, text = {0};
    bool done = false;

    memcpy(&header, data, sizeof header);
    buf_printf(&name, "\"%s\":", tensor);
    char *at = memmem(data + 8, header, name.data, name.bytes);
    at = at ? memmem(at, header - (size_t)(at - data - 8), from, strlen(from)) : NULL;
    if (at) {
        size_t before = (size_t)(at - data) - 8;
        buf_add(&text, data + 8, before);
        buf_puts(&text, to);
        buf_add(&text, at + strlen(from), header - before - strlen(from));
        while (text.bytes > header && text.data[text.bytes - 1] == ' ')
            text.bytes--;
        while (text.bytes < header)
            buf_puts(&text, " ");
        done = text.bytes == header;
        if (done)
            memcpy(data + 8, text.data, header);
    }
    buf_release(&name);
    buf_release(&text);
    return done;
}

void bundle_edit_header(const char *dir, const char *tensor, const char *from, const char *to)
{
    struct arena a = {0};
    const char *shard = "";
    char *data = NULL;
    size_t bytes = 0;
    uint64_t at = 0;

    if (find_place(&a, dir, tensor, &shard, &at) && slurp(&a, dir, shard, &data, &bytes)) {
        EXPECT_TRUE(edit_header(data, tensor, from, to));
        spill(&a, dir, shard, data, bytes);
    }
    mem_free(data);
    arena_release(&a);
}
