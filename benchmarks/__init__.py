"""Measurements: ratios against named peers in the same run, written as JSON. Nothing here is a test."""
