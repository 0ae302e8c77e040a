/* A hidden state in a file of its own, to go on from: what a killed run would else make again. */
#ifndef CONVERT_STREAM_FILE_H
#define CONVERT_STREAM_FILE_H

#include "verify/stream.h"

/* Whole and durable under its name, or not there. */
bool stream_save(const char *path, const struct stream *s, struct err *e) CHECKED;
/* Into an open stream of the same shape; ERR_IO for another size. */
bool stream_load(const char *path, struct stream *s, struct err *e) CHECKED;

#endif
