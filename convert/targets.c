#include "convert/targets.h"

#include <string.h>

#include "convert/finished.h"
#include "convert/stage.h"
#include "formats/base/file.h"

bool target_parse(struct plan_target *target, const char *text, recipe_source *find, struct recipe *recipe,
                  struct err *e)
{
    /* A type may hold colons ("int4:g32:DIR"): the folder begins behind the last that leaves a known recipe. */
    for (const char *colon = strrchr(text, ':'); colon && colon > text;) {
        char name[256];
        size_t bytes = (size_t)(colon - text);
        struct err refused = {0};
        if (bytes < sizeof name && colon[1] != '\0') {
            memcpy(name, text, bytes);
            name[bytes] = '\0';
            if (find(recipe, name, &refused)) {
                *target = (struct plan_target){.dir = colon + 1, .recipe = recipe};
                return true;
            }
        }
        for (colon--; colon > text && *colon != ':'; colon--) {
        }
    }
    return err_set(e, ERR_USAGE, "--also '%s' is not RECIPE:DIR with a recipe that is known", text);
}

/* The same folder, also when it is not there yet and a slash is all that tells the names apart. */
static bool same_target(const char *a, const char *b)
{
    struct arena arena = {0};
    size_t bytes = strlen(path_base(a)), other = strlen(path_base(b));

    while (bytes > 1 && path_base(a)[bytes - 1] == '/')
        bytes--;
    while (other > 1 && path_base(b)[other - 1] == '/')
        other--;
    bool same = path_same(a, b) || (bytes == other && memcmp(path_base(a), path_base(b), bytes) == 0 &&
                                    path_same(path_parent(&arena, a), path_parent(&arena, b)));
    arena_release(&arena);
    return same;
}

void targets_tidy(const struct conversion *c, const struct plan_target *targets, size_t count)
{
    if (c->dry_run || (!c->restart && finished_is_here(targets[0].dir)))
        return;
    for (size_t i = 0; i < count; i++)
        stage_tidy(targets[i].dir);
}

bool targets_check(const struct conversion *c, const struct plan_target *targets, size_t count, const char *source_dir,
                   struct err *e)
{
    /* A run killed while the first output moved up had the others in place. */
    bool others_in_place = !c->restart && stage_is_publishing(targets[0].dir);
    bool finished = !c->restart && finished_is_here(targets[0].dir);

    for (size_t i = 0; i < count; i++) {
        bool any = c->force || c->dry_run || finished || (i > 0 && others_in_place);
        if (!stage_check(targets[i].dir, source_dir, any, e))
            return false;
        for (size_t k = 0; k < i; k++)
            if (strcmp(targets[i].dir, targets[k].dir) == 0 || same_target(targets[i].dir, targets[k].dir))
                return err_set(e, ERR_USAGE, "two outputs go to '%s'", targets[i].dir);
    }
    return true;
}
