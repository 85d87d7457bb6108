"""Pivotal inversion (Mokady et al. 2022, section 3.2): clean latents to the pivot trajectory, at w = 1.

``invert.py`` walks along a schedule with one of the methods in ``methods/``, one file each.
"""
