"""The host's changes in those directories that the guest has looked at, for daemons that may not
watch whole file systems: in the worker itself, which marks the directories
(csrc/export/dir_marks.c).

places.py has where marked directories are, reader.py reads events and makes lines of them.
"""
