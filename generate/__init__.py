"""Mapper predictions -> AudioLDM-2 -> wav and mp4."""
