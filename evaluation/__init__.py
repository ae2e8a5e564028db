"""Judging generated sound. So far the classifier of the small world; the paper's metrics follow."""
