"""Grids of a UNet's layers: it halves its latents, rounding up, as often as a layer is deep."""

from __future__ import annotations

from ..errors import InputError

MAP_SIDE = 16
"""Word maps are read from layers of at least 16×16 positions (exactly that at 512×512 pixels)."""
MOST_HALVINGS = 2
"""How often the grid is halved where maps are read at most; deeper lies the middle block alone."""


def map_grid(height: int, width: int) -> tuple[int, int]:
    """Grid of the layers whose maps are read, for latents of that size: the smallest of at least 16×16 positions."""
    grids = [(height, width)]
    while min(grids[-1]) > 1 and len(grids) <= MOST_HALVINGS:
        grids.append((-(-grids[-1][0] // 2), -(-grids[-1][1] // 2)))
    return next((g for g in reversed(grids) if g[0] * g[1] >= MAP_SIDE**2), grids[0])


def halving(size: tuple[int, int], positions: int) -> tuple[int, int] | None:
    """(h, w) of the halving, rounded up, of latents of ``size`` that has so many positions; None where none has."""
    height, width = size
    while height * width > positions:
        height, width = -(-height // 2), -(-width // 2)
    return (height, width) if height * width == positions else None


def layer_grid(size: tuple[int, int], positions: int) -> tuple[int, int]:
    """(h, w) of a layer with so many positions, in a UNet that halves latents of ``size``, rounding up.

    Raises InputError where no halving has that many.
    """
    found = halving(size, positions)
    if found is None:
        raise InputError(
            f"the model attends to {positions} positions, which no halving of its latents ({size[0]}×{size[1]}) has, "
            "so new words cannot be focused; set focus_from to 1, or take out what rescales the model's layers"
        )
    return found


def shorter_side(size: tuple[int, int], positions: int) -> float:
    """Of a layer with so many positions; the side of a square where no halving of latents of ``size`` has as many."""
    grid = halving(size, positions)
    return positions**0.5 if grid is None else min(grid)
