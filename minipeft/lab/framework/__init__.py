"""What the experiments share: their form, runs, statistics, tables and figures."""
