#include "verify/expert_reader.h"

#include <assert.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "formats/base/mem.h"
#include "verify/expert_place.h"

enum place_state { PLACE_FREE, PLACE_READING, PLACE_READY, PLACE_TAKEN };

struct place {
    enum place_state state;
    bool dropped; /* while it was read, everybody lost interest */
    uint64_t layer, expert;
    uint8_t *room;
    struct coded mlp[MLP_PARTS];
    bool ok;
    struct err err;
};

struct expert_reader {
    struct expert_shards shards; /* the thread's own */
    pthread_t thread;
    pthread_mutex_t lock; /* guards all below but what a place that is read or taken holds */
    pthread_cond_t work, ready;
    struct place *places;
    size_t place_count;
    uint64_t layer, next, end; /* experts [next, end) are still to be read */
    const bool *wanted;        /* NULL: not known yet */
    bool stop;
    uint8_t *memory;
};

/* ---- the thread ---- */

static struct place *find_free(struct expert_reader *r)
{
    for (size_t i = 0; i < r->place_count; i++)
        if (r->places[i].state == PLACE_FREE)
            return &r->places[i];
    return NULL;
}

/* The next expert to read and where to, or NULL for now. */
static struct place *next_place(struct expert_reader *r)
{
    struct place *p;

    while (r->wanted && r->next < r->end && !r->wanted[r->next])
        r->next++;
    if (r->next == r->end || (p = find_free(r)) == NULL)
        return NULL;
    p->state = PLACE_READING;
    p->dropped = false;
    p->layer = r->layer;
    p->expert = r->next++;
    return p;
}

static void read_place(struct expert_shards *s, struct place *p)
{
    const struct weight *mlp[MLP_PARTS];

    p->err = (struct err){0};
    p->ok = layer_expert(s->source, p->layer, p->expert, mlp, &p->err) && expert_read(s, mlp, p->room, p->mlp, &p->err);
}

static void *reader_main(void *arg)
{
    struct expert_reader *r = arg;

    pthread_mutex_lock(&r->lock);
    for (;;) {
        struct place *p = NULL;

        while (!r->stop && (p = next_place(r)) == NULL)
            pthread_cond_wait(&r->work, &r->lock);
        if (!p)
            break;
        pthread_mutex_unlock(&r->lock);
        read_place(&r->shards, p);
        pthread_mutex_lock(&r->lock);
        p->state = p->dropped ? PLACE_FREE : PLACE_READY;
        pthread_cond_broadcast(&r->ready);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* ---- its life ---- */

uint64_t expert_reader_bytes(size_t places, size_t room_bytes)
{
    return (uint64_t)places * room_bytes + EXPERT_ROOM_ALIGN;
}

static void take_memory(struct expert_reader *r, size_t room_bytes)
{
    size_t bytes = (size_t)expert_reader_bytes(r->place_count, room_bytes);

    r->memory = mem_aligned(bytes);
    uint8_t *first = r->memory + (EXPERT_ROOM_ALIGN - (uintptr_t)r->memory % EXPERT_ROOM_ALIGN) % EXPERT_ROOM_ALIGN;
    for (size_t i = 0; i < r->place_count; i++)
        r->places[i].room = first + i * room_bytes;
    /* Large pages, where they are to be had: the disk writes to fewer pieces. */
    (void)madvise(first, r->place_count * room_bytes, MADV_HUGEPAGE);
}

static void release(struct expert_reader *r)
{
    pthread_cond_destroy(&r->work);
    pthread_cond_destroy(&r->ready);
    pthread_mutex_destroy(&r->lock);
    expert_shards_release(&r->shards);
    mem_free(r->memory);
    mem_free(r->places);
    mem_free(r);
}

struct expert_reader *expert_reader_new(const struct source *s, size_t places, size_t room_bytes, bool direct)
{
    struct expert_reader *r = mem_alloc(sizeof *r);

    assert(room_bytes % EXPERT_ROOM_ALIGN == 0);
    r->shards.source = s;
    r->shards.direct = direct;
    r->places = mem_alloc(places * sizeof *r->places);
    r->place_count = places;
    take_memory(r, room_bytes);
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->work, NULL);
    pthread_cond_init(&r->ready, NULL);
    if (pthread_create(&r->thread, NULL, reader_main, r) == 0)
        return r;
    release(r);
    return NULL;
}

void expert_reader_free(struct expert_reader *r)
{
    if (!r)
        return;
    pthread_mutex_lock(&r->lock);
    r->stop = true;
    pthread_cond_signal(&r->work);
    pthread_mutex_unlock(&r->lock);
    pthread_join(r->thread, NULL);
    release(r);
}

/* ---- its use ---- */

static void drop(struct place *p)
{
    assert(p->state != PLACE_TAKEN);
    if (p->state == PLACE_READING)
        p->dropped = true;
    else
        p->state = PLACE_FREE;
}

/* With the lock. */
static void restart(struct expert_reader *r, uint64_t layer, uint64_t end)
{
    for (size_t i = 0; i < r->place_count; i++)
        drop(&r->places[i]);
    r->layer = layer;
    r->next = 0;
    r->end = end;
    r->wanted = NULL;
}

void expert_reader_begin(struct expert_reader *r, uint64_t layer, bool guess)
{
    pthread_mutex_lock(&r->lock);
    restart(r, layer, guess ? r->shards.source->arch.experts : 0);
    pthread_cond_signal(&r->work);
    pthread_mutex_unlock(&r->lock);
}

void expert_reader_end(struct expert_reader *r)
{
    pthread_mutex_lock(&r->lock);
    restart(r, 0, 0);
    pthread_mutex_unlock(&r->lock);
}

void expert_reader_choose(struct expert_reader *r, const bool *wanted)
{
    pthread_mutex_lock(&r->lock);
    r->wanted = wanted;
    r->end = r->shards.source->arch.experts;
    for (size_t i = 0; i < r->place_count; i++) {
        struct place *p = &r->places[i];
        if (p->state != PLACE_FREE && !p->dropped && !wanted[p->expert])
            drop(p);
    }
    pthread_cond_signal(&r->work);
    pthread_mutex_unlock(&r->lock);
}

static struct place *find(struct expert_reader *r, uint64_t expert, enum place_state state)
{
    for (size_t i = 0; i < r->place_count; i++)
        if (r->places[i].state == state && r->places[i].expert == expert)
            return &r->places[i];
    return NULL;
}

bool expert_reader_take(struct expert_reader *r, uint64_t expert, struct coded out[MLP_PARTS], struct err *e)
{
    struct place *p;

    pthread_mutex_lock(&r->lock);
    while ((p = find(r, expert, PLACE_READY)) == NULL)
        pthread_cond_wait(&r->ready, &r->lock);
    p->state = PLACE_TAKEN;
    pthread_mutex_unlock(&r->lock);
    memcpy(out, p->mlp, sizeof p->mlp);
    if (!p->ok && e)
        *e = p->err;
    return p->ok;
}

void expert_reader_give(struct expert_reader *r, uint64_t expert)
{
    pthread_mutex_lock(&r->lock);
    struct place *p = find(r, expert, PLACE_TAKEN);
    if (p)
        p->state = PLACE_FREE;
    pthread_cond_signal(&r->work);
    pthread_mutex_unlock(&r->lock);
}
