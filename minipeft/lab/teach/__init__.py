"""What the notebooks use to show and explain the library."""
