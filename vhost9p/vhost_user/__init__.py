"""The vhost-user protocol, the backend's end.

`messages` knows the layout, `session` the rules, and neither does I/O; `channel` moves bytes and
descriptors between the socket and a session.
"""
