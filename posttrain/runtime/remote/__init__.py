"""A store in an S3-compatible bucket, of which each machine has a copy of what it uses in a local folder.

Reading order: `bucket`, `place`, `lease`, `results`, `uploads`, `documents`.
"""
