#include "base/key_lock.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

/* A thread holds two at most: the list is short. */
static struct v9_key_lock *held;
static uint32_t waiting;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* lock order: docs/architecture.md */
static pthread_cond_t released = PTHREAD_COND_INITIALIZER;

static bool is_held(const struct v9_key *key)
{
    for (const struct v9_key_lock *each = held; each; each = each->next)
        if (each->key.a == key->a && each->key.b == key->b)
            return true;
    return false;
}

static bool is_any_held(const struct v9_key_lock *locks, uint32_t count)
{
    while (count--)
        if (is_held(&locks[count].key))
            return true;
    return false;
}

void v9_key_lock(struct v9_key_lock *locks, uint32_t count)
{
    pthread_mutex_lock(&mutex);
    waiting++;
    while (is_any_held(locks, count))
        pthread_cond_wait(&released, &mutex);
    waiting--;
    for (uint32_t i = 0; i < count; i++) {
        locks[i].next = held;
        held = &locks[i];
    }
    pthread_mutex_unlock(&mutex);
}

static void leave(const struct v9_key_lock *lock)
{
    struct v9_key_lock **at = &held;

    while (*at != lock)
        at = &(*at)->next;
    *at = lock->next;
}

void v9_key_unlock(struct v9_key_lock *locks, uint32_t count)
{
    pthread_mutex_lock(&mutex);
    for (uint32_t i = 0; i < count; i++)
        leave(&locks[i]);
    if (waiting)
        pthread_cond_broadcast(&released);
    pthread_mutex_unlock(&mutex);
}
