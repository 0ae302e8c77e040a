#include "formats/base/units.h"

#include <stddef.h>
#include <stdio.h>

const char *bytes_text(double bytes, char text[BYTES_TEXT])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    size_t unit = 0;

    while (bytes >= 999.5 && unit + 1 < sizeof units / sizeof units[0]) {
        bytes /= 1000;
        unit++;
    }
    snprintf(text, BYTES_TEXT,
             unit == 0 || bytes >= 99.95 ? "%.0f %s"
             : bytes >= 9.995            ? "%.1f %s"
                                         : "%.2f %s",
             bytes, units[unit]);
    return text;
}

const char *plural(uint64_t n)
{
    return n == 1 ? "" : "s";
}

const char *is_are(uint64_t n)
{
    return n == 1 ? "is" : "are";
}
