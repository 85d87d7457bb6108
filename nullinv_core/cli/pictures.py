"""The pictures that commands read and write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ..backends.diffusers import DiffusersModel
    from ..files.store import Inversion
    from ..pipeline import Edited


def check_own_pixels(typed: Mapping[str, bool], full_size: bool, keep_pixels: bool, reference: Path | None) -> None:
    """Raise InputError for --keep-pixels that was ``typed``, and for --full-size, without what they need."""
    from ..photo.full_size import check_full_size

    check_full_size(full_size, keep_pixels)
    if reference is None and typed.get("keep_pixels"):
        raise InputError("--keep-pixels needs --reference, the photo whose pixels they are")
    if full_size and reference is None:
        raise InputError("--full-size needs --reference, the photo whose size it is")


def photo_of(picture: Image, name: Path | None, stored: Inversion, loaded: DiffusersModel) -> Tensor:
    """The photo of an inversion, (1, H, W, 3), scaled and cropped as it was; raises InputError for another one."""
    from ..photo.images import load_image

    inverted = stored.trajectory.clean
    height, width = (n * loaded.factor for n in inverted.shape[-2:])
    photo = load_image(picture, (width, height))
    latents = loaded.encode_image(photo)
    # half precision and another way of scaling stay far below this, another photo above
    if float((latents.to(inverted) - inverted).square().mean().sqrt() / inverted.std()) > 0.2:
        raise InputError(f'--reference "{name}" is not the photo that was inverted; give that one, or leave it out')
    return photo


def with_own_pixels(
    found: Edited, photo: Tensor | None, whole: Image | None, stored: Inversion, loaded: DiffusersModel
) -> tuple[Edited, Tensor]:
    """Edits with the photo's own pixels, and pictures to save: the same, or as large as the ``whole`` photo. Without a
    photo they are as decoded."""
    from ..photo.full_size import larger
    from ..photo.images import from_pil

    if photo is None:
        return found, found.pictures
    decoded = loaded.decode(stored.trajectory.clean)
    kept = found.keeping(photo, decoded)
    if whole is None:
        return kept, kept.pictures
    return kept, found.keeping(larger(from_pil(whole), photo, loaded.tell), decoded).pictures


def numbered(out: Path, count: int) -> list[Path]:
    """Names of so many pictures: the name itself for one, else with -1, -2 and so on."""
    # a folder, as "." is, has no name to number, and is refused as one
    return [out] if count == 1 or not out.name else [out.with_stem(f"{out.stem}-{i + 1}") for i in range(count)]
