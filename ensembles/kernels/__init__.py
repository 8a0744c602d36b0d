"""Compiled loops over members that match their NumPy references bit for bit.

Members are passed as a stack of shape (n_members, size). Loops work on pieces of `LANE`
elements, so that intermediate values stay in the L1 cache, and release the GIL. A loop
is compiled at its first call, once per machine.
"""
