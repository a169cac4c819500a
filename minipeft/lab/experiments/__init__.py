"""One file for each experiment, and their figures."""
