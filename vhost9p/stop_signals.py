"""The signals that end the daemon; signals.py has all others. A keeper needs no more of them."""

import signal

STOP = (signal.SIGTERM, signal.SIGINT)
