/*
 * refresher: what the agent in a guest (csrc/guest/) and the server have to agree upon.
 *
 * Plain constants only: the agent includes nothing else of the server.
 */
#ifndef V9_EXPORT_REFRESHER_H
#define V9_EXPORT_REFRESHER_H

/* The user whose requests change nothing on the host: he has his own kernel look at files again. */
enum { V9_REFRESH_UID = 1986541936 };
/*
 * What this user writes, or the beginning of it, to tell his own kernel where a file ends: no byte
 * reaches the file. His kernel may take his fid for other users' data, too (p9/io.c).
 */
#define V9_REFRESH_DATA "vhost9p refresh\n"

#endif
