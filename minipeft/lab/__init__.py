"""The lecture's experiments: each file returns rows; plots.py draws them."""
