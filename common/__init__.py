"""What every room uses and what is nobody's: errors, console, devices, hashing, files written whole."""
