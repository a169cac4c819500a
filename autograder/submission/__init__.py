"""What a student hands in: reading it, checking its syntax and style, comparing it with others."""
