"""One Prefect task per stage, and everything that talks to MLflow."""
