/* Writes every kind of HTML report to a folder, for check-html:  html-pages DIR */
#include <stdio.h>

#include "formats/base/file.h"
#include "tests/diff_fixture.h"

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    for (int kind = 0; kind < FIXTURE_COUNT; kind++) {
        struct diff_report r;
        struct arena a = {0};
        struct buf page = {0}, name = {0};
        struct err e = {0};
        diff_fixture_make(&r, (enum diff_fixture)kind);
        diff_print_html(&r, &page);
        buf_printf(&name, "%s.html", diff_fixture_names[kind]);
        if (!file_write_whole(path_join(&a, argv[1], name.data), page.data, page.bytes, &e)) {
            fprintf(stderr, "html-pages: %s\n", e.text);
            return 4;
        }
        buf_release(&name);
        buf_release(&page);
        arena_release(&a);
        diff_report_release(&r);
    }
    return 0;
}
