/* Numbers for people. */
#ifndef FORMATS_BASE_UNITS_H
#define FORMATS_BASE_UNITS_H

#include <stdint.h>

#define BYTES_TEXT 32
/* "17.0 MB": powers of 1000, as disks are sold. Three digits, which is as much as an eye compares; returns text. */
const char *bytes_text(double bytes, char text[BYTES_TEXT]);

/* What follows the noun and the verb behind a count: "%zu layer%s %s", n, plural(n), is_are(n). */
const char *plural(uint64_t n); /* "s", or "" for one */
const char *is_are(uint64_t n);

#endif
