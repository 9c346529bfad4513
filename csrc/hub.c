/*
 * hub: the process's queue of upcalls. Serving threads post, one Python thread waits.
 *
 * Notes are embedded in the request or device that they are about, so posting neither allocates nor
 * fails. A note is posted while it is not queued only.
 */
#include "serve.h"

#include "pressure.h"

#include <stdlib.h>

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

void v9_hub_post(v9_hub *hub, struct v9_note *note)
{
    pthread_mutex_lock(&hub->lock);
    if (!note->queued) {
        note->queued = true;
        note->next = NULL;
        *hub->last = note;
        hub->last = &note->next;
        pthread_cond_signal(&hub->wake);
    }
    pthread_mutex_unlock(&hub->lock);
}

/* Drops what a device has queued, before the device goes. */
void v9_hub_forget(v9_hub *hub, uint32_t device)
{
    struct v9_note **link;

    pthread_mutex_lock(&hub->lock);
    link = &hub->first;
    while (*link) {
        if ((*link)->up.device == device)
            *link = (*link)->next;
        else
            link = &(*link)->next;
    }
    hub->last = link;
    pthread_mutex_unlock(&hub->lock);
}

int v9_hub_wait(v9_hub *hub, struct v9_upcall *out, int32_t max)
{
    int count = 0;

    v9_pressure_exempt();
    pthread_mutex_lock(&hub->lock);
    while (!hub->first && !hub->closed)
        pthread_cond_wait(&hub->wake, &hub->lock);
    while (hub->first && count < max && !hub->closed) {
        struct v9_note *note = hub->first;
        hub->first = note->next;
        note->queued = false;
        out[count++] = note->up;
    }
    if (!hub->first)
        hub->last = &hub->first;
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
