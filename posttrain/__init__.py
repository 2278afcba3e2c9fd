"""The algorithms: pure functions and small trainers. Imports no Prefect and no MLflow."""
