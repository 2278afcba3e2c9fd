"""Pure functions on tensors, one file for each family, named as in the papers they cite."""
