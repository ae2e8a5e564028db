"""Judging generated sound: the paper's metrics, and the filter of clips whose sound fits their picture."""
