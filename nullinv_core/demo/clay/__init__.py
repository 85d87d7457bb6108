"""A world of clay toys on tables, grass and snow: pictures with light and shadow of which everything is known."""
