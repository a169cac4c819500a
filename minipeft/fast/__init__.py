"""Specializations: classes with the contract of a Function in `minipeft.ops` that are faster on one kind of device.

`Function.apply` looks them up; inside ``mp.reference()`` the pages of `minipeft.ops` run instead.
"""

from minipeft.fast import attention, cpu, cuda, loss, optimizer, prefix

__all__ = ["attention", "cpu", "cuda", "loss", "optimizer", "prefix"]
