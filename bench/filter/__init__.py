"""`python -m bench filter`: the corpus filter against datatrove's executor, on the same documents in the same run."""
