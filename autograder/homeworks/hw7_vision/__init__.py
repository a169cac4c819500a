"""What `hw7_vision` is graded on, and the mistakes that the self-test makes in it."""
