"""What `hw5_intrinsic` is graded on, and the mistakes that the self-test makes in it."""
