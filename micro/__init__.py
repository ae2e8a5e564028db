"""How the frozen models of the micro preset are trained. Their weights do not ship yet."""
