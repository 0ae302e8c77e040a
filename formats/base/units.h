/* Bytes for people: "17.0 MB". Powers of 1000, as disks are sold. */
#ifndef FORMATS_BASE_UNITS_H
#define FORMATS_BASE_UNITS_H

#define BYTES_TEXT 32
/* Three digits, which is as much as an eye compares; returns text. */
const char *bytes_text(double bytes, char text[BYTES_TEXT]);

#endif
