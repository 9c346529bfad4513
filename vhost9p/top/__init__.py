"""What a guest asks most, and how long it waits: `vhost9p top`.

sample.py asks daemons what they have counted, and makes rates of two answers; watch.py looks at the
requests themselves, for paths and the slowest of them; view.py lays both out in lines, and
screen.py shows these until somebody ends it. What comes from daemons is data that a guest may have
made: it is escaped, and cut.
"""
