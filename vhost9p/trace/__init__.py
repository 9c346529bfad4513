"""Watching the requests of a running device: `vhost9p trace`.

memory.py is the memory that main, worker and tracer share; reader.py takes records from it;
notation.py has the layouts of all messages, events.py what a record says in the guest's terms;
lines.py prints, capture.py writes and reads captures. csrc/request/trace.h is the other side.
"""
