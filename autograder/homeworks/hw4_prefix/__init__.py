"""What `hw4_prefix` is graded on, and the mistakes that the self-test makes in it."""
