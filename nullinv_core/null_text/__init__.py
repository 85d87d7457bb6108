"""Null-text optimization (Mokady et al. 2022, section 3.3), and the presets that people choose from.

``optimization.py`` is algorithm 1; ``batch.py`` keeps the books for it. ``presets/`` has one file for each preset.
"""
