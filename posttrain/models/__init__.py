"""What is known about architectures, and policies by reference. Loads no weights.

Reading order: `policy`, `blocks`, `architectures`, `weight_sharing`.
"""
