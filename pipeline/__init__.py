"""Frames and sound in, cached features out. This package knows nothing of training."""
