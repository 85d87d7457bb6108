"""Pictures in and out: colour profiles, numbers of every kind, transparency, and what is refused."""

import io
import struct

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

from nullinv_core.errors import InputError
from nullinv_core.photo.images import (
    FAITHFUL,
    LARGEST_SIDE,
    autoencoder_warning,
    check_pixels,
    check_side,
    fitted_size,
    from_pil,
    load_image,
    opaque,
    psnr,
    read_picture,
    save_image,
    to_pil,
)

P3_COLORANTS = {"r": (0.51512, 0.24120, -0.00105), "g": (0.29198, 0.69225, 0.04189), "b": (0.15710, 0.06657, 0.78407)}
"""XYZ of Display P3's primaries, adapted to D50 as ICC profiles have them."""
P3_OF_SRGB = np.array([[0.82246, 0.17754, 0.0], [0.03319, 0.96681, 0.0], [0.01708, 0.07240, 0.91052]])
"""Linear Display P3 of linear sRGB; both have the white of D65."""
D50 = (0.9642, 1.0, 0.8249)


def icc(space, curve, colorants=None):
    """A minimal version 2 ICC profile: a curve (values 0…1 at equal distances), and a matrix for RGB."""

    def xyz(values):
        return b"XYZ " + bytes(4) + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    numbers = [round(v * 65535) for v in curve]
    trc = b"curv" + bytes(4) + struct.pack(f">I{len(numbers)}H", len(numbers), *numbers)
    desc = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = {b"desc": desc, b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": xyz(D50)}
    tags |= {b"kTRC": trc} if colorants is None else {f"{c}TRC".encode(): trc for c in "rgb"}
    tags |= {f"{c}XYZ".encode(): xyz(values) for c, values in (colorants or {}).items()}
    table, data, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, body in tags.items():
        table += name + struct.pack(">II", start + len(data), len(body))
        data += body + bytes(-len(body) % 4)
    size = start + len(data)
    header = struct.pack(">I4sI4s4s4s", size, b"\0\0\0\0", 0x02100000, b"mntr", space, b"XYZ ") + bytes(12) + b"acsp"
    header += bytes(28) + b"".join(struct.pack(">i", round(v * 65536)) for v in D50)
    return header + bytes(128 - len(header)) + struct.pack(">I", len(tags)) + table + data


def encoded(linear):
    """The sRGB curve (IEC 61966-2-1), which Display P3 shares."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)


def decoded(values):
    """Its inverse."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


P3 = icc(b"RGB ", decoded(np.linspace(0, 1, 1024)), P3_COLORANTS)


def scene(side=64):
    """A smooth colourful picture (side, side, 3), linear sRGB in 0…1."""
    y, x = np.mgrid[0:side, 0:side] / (side - 1)
    return decoded(0.05 + 0.9 * np.stack([x, y, 1 - (x + y) / 2], -1))


def bytes_of(picture):
    return (np.asarray(picture) * 255).round().astype(np.uint8)


def saturation(picture):
    return float((picture.max(-1) - picture.min(-1)).mean())


def test_a_display_p3_photo_is_its_srgb_twin(tmp_path):
    """Guards colour profiles, in files and pictures in hand: as the twin's own maths has it; without the profile the
    colours would fade."""
    twin = encoded(scene())
    wide = Image.fromarray(bytes_of(encoded((scene() @ P3_OF_SRGB.T).clip(0, 1))))
    wide.save(tmp_path / "p3.jpg", quality=100, subsampling=0, icc_profile=P3)
    wide.save(tmp_path / "plain.jpg", quality=100, subsampling=0)
    honoured, ignored = (load_image(tmp_path / name, 64)[0].numpy() for name in ("p3.jpg", "plain.jpg"))
    assert psnr(honoured, twin) > 45 > psnr(ignored, twin) + 10
    assert saturation(honoured) == pytest.approx(saturation(twin), abs=0.005) and saturation(
        ignored
    ) < 0.9 * saturation(twin)
    with Image.open(tmp_path / "p3.jpg") as opened:
        assert torch.equal(load_image(opened, 64), load_image(tmp_path / "p3.jpg", 64))
        assert torch.equal(from_pil(opened), load_image(tmp_path / "p3.jpg", 64))
    # scaling keeps the picture's notes, so a profile left in them would count twice
    assert not read_picture(tmp_path / "p3.jpg").info


def test_profiles_of_other_kinds(tmp_path):
    """Guards grey profiles (light, not its root), profiles on pictures with alpha and palettes, and sRGB's own."""
    linear = icc(b"GRAY", np.linspace(0, 1, 2))
    Image.new("L", (8, 8), 55).save(tmp_path / "grey.png", icc_profile=linear)
    assert load_image(tmp_path / "grey.png", 8).mean().item() == pytest.approx(float(encoded(55 / 255)), abs=0.004)
    pixels = bytes_of(encoded((scene() @ P3_OF_SRGB.T).clip(0, 1)))
    wide = Image.fromarray(pixels)
    wanted = read_picture_of(wide, P3)
    with_alpha = wide.copy()
    with_alpha.putalpha(255)
    assert np.array_equal(read_picture_of(with_alpha, P3), wanted)
    few = wide.quantize(16)
    assert np.array_equal(read_picture_of(few, P3), read_picture_of(few.convert("RGB"), P3))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.abs(read_picture_of(wide, srgb).astype(int) - pixels).max() <= 1


def read_picture_of(picture, profile):
    copy = picture.copy()
    copy.info["icc_profile"] = profile
    return np.asarray(read_picture(copy))


@pytest.mark.parametrize("profile", [b"", b"no profile", P3[:200], icc(b"GRAY", [0, 1]), P3.replace(b"RGB ", b"Lab ")])
def test_a_profile_that_does_not_fit_counts_as_none(profile):
    """Guards photos with damaged profiles, or with those of another picture: their colours are taken as sRGB."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    assert np.array_equal(read_picture_of(Image.fromarray(pixels), profile), pixels)
    ink = Image.fromarray(pixels).convert("CMYK")
    assert np.array_equal(read_picture_of(ink, profile), np.asarray(ink.convert("RGB")))
    assert np.array_equal(read_picture_of(ink, P3), np.asarray(ink.convert("RGB")))


RAMP = np.linspace(0, 1, 64).reshape(8, 8)


@pytest.mark.parametrize(
    "numbers",
    [
        RAMP.astype(np.float32), (RAMP * 255).astype(np.float32), (RAMP * 255).astype(np.int32),
        (RAMP * 65535).astype(np.int32), (RAMP * (2**31 - 1)).astype(np.int32), (RAMP * 65535).astype(np.uint16),
        (RAMP * 65535).astype(">u2"), (RAMP * 255).astype(np.uint8),
    ],
    ids=["float", "float-255", "int32-255", "int32-65535", "int32", "uint16", "big-endian", "uint8"],
)  # fmt: skip
def test_numbers_of_every_kind_keep_their_tones(tmp_path, numbers):
    """Guards numeric pictures, as TIFF and in hand: black to white, none of them black or clipped."""
    Image.fromarray(numbers).save(tmp_path / "x.tif")
    for picture in (tmp_path / "x.tif", Image.fromarray(numbers)):
        assert np.abs(load_image(picture, 8)[0].numpy() - RAMP[..., None]).max() <= 1.01 / 255


def test_an_unsigned_tiff_of_32_bits(tmp_path):
    """Guards numbers above 2^31, which Pillow reads as negative ones: the file is the test's own."""
    values = (RAMP * (2**32 - 1)).astype("<u4")
    entries = [
        (256, 3, 8), (257, 3, 8), (258, 3, 32), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 3, 8),
        (279, 4, values.nbytes), (339, 3, 1),
    ]  # fmt: skip
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    whole = struct.pack("<2sHI", b"II", 42, 8 + values.nbytes) + values.tobytes()
    (tmp_path / "u.tif").write_bytes(whole + struct.pack("<H", len(entries)) + table + bytes(4))
    assert np.abs(load_image(tmp_path / "u.tif", 8)[0].numpy() - RAMP[..., None]).max() <= 1.01 / 255


@pytest.mark.parametrize(("bits", "white_is_zero"), [(16, True), (16, False), (12, False)])
def test_grey_tiffs_of_scanners(tmp_path, bits, white_is_zero):
    """Guards negatives and twelve bits in sixteen, which Pillow hands on as they are: the file is the test's own."""
    most = 2**bits - 1
    values = ((1 - RAMP if white_is_zero else RAMP) * most).round().astype(np.int64).ravel()
    if bits == 16:
        data = values.astype("<u2").tobytes()
    else:
        # two numbers in three bytes, the high bits first
        a, b = values[::2], values[1::2]
        data = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], -1).astype(np.uint8).tobytes()
    entries = [
        (256, 3, 8), (257, 3, 8), (258, 3, bits), (259, 3, 1), (262, 3, int(not white_is_zero)), (273, 4, 8),
        (277, 3, 1), (278, 3, 8), (279, 4, len(data)),
    ]  # fmt: skip
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    whole = struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data
    (tmp_path / "s.tif").write_bytes(whole + struct.pack("<H", len(entries)) + table + bytes(4))
    assert np.abs(load_image(tmp_path / "s.tif", 8)[0].numpy() - RAMP[..., None]).max() <= 1.01 / 255


@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN"), (np.inf, "NaN"), (5.0, "numbers up to 5")])
def test_numbers_that_are_no_picture(tmp_path, value, message):
    """Guards float pictures that would come out black: NaN, and brightness of no known scale."""
    Image.fromarray(np.full((8, 8), value, np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(InputError, match=f'x.tif" holds .*{message}'):
        load_image(tmp_path / "x.tif", 8)


@pytest.mark.parametrize(
    ("most", "white"), [(0.5, 1), (2.0, 1), (2.01, None), (15.9, None), (16.0, 255), (255.0, 255), (255.5, None)]
)
def test_floats_are_told_by_their_largest(tmp_path, most, white):
    """Guards which scale floats have: 1 with some that are brighter, 255, or none; what is below 0 is black."""
    picture = Image.fromarray(np.array([[most, -1.0, 0.25 * most]], np.float32))
    if white is None:
        with pytest.raises(InputError, match=f"^the picture holds numbers up to {most:g}; scale them"):
            read_picture(picture)
    else:
        levels = [255 * min(most / white, 1), 0, 255 * most / white / 4]
        assert np.asarray(read_picture(picture))[0, :, 0] == pytest.approx(levels, abs=0.51)


def test_a_dark_picture_of_sixteen_bits_stays_dark():
    """Guards numbers that would fit into eight bits: their type says what white is."""
    assert not np.asarray(read_picture(Image.fromarray(np.full((8, 8), 200, np.uint16)))).any()


@pytest.mark.parametrize("most", [255, 65535, 2**31 - 1])
def test_negative_numbers_are_black(most):
    """Guards whole numbers with a sign, whatever their scale is."""
    picture = Image.fromarray(np.array([[most, -most, -1]], np.int32))
    assert np.asarray(read_picture(picture))[0, :, 0].tolist() == [255, 0, 0]


def test_a_file_that_is_no_picture_is_named(tmp_path):
    """Guards the message of what no decoder takes, and of what is not there."""
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=f'^"{tmp_path / "x.png"}" cannot be read as an image'):
        read_picture(tmp_path / "x.png")
    with pytest.raises(InputError, match=f'^there is no image file "{tmp_path / "y.png"}"'):
        read_picture(tmp_path / "y.png")
    Image.new("1", (10_001, 10_000)).save(tmp_path / "z.png")
    with pytest.raises(InputError, match=f'^"{tmp_path / "z.png"}" has 10001×10000 pixels'):
        read_picture(tmp_path / "z.png")
    with pytest.raises(InputError, match=r"^the picture has 10001×10000 pixels"):
        read_picture(Image.new("1", (10_001, 10_000)))


def test_what_is_transparent_is_white(tmp_path):
    """Guards transparency of every kind: the colour under alpha 0 is not in the photo, halves are mixed."""
    red = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    red.paste((0, 0, 255, 255), (0, 0, 4, 8))
    half = Image.new("LA", (8, 8), (0, 128))
    few = red.convert("RGB").quantize(4)
    few.info["transparency"] = few.getpixel((7, 0))
    keyed = red.convert("RGB")
    for name, picture, extra in (
        ("rgba", red, {}), ("palette", few, {"transparency": few.info["transparency"]}),
        ("keyed", keyed, {"transparency": (255, 0, 0)}),
    ):  # fmt: skip
        picture.save(tmp_path / f"{name}.png", **extra)
        seen = load_image(tmp_path / f"{name}.png", 8)[0]
        assert (seen[:, 4:] == 1).all(), name
        assert torch.allclose(seen[:, :4], torch.tensor([0.0, 0.0, 1.0]), atol=0.02), name
    half.save(tmp_path / "half.png")
    assert load_image(tmp_path / "half.png", 8).mean().item() == pytest.approx(127 / 255, abs=0.005)
    Image.new("1", (8, 8), 1).save(tmp_path / "bit.png")
    assert (load_image(tmp_path / "bit.png", 8) == 1).all()


@pytest.mark.parametrize("clear", [0, 1, 300, 65535])
def test_what_is_transparent_in_sixteen_bits_is_white(tmp_path, clear):
    """Guards grey PNGs of 16 bits: one of their numbers may stand for what is transparent, and its neighbours not."""
    numbers = np.array([[0, 1, 299, 300, 301, 65534, 65535]], np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 3
    for name, notes, seen in (("plain", None, numbers), ("turned", exif, numbers[:, ::-1])):
        Image.fromarray(numbers).save(tmp_path / f"{name}.png", transparency=clear, exif=notes)
        found = np.asarray(read_picture(tmp_path / f"{name}.png"))[0, :, 0]
        assert found.tolist() == np.where(seen == clear, 255, seen >> 8)[0].tolist()


@given(arrays(np.float32, (1, 2, 3, 4), elements=st.floats(0, 1, width=32)))
def test_tensors_with_alpha_are_over_white(pictures):
    """Guards IMAGEs with four channels, by Porter and Duff's "over"; others pass or are refused."""
    colour, alpha = torch.from_numpy(pictures).split([3, 1], -1)
    assert torch.allclose(opaque(torch.from_numpy(pictures)), colour * alpha + 1 - alpha, atol=1e-6)
    for dtype in (torch.float16, torch.float64):
        assert opaque(torch.from_numpy(pictures).to(dtype)).dtype == dtype
    assert opaque(colour) is colour
    with pytest.raises(InputError, match="not \\(1, 2, 3, 1\\)"):
        opaque(alpha)


def test_a_picture_in_hand_is_turned_upright(tmp_path):
    """Guards EXIF of a picture that is open already; the picture itself stays as it was."""
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    wide.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as picture:
        seen = load_image(picture, 8, 8)
        assert torch.equal(seen, load_image(tmp_path / "turned.png", 8, 8)) and seen.shape == (1, 16, 8, 3)
        assert picture.size == (16, 8)
    assert np.array_equal(bytes_of(seen[0]), np.rot90(np.asarray(wide), -1))


NOTES = st.binary(max_size=60) | st.builds(
    lambda start, directory, rest: start + struct.pack("<IH", 8, directory) + rest,
    st.sampled_from([b"Exif\0\0II*\0", b"Exif\0\0MM\0*"]), st.integers(0, 4), st.binary(max_size=60),
)  # fmt: skip


@settings(max_examples=60)
@given(NOTES, st.sampled_from(["PNG", "WEBP", "JPEG", "hex"]))
@example(b"Exif\0\0garbage-garbage", "PNG")
@example(b"Exif\0\0garbage-garbage", "WEBP")
@example(b"Exif\0\0garbage-garbage", "hex")
@example(b"no digits", "hex")
def test_a_picture_whose_notes_are_broken_is_read(notes, kind):
    """Guards photos that some program wrote badly: notes that cannot be read count as none; others turn a picture."""
    picture, content = Image.new("RGB", (8, 16), (200, 0, 0)), io.BytesIO()
    if kind == "hex":
        text = PngInfo()
        text.add_text("Raw profile type exif", f"\nexif\n{len(notes):8}\n{'x' * notes.isascii()}{notes.hex()}\n")
        picture.save(content, format="PNG", pnginfo=text)
    else:
        picture.save(content, format=kind, exif=notes, quality=100)
    said, found = "", picture
    try:
        found = read_picture(io.BytesIO(content.getvalue()))
    except InputError as error:
        said = str(error)
    assert not said or "claims more notes" in said
    assert found.size in ((8, 16), (16, 8)) and abs(found.getpixel((0, 0))[0] - 200) < 4


def test_a_picture_is_damaged_whatever_its_notes():
    """Guards what broken notes may hide: pixels that cannot be decoded are refused beside them."""
    content = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(content, format="PNG", exif=b"Exif\0\0garbage-garbage")
    with pytest.raises(InputError, match="cannot be read as an image"):
        read_picture(io.BytesIO(content.getvalue()[:-200]))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("turned", range(10))
def test_every_way_to_turn_a_picture_is_undone(turned, kind):
    """Guards EXIF's eight orientations, by Pillow's own; numbers beyond them turn nothing."""
    picture, content, exif = Image.effect_noise((5, 3), 50), io.BytesIO(), Image.Exif()
    exif[0x0112] = turned
    picture.save(content, format=kind, exif=exif)
    with Image.open(io.BytesIO(content.getvalue())) as file:
        upright = ImageOps.exif_transpose(file).convert("RGB")
    found = read_picture(io.BytesIO(content.getvalue()))
    assert found.size == upright.size and found.tobytes() == upright.tobytes()


@settings(max_examples=30)
@given(arrays(np.float32, (3, 5, 3), elements=st.floats(0, 1, width=32)))
def test_written_pictures_are_read_back(tmp_path_factory, picture):
    """Guards both ways: half a level of 8 bits at most, marked as sRGB, the same bytes again."""
    folder = tmp_path_factory.getbasetemp()
    for name in ("a.png", "b.PNG"):
        save_image(picture, folder / name)
    assert np.abs(load_image(folder / "a.png", (5, 3))[0].numpy() - picture).max() <= 0.5 / 255 + 1e-6
    content = (folder / "a.png").read_bytes()
    assert content == (folder / "b.PNG").read_bytes()
    assert content.index(b"sRGB\x00") < content.index(b"IDAT") and Image.open(folder / "a.png").info["srgb"] == 0


GOOD = np.full((8, 8, 3), 0.5, np.float32)


@pytest.mark.parametrize(
    ("picture", "name", "message"),
    [
        (GOOD, "x.jpg", "must end in .png"),
        (GOOD, "x", "must end in .png"),
        (GOOD * np.nan, "x.png", "holds NaN"),
        (GOOD + np.inf, "x.png", "holds NaN"),
        (GOOD[None], "x.png", r"shape \(H, W, 3\), not \(1, 8, 8, 3\)"),
        (GOOD[..., :1], "x.png", r"not \(8, 8, 1\)"),
        (GOOD[:0], "x.png", r"not \(0, 8, 3\)"),
        (GOOD * 255, "x.png", "in 0…1, not in 127.5…127.5"),
        (GOOD - 1, "x.png", "must lie in 0…1"),
        (GOOD.astype(np.uint8), "x.png", "floats in 0…1, not torch.uint8; divide"),
    ],
)
def test_pictures_that_cannot_be_written(tmp_path, picture, name, message):
    """Guards the output: no PNG named otherwise, no black picture for NaN, nothing left behind."""
    with pytest.raises(InputError, match=message):
        save_image(picture, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_little_beyond_is_rounding():
    """Guards the tolerance on both sides: what arithmetic leaves passes, what a wrong scale makes does not."""
    for value, passes in ((1.009, True), (1.011, False), (-0.009, True), (-0.011, False)):
        pictures = torch.full((1, 2, 2, 3), value)
        if passes:
            check_pixels(pictures, "x")
        else:
            with pytest.raises(InputError, match="scale or clamp it"):
                check_pixels(pictures, "x")
    check_pixels(np.array([[[-0.01, 0.5, 1.01]]])[None], "x")


def test_pixels_a_little_beyond_are_black_and_white():
    """Guards 8 bits, in which a number beyond would come out at the other end."""
    assert np.asarray(to_pil(np.array([[[-0.009, 0.0, 1.009]]]))).tolist() == [[[0, 0, 255]]]


@given(st.integers(1, 9000), st.integers(1, 9000), st.sampled_from([8, 16, 64]), st.integers(1, 64))
def test_a_fitted_picture_keeps_its_shape(width, height, grid, units):
    """Guards sizes: multiples of the grid, the shorter side as asked, the longer within one unit; no side too long."""
    size = grid * units
    longest = max(grid, round(max(width, height) * size / min(width, height)) // grid * grid)
    if longest > LARGEST_SIDE:
        with pytest.raises(InputError, match=f"{longest}.* pixels, a side may have {LARGEST_SIDE}"):
            fitted_size(width, height, size, grid)
        return
    across, down = fitted_size(width, height, size, grid)
    assert sorted([across, down]) == [size, longest] and (across <= down) == (width <= height or size == longest)


def test_the_ends_of_what_is_allowed_are_allowed():
    """Guards the limits of a side, and of what an autoencoder may lose without a word."""
    assert fitted_size(1, 8, LARGEST_SIDE // 8, 8) == (LARGEST_SIDE // 8, LARGEST_SIDE)
    assert check_side(8) == 8 and check_side(LARGEST_SIDE) == LARGEST_SIDE and check_side(64, 16, 64) == 64
    for side, grid, least in ((0, 8, 8), (LARGEST_SIDE + 8, 8, 8), (12, 8, 8), (48, 16, 64)):
        with pytest.raises(InputError, match=f"multiple of {grid} from {least} to {LARGEST_SIDE}, not {side}"):
            check_side(side, grid, least)
    assert autoencoder_warning(FAITHFUL) is None and "24.9 dB" in autoencoder_warning(FAITHFUL - 0.1)
