"""How the models that the micro preset ships are trained, the study made with them, and the demo's page."""
