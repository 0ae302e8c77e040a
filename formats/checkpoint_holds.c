/* Which files a checkpoint is made of. The contract is in checkpoint.h. */
#include <string.h>

#include "formats/checkpoint.h"
#include "formats/index.h"
#include "formats/manifest.h"

/* What is read beside the shards, here and by engines. */
static const char *const side_files[] = {
    INDEX_FILE_NAME,   MANIFEST_NAME,           "config.json",    "generation_config.json",  "tokenizer.json",
    "tokenizer.model", "tokenizer_config.json", "tiktoken.model", "special_tokens_map.json",
};

static bool is_of(const struct checkpoint *c, const char *name)
{
    for (size_t i = 0; i < c->shard_count; i++)
        if (strcmp(c->shards[i].name, name) == 0)
            return true;
    for (size_t i = 0; i < sizeof side_files / sizeof side_files[0]; i++)
        if (strcmp(side_files[i], name) == 0)
            return true;
    return false;
}

/* Through a link of another name too. */
bool checkpoint_holds(const struct checkpoint *c, const char *path)
{
    struct arena a = {0};
    const char *name = path_base(path);
    bool holds = path_same(path_parent(&a, path), c->dir) && path_exists(path) && is_of(c, name);

    for (size_t i = 0; !holds && i < c->shard_count; i++)
        holds = path_same(path, path_join(&a, c->dir, c->shards[i].name));
    for (size_t i = 0; !holds && i < sizeof side_files / sizeof side_files[0]; i++)
        holds = path_same(path, path_join(&a, c->dir, side_files[i]));
    arena_release(&a);
    return holds;
}
