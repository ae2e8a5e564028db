"""Clip lists, and the small rendered world that stands in for a data set on a fresh machine."""
