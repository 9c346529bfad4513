"""What a fid stands for when the host changes names: until it is opened, for whatever has the name
by which the guest reached it. Linux's client keeps the fid of a directory entry that is in use, and
clones it, walks on from it and asks for its attributes without a look at the name.

Both dialects, all security models, evicted files.
"""
