"""What `hw3_frozen_adapters` is graded on, and the mistakes that the self-test makes in it."""
