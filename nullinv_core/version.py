"""What this package runs on: the check of torch, and how the rest is installed. The package's own version stands in
``pyproject.toml`` alone."""

OLDEST_TORCH = (2, 1)
INSTALL = "python -m pip install -r requirements.txt -r requirements-cli.txt"
"""What the command line and the diffusers backend need; both files at once, so that their packages fit each other."""


def check_torch(version: str) -> None:
    """Raise ImportError where torch is older than this package can use."""
    numbers = tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in version.split("+")[0].split(".")[:2])
    if numbers < OLDEST_TORCH:
        raise ImportError(f"null-text inversion needs torch {'.'.join(map(str, OLDEST_TORCH))} or newer, not {version}")
