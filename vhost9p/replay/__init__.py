"""Repeating what a guest has asked: `vhost9p replay`.

frontend.py is a VMM and a guest's driver, with one request at a time; served.py starts a daemon for
a directory; session.py makes requests of recorded ones, and compare.py looks at the replies.
"""
