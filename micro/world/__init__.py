"""The rendered world: scenes, how they look, how they sound, and clips of them."""
