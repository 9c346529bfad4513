/*
 * refusal: what has refused the request that the calling thread runs, for the log.
 *
 * An errno does not say who refuses: EPERM may be the host's, or an id_map's. So where this project
 * refuses by a rule of its own, it notes the rule, and whoever reports the failed request
 * (request/failure.h) finds it here. A note counts only for its own errno: what was refused on the
 * way, and then done otherwise, explains no other error. Nothing depends on a note but words.
 */
#ifndef V9_BASE_REFUSAL_H
#define V9_BASE_REFUSAL_H

#include "base/api.h"

/* Notes what refuses, by V9_REFUSED_*, and returns -error. */
int v9_refuse(int error, uint32_t why, uint64_t value);
/* A request begins whose failure would be reported: nothing is noted yet. `denied`, which the
 * thread keeps, is for v9_refusal_of_walk. */
void v9_refusal_begin(struct v9_file_facts *denied);
/* Its walk has followed so many names, and fails with an errno in this directory. Looks at the
 * directory, if the thread has ever begun a request that way; see v9_file_facts for `asked`. */
void v9_refusal_of_walk(int error, uint32_t walked, int32_t dir_fd, uint64_t asked);
/* The errno with which a walk has ended early, without an error in its reply; 0. */
int v9_refusal_walk_error(void);
/* What was noted for a request that fails with this errno. */
void v9_refusal_read(int error, struct v9_refusal *out);

#endif
