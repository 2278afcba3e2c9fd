"""The commands of `posttrain`, one file each; `shared` holds what they have in common, and `flows/cli.py` lists them."""
