/* Which files a checkpoint is made of. The contract is in checkpoint.h. */
#include "formats/checkpoint.h"
#include "formats/index.h"
#include "formats/manifest.h"

/* What is read beside the shards, here and by engines. */
static const char *const side_files[] = {
    INDEX_FILE_NAME,   MANIFEST_NAME,           "config.json",    "generation_config.json",  "tokenizer.json",
    "tokenizer.model", "tokenizer_config.json", "tiktoken.model", "special_tokens_map.json",
};

bool checkpoint_holds(const struct checkpoint *c, const char *path)
{
    struct arena a = {0};
    bool holds = false, there = path_exists(path);

    for (size_t i = 0; there && !holds && i < c->shard_count; i++)
        holds = path_same_place(path, path_join(&a, c->dir, c->shards[i].name));
    for (size_t i = 0; there && !holds && i < sizeof side_files / sizeof side_files[0]; i++)
        holds = path_same_place(path, path_join(&a, c->dir, side_files[i]));
    arena_release(&a);
    return holds;
}
