"""Drivers: how a case calls what a student wrote. They run beside the submission and hold no secret.

A driver is ``def name(mp, a, p) -> dict``: ``mp`` the library (with the student's modules in it), ``a`` the case's
arrays by name, ``p`` its parameters. It returns arrays, numbers, strings, booleans, None, or lists of them, by name.
The same driver runs on the trusted side with the library itself: what it returns there is the reference. It imports
NumPy alone.
"""
