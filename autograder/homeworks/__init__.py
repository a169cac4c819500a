"""What each homework is: its problems, stubs, cases, drivers, mutants and variants. One folder a homework."""
