"""A page in the browser: a video in, the same film with its sound out (``python -m app``)."""
