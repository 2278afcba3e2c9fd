"""Peers: for each its pinned requirements, and the same training through its own trainers."""
