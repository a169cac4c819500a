"""The autograder: it grades a submission without ever running it in the process that decides.

The trusted side draws the inputs, computes what the library answers, and compares. The worker, another process, has
the submission, calls it with those inputs and sends back plain arrays: values, not verdicts.
"""
