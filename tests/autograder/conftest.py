"""Fail a test in whose process an explanation raised.

A submission loses no points by it, so that it would go unnoticed.
"""

import logging

import pytest

from autograder.feedback.explain import LOG


class Kept(logging.Handler):
    """A handler that keeps the messages."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.messages = []

    def emit(self, record):
        self.messages.append(self.format(record))


@pytest.fixture(autouse=True)
def failed_explanations():
    """The explanations that raised, with their tracebacks. A test that expects one takes it out of the list."""
    kept = Kept()
    LOG.addHandler(kept)
    yield kept.messages
    LOG.removeHandler(kept)
    assert not kept.messages, "\n".join(kept.messages)
