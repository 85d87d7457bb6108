"""How good edited pictures are: the figures of PIE-Bench (Ju et al. 2023, arXiv 2310.01506) by rules that are named.

``pie_bench`` reads the folder, ``rules`` has every choice that moves a figure, ``pixels`` and ``networks`` measure one
picture, ``score`` all of them, ``statistics`` and ``tables`` say it. Needs torchmetrics.
"""
