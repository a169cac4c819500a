"""What `hw8_few_shot` is graded on, and the mistakes that the self-test makes in it."""
