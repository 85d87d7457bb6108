"""The check of the torch that this package runs on. The package's own version stands in ``pyproject.toml`` alone."""

OLDEST_TORCH = (2, 1)


def check_torch(version: str) -> None:
    """Raise ImportError where torch is older than this package can use."""
    numbers = tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in version.split("+")[0].split(".")[:2])
    if numbers < OLDEST_TORCH:
        raise ImportError(f"null-text inversion needs torch {'.'.join(map(str, OLDEST_TORCH))} or newer, not {version}")
