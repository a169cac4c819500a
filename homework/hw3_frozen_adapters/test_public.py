"""`pytest homework/hw3_frozen_adapters`: the public cases, each a test.

What counts in the end are others, drawn anew.
"""

from autograder.public import public_tests

test_public = public_tests(__file__)
