"""Processes that run a submission: what confines them, and the frames that they exchange."""
