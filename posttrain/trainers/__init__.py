"""One training loop, and the objectives and stages that use it."""
