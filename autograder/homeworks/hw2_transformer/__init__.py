"""What `hw2_transformer` is graded on, and the mistakes that the self-test makes in it."""
