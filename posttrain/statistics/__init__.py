"""Intervals and calibration of measured numbers."""
