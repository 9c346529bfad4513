/*
 * hub: the process's queue of upcalls. Serving threads post, one Python thread waits.
 *
 * Devices take turns: each has a line of its own, from which one note is taken at a time. So a
 * guest that keeps Python busy with all the requests it can have in flight costs another one, which
 * makes few, no more than its own share.
 *
 * Notes are embedded in the request or device that they are about, so posting neither allocates nor
 * fails. A note is posted while it is not queued only.
 */
#include "serve.h"

#include <stdlib.h>
#include <string.h>

v9_hub *v9_hub_new(void)
{
    v9_hub *hub = calloc(1, sizeof(*hub));
    if (!hub)
        return NULL;
    pthread_mutex_init(&hub->lock, NULL);
    pthread_cond_init(&hub->wake, NULL);
    hub->last = &hub->first;
    return hub;
}

void v9_hub_free(v9_hub *hub)
{
    pthread_cond_destroy(&hub->wake);
    pthread_mutex_destroy(&hub->lock);
    free(hub);
}

/* Puts a line that has notes at the end of the queue. */
static void stand_in_queue(v9_hub *hub, struct v9_line *line)
{
    line->next = NULL;
    *hub->last = line;
    hub->last = &line->next;
}

static void append(v9_hub *hub, struct v9_note *note)
{
    struct v9_line *line = note->line;

    note->next = NULL;
    if (line->first) {
        *line->last = note;
    } else {
        line->first = note;
        stand_in_queue(hub, line);
    }
    line->last = &note->next;
}

void v9_hub_queue(v9_hub *hub, struct v9_note *note)
{
    pthread_mutex_lock(&hub->lock);
    if (!note->queued) {
        note->queued = true;
        append(hub, note);
    }
    pthread_mutex_unlock(&hub->lock);
}

void v9_hub_wake(v9_hub *hub)
{
    bool wakes;

    pthread_mutex_lock(&hub->lock);
    wakes = hub->waiting && hub->first;
    if (wakes)
        hub->waiting = false;
    pthread_mutex_unlock(&hub->lock);
    if (wakes) /* without the lock, which the woken thread takes first of all */
        pthread_cond_signal(&hub->wake);
}

void v9_hub_post(v9_hub *hub, struct v9_note *note)
{
    v9_hub_queue(hub, note);
    v9_hub_wake(hub);
}

/* Drops what a device has queued, before the device goes. */
void v9_hub_forget(v9_hub *hub, struct v9_line *line)
{
    struct v9_line **link;

    pthread_mutex_lock(&hub->lock);
    link = &hub->first;
    while (*link) {
        if (*link == line)
            *link = line->next;
        else
            link = &(*link)->next;
    }
    hub->last = link;
    line->first = NULL;
    pthread_mutex_unlock(&hub->lock);
}

/* Takes the next note, whose line goes to the queue's end; false where its bytes find no room. */
static bool take(v9_hub *hub, struct v9_upcall *out, uint8_t *data, uint32_t size, uint32_t *used)
{
    struct v9_line *line = hub->first;
    struct v9_note *note = line->first;

    if (note->up.size > size - *used)
        return false;
    *out = note->up;
    out->at = *used;
    if (note->up.size)
        memcpy(data + *used, note->data, note->up.size);
    *used += note->up.size;
    note->queued = false;
    hub->first = line->next;
    if (!hub->first)
        hub->last = &hub->first;
    line->first = note->next;
    if (line->first)
        stand_in_queue(hub, line);
    return true;
}

int v9_hub_wait(v9_hub *hub, struct v9_upcall *out, int32_t max, uint8_t *data, uint32_t size)
{
    uint32_t used = 0;
    int count = 0;

    pthread_mutex_lock(&hub->lock);
    while (!hub->first && !hub->closed) {
        hub->waiting = true;
        pthread_cond_wait(&hub->wake, &hub->lock);
    }
    while (hub->first && count < max && !hub->closed && take(hub, &out[count], data, size, &used))
        count++;
    pthread_mutex_unlock(&hub->lock);
    return count;
}

void v9_hub_close(v9_hub *hub)
{
    pthread_mutex_lock(&hub->lock);
    hub->closed = true;
    pthread_cond_broadcast(&hub->wake);
    pthread_mutex_unlock(&hub->lock);
}
