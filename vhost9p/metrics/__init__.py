"""Metrics for Prometheus: a process of its own, forked by main, that serves them by HTTP on a
socket of main's.

It has no rights, and no descriptor but that socket and a connection to main, on which it asks what
was counted ("counts" of answers/, over the protocol of control/). So whoever can harm it gets
numbers, and main has neither threads nor HTTP. It ends with its connection: when main ends, or
executes another version of the code, which has the socket and starts the next one.

- families.py: which metrics there are, and what they mean
- child.py: the process
- process.py: main's part, and where it listens
"""
