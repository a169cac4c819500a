"""What `hw1_autograd` is graded on, and the mistakes that the self-test makes in it."""
