/* Inside a forward pass: for its own files. A layer is a few stages, each of
 * which goes over all tokens in chunks, reads one stream and writes another. A
 * stage's memory is cut from one workspace: its *_place function says what it
 * needs, with the same code that then takes it. */
#ifndef VERIFY_FORWARD_PRIVATE_H
#define VERIFY_FORWARD_PRIVATE_H

#include "quant/decode.h"
#include "verify/attend.h"
#include "verify/crew.h"
#include "verify/expert_reader.h"
#include "verify/forward.h"
#include "verify/layer_weights.h"
#include "verify/rope.h"
#include "verify/router.h"

#define CHUNK_TOKENS_MIN 16u
#define CHUNK_TOKENS_MAX 2048u

struct cache;

struct forward {
    const struct source *source;
    const struct arch *arch;
    struct forward_options options;
    struct crew crew;
    struct arena arena;
    struct rope rope;
    struct top_weights top;
    struct mtp_weights mtp;       /* of the first MTP layer */
    struct err mtp_error;         /* why there is none */
    struct layer_weights *layers; /* [layer_count] */
    size_t layer_count;
    size_t *expert_bytes; /* [layer_count]: the largest expert as stored */
    size_t room_bytes;    /* of the largest expert in one piece (verify/expert_place.h) */
    double mla_eps;
    uint64_t dense_tokens; /* UINT64_MAX: any number */
    float *input_scales;   /* of the source's weights, static ones; 0: scaled as it comes. NULL: nobody asks */

    /* the batch */
    struct batch batch;
    struct sequence *sequences; /* a copy: begin again with the same ones costs nothing */
    size_t longest, chunk;      /* tokens */
    size_t wave_rows;           /* expert outputs that are held at once */
    size_t places;              /* experts that are in memory or being read at once; 0: each worker reads its own */
    struct expert_reader *reader;
    size_t reader_places;
    float *turns; /* [tokens][rope_dim] */
    struct stream_store store;
    struct stream residual; /* after attention */
    struct stream query, latent, heads;
    void *memory;
    size_t memory_bytes;
};

/* What a stage is about. */
struct layer_run {
    struct forward *f;
    uint64_t layer;
    const struct layer_weights *weights;
    const struct stream *in;
    struct stream *out;
    const struct observer *observer; /* never NULL */
    struct cache *cache;             /* gets the latents, or NULL */
    bool absorbed;                   /* the batch is one token, behind those of the cache */
    const struct stream *attended;   /* what attention gave, from another pass; NULL: it is run, into f's residual */
};
const struct stream *run_residual(const struct layer_run *r); /* what the layer's second half starts from */

/* Opens the streams, chooses sizes, and takes the memory for them. Refused: a budget below the least. */
/* ERR_UNSUPPORTED when so many tokens that see each other, a cache's among them, need sparse attention. */
bool forward_check_dense(const struct forward *f, size_t tokens, struct err *e) CHECKED;
bool forward_plan_memory(struct forward *f, const struct batch *b, struct err *e) CHECKED;

/* ---- pieces of a workspace ---- */

struct matrix_place {
    const struct weight *weight;
    void *memory;
    struct matrix matrix;
};
float input_scale_of(const struct forward *f, const struct weight *w);
/* By slices: takes and loads nothing. */
void place_matrix(const struct forward *f, struct matrix_place *p, const struct weight *w, struct scratch *s);
bool load_matrix(const struct forward *f, struct matrix_place *p, struct err *e) CHECKED;
struct vector_place {
    const struct weight *weight;
    void *memory;
    float *x;
};
void place_vector(struct vector_place *p, const struct weight *w, struct scratch *s);
bool load_vector(const struct forward *f, struct vector_place *p, struct err *e) CHECKED;
float *place_floats(struct scratch *s, size_t rows, size_t cols);
/* A buffer for rows of a stream: none when it is in memory. s may be NULL: not known yet. */
float *place_rows(struct scratch *m, const struct stream *s, size_t rows, size_t cols);

/* ---- hooks ---- */

bool wants_inputs(const struct layer_run *r);
bool show_input(const struct layer_run *r, enum role role, size_t first, size_t tokens, const float *x, size_t x_stride,
                size_t cols, struct err *e) CHECKED;
bool offer_linear(const struct layer_run *r, enum role role, struct matrix *w, struct err *e) CHECKED;

/* ---- stages: what they need, and doing it ---- */

void attention_project_place(const struct forward *f, const struct layer_weights *l, size_t chunk, struct scratch *s);
void attention_heads_place(const struct forward *f, const struct layer_weights *l, size_t chunk, size_t longest,
                           struct scratch *s);
void attention_output_place(const struct forward *f, const struct layer_weights *l, size_t chunk, struct scratch *s);
void absorbed_heads_place(const struct forward *f, const struct layer_weights *l, struct scratch *s);
bool absorbed_heads_run(const struct layer_run *r, struct err *e) CHECKED; /* query -> heads */
bool attention_run(const struct layer_run *r, struct err *e) CHECKED;      /* in -> residual */

void mlp_need_place(const struct forward *f, const struct layer_weights *l, size_t chunk, struct scratch *s);
bool mlp_run(const struct layer_run *r, struct err *e) CHECKED; /* residual -> out; with experts: out += */

void moe_need_place(const struct forward *f, const struct layer_weights *l, size_t chunk, size_t tokens,
                    size_t wave_rows, struct scratch *s);
bool moe_run(const struct layer_run *r, struct err *e) CHECKED; /* residual -> out: the routed experts' sum */

bool layer_run(const struct layer_run *r, struct err *e) CHECKED; /* in -> out */

void mtp_place(const struct forward *f, size_t chunk, struct scratch *s);

void head_place(const struct forward *f, const struct weight *norm, const struct weight *head, struct scratch *s);
bool head_run(struct forward *f, const struct weight *norm, const struct weight *head, const struct stream *last,
              size_t first, size_t count, float *logits, struct err *e) CHECKED;

/* Rows of the embedding. */
bool embed_rows(const struct forward *f, const struct weight *embed, const uint32_t *ids, size_t count, float *rows,
                struct err *e) CHECKED;
bool check_rows(const struct forward *f, uint64_t layer, size_t first, size_t count, const float *rows,
                struct err *e) CHECKED;
size_t latent_width(const struct forward *f);     /* of a cached row */
size_t query_width(const struct forward *f);      /* of what enters q_b_proj, or q_proj */
struct attend attend_of(const struct forward *f); /* all but the matrices */

#endif
