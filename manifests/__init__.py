"""Clip records, and the builders that find them: folders of videos, published lists."""
