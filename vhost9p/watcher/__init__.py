"""The process that watches for a VM what happens below its exports, where main may watch whole file
systems (native/fanotify.py).

process.py is main's part: when there is such a process, and what it has said. child.py is the
process: what it opens, gives up and reads. places.py has where in the guest's mounts a changed
directory is. What the events become is in vhost9p/changes.
"""
