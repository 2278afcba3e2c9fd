"""`posttrain serve`: the servers and workers of one machine, started and stopped together."""
