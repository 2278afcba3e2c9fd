"""Intervals and calibration: mathematics on numbers that were measured."""
