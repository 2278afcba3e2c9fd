"""Contracts: what a recipe, a data set and a stage result must look like. Imports no torch, Prefect or MLflow."""
