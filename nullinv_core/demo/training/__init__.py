"""How the demo model was made: rendering, training, measuring. Not part of the published pack."""
