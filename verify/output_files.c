#include "verify/output_files.h"

#include <assert.h>
#include <string.h>

#include "formats/base/file.h"

void output_files_add(struct output_files *o, const char *option, const char *path)
{
    if (!path || !*path)
        return;
    assert(o->count < OUTPUT_FILES_MAX);
    o->items[o->count].option = option;
    o->items[o->count].path = path;
    o->count++;
}

static bool check_one(const struct output_files *o, size_t i, struct err *e)
{
    const char *option = o->items[i].option, *path = o->items[i].path;

    if (strcmp(path, "-") == 0)
        return err_set(e, ERR_USAGE, "--%s writes a file, and '-' is no name of one", option);
    for (size_t k = 0; k < i; k++)
        if (path_same_place(o->items[k].path, path))
            return err_set(e, ERR_USAGE, "--%s and --%s are the same file, '%s'", o->items[k].option, option, path);
    return output_check(path, e) || err_in(e, "--%s", option);
}

bool output_files_check(const struct output_files *o, struct err *e)
{
    for (size_t i = 0; i < o->count; i++)
        if (!check_one(o, i, e))
            return false;
    return true;
}

bool output_files_spare_file(const struct output_files *o, const char *input, struct err *e)
{
    for (size_t i = 0; input && strcmp(input, "-") != 0 && i < o->count; i++)
        if (path_same_place(o->items[i].path, input))
            return err_set(e, ERR_USAGE, "--%s would replace '%s', which is read", o->items[i].option, input);
    return true;
}

bool output_files_spare(const struct output_files *o, const struct checkpoint *c, struct err *e)
{
    for (size_t i = 0; i < o->count; i++)
        if (checkpoint_holds(c, o->items[i].path))
            return err_set(e, ERR_USAGE, "--%s would replace '%s', a file of the checkpoint '%s'", o->items[i].option,
                           o->items[i].path, c->path);
    return true;
}
