"""The gate for pictures: every form of file that people keep, and files that mean harm."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from fromnoise.data.images import AVIF, FORMATS, MAX_PIXELS, Refused, cover, open_picture, picture_size

SIZE = (96, 64)


@pytest.fixture(scope="session")
def photo():
    from sklearn.datasets import load_sample_images

    return Image.fromarray(load_sample_images().images[0])


@pytest.fixture(scope="session")
def small(photo):
    return photo.resize(SIZE, Image.Resampling.LANCZOS)


def difference(a: Image.Image, b: Image.Image) -> float:
    """Mean absolute difference of two pictures of one size, in levels of 255."""
    assert a.size == b.size
    return float(np.abs(np.asarray(a, dtype=float) - np.asarray(b.convert("RGB"), dtype=float)).mean())


def png(width: int, height: int, depth: int, colour: int, data: bytes = b"") -> bytes:
    """A PNG written by hand, for forms that Pillow does not write."""
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b""))


@pytest.mark.parametrize(("suffix", "tolerance"), [
    ("jpg", 8), ("JPG", 8), ("jpeg", 8), ("jfif", 8), ("png", 0), ("PNG", 0), ("webp", 5), ("bmp", 0), ("tif", 0),
    ("TIFF", 0), ("gif", 12),
    pytest.param("avif", 5, marks=pytest.mark.skipif(not AVIF, reason="this Pillow has no AVIF")),
])
def test_formats(tmp_path, small, suffix, tolerance):
    path = tmp_path / f"a.{suffix}"
    small.save(path)
    opened = open_picture(path)
    assert opened.mode == "RGB"
    assert picture_size(path) == opened.size == SIZE
    assert difference(opened, small) <= tolerance


@pytest.mark.parametrize(("mode", "name", "tolerance"), [
    ("L", "a.png", 0), ("1", "a.png", 0), ("P", "a.png", 16), ("LA", "a.png", 0), ("RGBA", "a.png", 0),
    ("L", "a.jpg", 8), ("CMYK", "a.jpg", 8), ("CMYK", "a.tiff", 0), ("YCbCr", "a.tiff", 2), ("L", "a.webp", 8),
    ("L", "a.gif", 0),
])
def test_modes(tmp_path, small, mode, name, tolerance):
    converted = small.convert(mode)
    converted.save(tmp_path / name)
    opened = open_picture(tmp_path / name)
    assert opened.mode == "RGB"
    want = small if mode in ("P", "CMYK", "YCbCr") else converted
    assert difference(opened, want) <= tolerance


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "P bytes", "RGB key", "L key", "webp"])
def test_transparency_is_laid_on_white(tmp_path, mode):
    path = tmp_path / ("a.webp" if mode == "webp" else "a.png")
    image = Image.new({"RGB key": "RGB", "L key": "L"}.get(mode, "P"), (16, 16))
    if mode[0] == "P":
        image.putpalette([10, 20, 30, 255, 255, 255])
        image.save(path, transparency=b"\x00\xff" if mode == "P bytes" else 0)
    elif mode == "RGB key":
        image.save(path, transparency=(0, 0, 0))
    elif mode == "L key":
        image.save(path, transparency=0)
    elif mode == "LA":
        Image.new("LA", (16, 16), (0, 0)).save(path)
    else:
        Image.new("RGBA", (16, 16), (255, 0, 0, 0)).save(path, **({"lossless": True} if mode == "webp" else {}))
    assert np.asarray(open_picture(path)).min() == 255


def test_half_transparent_red_is_pink(tmp_path):
    Image.new("RGBA", (16, 16), (255, 0, 0, 128)).save(tmp_path / "a.png")
    assert open_picture(tmp_path / "a.png").getpixel((3, 3)) == (255, 127, 127)


@pytest.mark.parametrize("name", ["deep.png", "deep.tiff"])
@pytest.mark.parametrize("top", [65535, 4095, 200])
def test_sixteen_bit_grey_is_scaled_by_its_range_and_not_by_its_values(tmp_path, name, top):
    ramp = np.linspace(0, top, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / name)
    got = np.asarray(open_picture(tmp_path / name))[..., 0].astype(float)
    np.testing.assert_allclose(got, ramp / 257, atol=0.51)


def test_sixteen_bit_colour(tmp_path):
    ramp = np.linspace(0, 65535, 16 * 16 * 3).reshape(16, 16, 3).astype(">u2")
    lines = b"".join(b"\x00" + row.tobytes() for row in ramp)
    (tmp_path / "deep.png").write_bytes(png(16, 16, 16, 2, lines))
    got = np.asarray(open_picture(tmp_path / "deep.png")).astype(float)
    np.testing.assert_allclose(got, ramp.astype(float) / 257, atol=1)


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_floating_point_tiff(tmp_path, top):
    ramp = np.linspace(0, top, 256).reshape(16, 16).astype(np.float32)
    ramp[0, 0] = np.nan
    Image.fromarray(ramp).save(tmp_path / "a.tiff")
    got = np.asarray(open_picture(tmp_path / "a.tiff"))[..., 0]
    assert got[0, 0] == 0
    np.testing.assert_allclose(got.flat[1:], (ramp / top * 255).flat[1:], atol=0.51)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_exif_orientation(tmp_path, small, suffix, orientation):
    """The header pass and the decoding pass agree, and the picture stands as the camera meant."""
    exif, path = Image.Exif(), tmp_path / f"a.{suffix}"
    exif[274] = orientation
    small.save(path, exif=exif)
    upright = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }[orientation]
    want = small if upright is None else small.transpose(upright)
    opened = open_picture(path)
    assert picture_size(path) == opened.size == want.size
    assert difference(opened, want) < 8


@pytest.mark.parametrize("place", ["exif", "late exif", "xmp", "late xmp"])
def test_png_orientation_wherever_it_is_kept(tmp_path, small, place):
    """Before the pixels or after them: the header pass must give the size that decoding gives."""
    exif, info, path = Image.Exif(), PngImagePlugin.PngInfo(), tmp_path / "a.png"
    exif[274] = 6
    if "xmp" in place:
        info.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="6"/>')
    small.save(path, pnginfo=info, exif=exif if "exif" in place else b"")
    if "late" in place:
        data, name = path.read_bytes(), b"eXIf" if "exif" in place else b"iTXt"
        start = data.index(name) - 4
        end = start + 12 + struct.unpack(">I", data[start : start + 4])[0]
        without = data[:start] + data[end:]
        path.write_bytes(without[:-12] + data[start:end] + without[-12:])
    assert picture_size(path) == open_picture(path).size == (64, 96)


def test_a_clear_level_of_sixteen_bit_grey_is_white(tmp_path):
    ramp = np.arange(0, 64 * 257, 257).reshape(8, 8)
    lines = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in ramp)
    data = png(8, 8, 16, 0, lines)
    body = b"tRNS" + struct.pack(">H", 5 * 257)
    clear = struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "a.png").write_bytes(data[:33] + clear + data[33:])
    want = np.arange(64)
    want[5] = 255
    assert np.asarray(open_picture(tmp_path / "a.png"))[..., 0].ravel().tolist() == want.tolist()


def test_damaged_exif_does_not_lose_the_picture(tmp_path, small):
    small.save(tmp_path / "a.jpg", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff" + b"\xff" * 40)
    assert picture_size(tmp_path / "a.jpg") == open_picture(tmp_path / "a.jpg").size == SIZE


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_of_several_frames_the_first_is_taken(tmp_path, suffix):
    frames = [Image.new("RGB", (16, 16), c) for c in ("red", "blue", "green")]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    assert np.abs(np.asarray(open_picture(tmp_path / f"a.{suffix}"), int) - (255, 0, 0)).max() < 8


def test_a_wrong_suffix_is_no_matter(tmp_path, small):
    small.save(tmp_path / "a.bin", format="JPEG")
    (tmp_path / "a.bin").rename(tmp_path / "a.png")
    assert open_picture(tmp_path / "a.png").size == SIZE


@pytest.mark.parametrize(("data", "reason"), [
    (b"", "it is empty"), (b"hello, I am text", "not a picture"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    (b"\x89PNG\r\n\x1a\n", "not a picture"), (b"\xff\xd8\xff\xe0", "not a picture"),
])
def test_what_is_no_picture_is_refused(tmp_path, data, reason):
    (tmp_path / "a.png").write_bytes(data)
    for look in (picture_size, open_picture):
        with pytest.raises(Refused, match=reason):
            look(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tiff", "bmp"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files_are_refused(tmp_path, small, suffix, share):
    path = tmp_path / f"a.{suffix}"
    small.save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(Refused) as refused:
        open_picture(path, enough=8)
    assert "0x" not in str(refused.value)


@pytest.mark.parametrize("side", [int(MAX_PIXELS**0.5) + 1, 12_000, 30_000, 2**31 - 1])
def test_bombs_are_refused_by_what_they_claim(tmp_path, side):
    """There are no pixels in these files at all: only a gate that looks before it decodes gives this reason."""
    (tmp_path / "bomb.png").write_bytes(png(side, side, 8, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for look in (picture_size, open_picture):
            with pytest.raises(Refused, match="more than the 100 million pixels"):
                look(tmp_path / "bomb.png")


def test_bombs_of_every_format(tmp_path):
    wide = MAX_PIXELS // 16_000 + 200
    image = Image.new("1", (16_000, wide))
    for suffix in ("png", "gif", "bmp", "tiff"):
        image.save(tmp_path / f"a.{suffix}", **({"compression": "group4"} if suffix == "tiff" else {}))
        with pytest.raises(Refused, match="million"):
            open_picture(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 3)])
def test_slivers_are_refused(tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "a.png")
    with pytest.raises(Refused, match="too few"):
        picture_size(tmp_path / "a.png")


def test_files_that_are_gone_or_closed(tmp_path, small, monkeypatch):
    with pytest.raises(Refused, match="missing"):
        open_picture(tmp_path / "none.png")
    small.save(tmp_path / "a.png")

    def closed(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", closed)
    with pytest.raises(Refused, match="may not be read"):
        open_picture(tmp_path / "a.png")


def test_warnings_are_kept_back_and_the_filters_put_back(tmp_path):
    """9,500^2 pixels: allowed here, but Pillow warns of them when it opens the file."""
    (tmp_path / "big.png").write_bytes(png(9_500, 9_500, 8, 0))
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert picture_size(tmp_path / "big.png") == (9_500, 9_500)
    assert heard == []
    assert list(warnings.filters) == before


@pytest.mark.parametrize(("size", "tolerance"), [((2400, 1600), 0.6), ((2003, 1403), 2.0)])
@pytest.mark.parametrize("name", ["a.jpg", "a.bmp"])
def test_a_large_picture_brought_down_early_looks_the_same(tmp_path, photo, name, size, tolerance):
    """Decoding or averaging to a fraction of the size is a short cut, not another picture."""
    large = photo.resize(size, Image.Resampling.LANCZOS)
    large.save(tmp_path / name, quality=95)
    quick = open_picture(tmp_path / name, enough=192)
    assert 192 <= min(quick.size) < 384
    want = ImageOps.fit(large, (64, 64), Image.Resampling.LANCZOS)
    assert difference(Image.fromarray(cover(quick, 64, 64)), want) < tolerance


@pytest.mark.parametrize(("size", "target"), [((300, 100), (32, 32)), ((100, 300), (32, 32)), ((4, 4000), (32, 64)),
                                              ((10, 10), (64, 32)), ((32, 32), (32, 32))])
def test_cover_cuts_at_the_centre(size, target):
    """A ramp along the longer side keeps its middle."""
    w, h = size
    ramp = np.linspace(0, 255, w)[None].repeat(h, 0) if w >= h else np.linspace(0, 255, h)[:, None].repeat(w, 1)
    cut = cover(Image.fromarray(ramp.astype(np.uint8)).convert("RGB"), *target)
    assert cut.shape == (target[1], target[0], 3)
    assert abs(cut.mean() - 127) < 3


def encoded(form: str) -> bytes:
    ramp = np.add.outer(np.arange(24), np.arange(32)).astype(np.uint8)[..., None] * np.array([3, 4, 1], np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "a.bin"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(form=st.sampled_from(FORMATS), data=st.data())
def test_damage_of_any_kind_is_a_picture_or_a_reason(scratch, form, data):
    """Flipped bytes, mostly in the header, and lost ends."""
    raw = bytearray(encoded(form))
    for _ in range(data.draw(st.integers(0, 8))):
        raw[data.draw(st.integers(0, min(len(raw), data.draw(st.sampled_from([40, 400, 10**6]))) - 1))] = data.draw(
            st.integers(0, 255))
    scratch.write_bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw)
    for look in (picture_size, open_picture):
        reason = ""
        try:
            found = look(scratch)
        except Refused as refused:
            reason = str(refused)
        assert reason or isinstance(found, tuple) or found.mode == "RGB"
        assert "0x" not in reason
        assert str(scratch) not in reason
