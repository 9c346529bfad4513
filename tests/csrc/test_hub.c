// sources: hub.c
/*
 * The hub: what is posted comes out once, each device's in order, and devices take turns.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "serve.h"

enum { NOTES = 16, ROOM = 64 };

static struct v9_line lines[3];
static struct v9_note notes[3][NOTES];
static struct v9_upcall got[3 * NOTES];
static uint8_t room[ROOM];

static void post(v9_hub *hub, uint32_t device, uint32_t slot)
{
    struct v9_note *note = &notes[device][slot];

    note->line = &lines[device];
    note->up = (struct v9_upcall){.device = device, .slot = slot, .fd = -1};
    v9_hub_post(hub, note);
}

/* What `max` upcalls are, as "device.slot " each. */
static const char *taken(v9_hub *hub, int max)
{
    static char text[512];
    int count = v9_hub_wait(hub, got, max, room, ROOM);

    text[0] = 0;
    for (int i = 0; i < count; i++)
        sprintf(text + strlen(text), "%u.%u ", got[i].device, got[i].slot);
    return text;
}

static void test_turns(v9_hub *hub)
{
    for (uint32_t slot = 0; slot < 5; slot++)
        post(hub, 0, slot);
    post(hub, 1, 0);
    post(hub, 1, 1);
    post(hub, 2, 0);
    CHECK(!strcmp(taken(hub, 4), "0.0 1.0 2.0 0.1 "));
    post(hub, 2, 1); /* behind those that wait */
    post(hub, 2, 1); /* which changes nothing: it is queued */
    CHECK(!strcmp(taken(hub, 3), "1.1 0.2 2.1 "));
    CHECK(!strcmp(taken(hub, 9), "0.3 0.4 "));
    post(hub, 2, 1);
    CHECK(!strcmp(taken(hub, 9), "2.1 "));
}

static void test_forgotten(v9_hub *hub)
{
    for (uint32_t device = 0; device < 3; device++)
        for (uint32_t slot = 5; slot < 7; slot++)
            post(hub, device, slot);
    v9_hub_forget(hub, &lines[2]);
    v9_hub_forget(hub, &lines[2]);
    CHECK(!strcmp(taken(hub, 2), "0.5 1.5 "));
    v9_hub_forget(hub, &lines[0]);
    CHECK(!strcmp(taken(hub, 9), "1.6 "));
    post(hub, 0, 7);
    CHECK(!strcmp(taken(hub, 9), "0.7 "));
}

/* What finds no room waits, and is the next. */
static void test_room(v9_hub *hub)
{
    static const uint8_t bytes[ROOM] = "the bytes of a request";

    for (uint32_t slot = 8; slot < 11; slot++) {
        notes[1][slot].data = bytes;
        post(hub, 1, slot);
        notes[1][slot].up.size = ROOM / 2; /* nobody has looked yet */
    }
    CHECK(!strcmp(taken(hub, 9), "1.8 1.9 "));
    CHECK(got[0].at == 0 && got[1].at == ROOM / 2 && !memcmp(room + ROOM / 2, bytes, ROOM / 2));
    CHECK(!strcmp(taken(hub, 9), "1.10 "));
}

static void *post_many(void *argument)
{
    v9_hub *hub = argument;

    for (uint32_t i = 0; i < 30000; i++) /* some of which are queued */
        v9_hub_post(hub, &notes[1][i % 8]);
    post(hub, 2, 11);
    return NULL;
}

/* Nothing is lost while one thread posts and another one takes. */
static void test_threads(v9_hub *hub)
{
    pthread_t thread;
    bool last = false;

    for (uint32_t slot = 0; slot < 8; slot++)
        post(hub, 1, slot);
    CHECK(pthread_create(&thread, NULL, post_many, hub) == 0);
    while (!last) {
        int count = v9_hub_wait(hub, got, 3, room, ROOM);
        CHECK(count > 0);
        for (int i = 0; i < count; i++)
            last |= got[i].device == 2;
    }
    pthread_join(thread, NULL);
    post(hub, 2, 12);
    while (got[0].slot != 12)
        CHECK(v9_hub_wait(hub, got, 1, room, ROOM) == 1);
    CHECK(!lines[0].first && !lines[1].first && !lines[2].first);
}

int main(void)
{
    v9_hub *hub = v9_hub_new();

    test_turns(hub);
    test_forgotten(hub);
    test_room(hub);
    test_threads(hub);
    v9_hub_close(hub);
    CHECK(v9_hub_wait(hub, got, 9, room, ROOM) == 0);
    v9_hub_free(hub);
    return 0;
}
