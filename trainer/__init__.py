"""Fits the mapper on a cache of features. This package knows nothing of video."""
