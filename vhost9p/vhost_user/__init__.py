"""The vhost-user protocol, backend's end.

messages.py declares what may be said, framing.py cuts the byte stream into messages, session.py
decides what each message means and answers it, channel.py moves bytes and descriptors between one
socket and a session, listener.py gets connections. What is to be done to the device goes through
the `Backend` Protocol of session.py. Only channel.py and listener.py touch sockets.
"""
