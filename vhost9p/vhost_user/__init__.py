"""The backend's end of the vhost-user protocol (QEMU's docs/interop/vhost-user.rst).

messages.py declares the messages, framing.py cuts the byte stream into messages, session.py carries
each message out and answers it, channel.py moves bytes and descriptors between one socket and a
session, listener.py accepts connections, descriptors.py checks and closes what a frontend sends.
The session sets the device up through the `Backend` Protocol of session.py. channel.py and
listener.py own the sockets.
"""
