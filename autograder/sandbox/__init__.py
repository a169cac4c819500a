"""Run submissions in confined processes that exchange frames."""
