"""What `hw6_lora` is graded on, and the mistakes that the self-test makes in it."""
