"""Compiled loops over members, each beside the numpy line that it equals bit for bit.

Members come as a stack of shape (n_members, size). Loops work on pieces of `LANE`
elements, so that what lies between two of them stays in the first cache, and release
the interpreter's lock. Only what a job calls is compiled, once for a machine.
"""
