"""Every kind of picture becomes the same centred cut-out, and every bad one a message that names it."""

import io
import logging
import os
import sys

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageDraw
import pytest
import torch

from imagedream.image_prompt.prompt import (
    ImagePromptError,
    load_image_prompt,
    place,
    prepare_image_prompt,
)
from imagedream.pictures import composite

ORANGE = (200, 100, 50)
BOX = (30, 20, 70, 100)  # left, top, right, bottom of the object in a picture of 120 x 160: 40 wide, 80 high


def cut_out(colour=ORANGE, hidden=(0, 255, 0), size=(120, 160), box=BOX):
    """An opaque box of one colour; what is transparent has a loud colour that must never show."""
    pixels = np.zeros((size[1], size[0], 4), np.uint8)
    pixels[..., :3] = hidden
    pixels[box[1] : box[3], box[0] : box[2]] = (*colour, 255)
    return PIL.Image.fromarray(pixels, "RGBA")


def on_background(background=(255, 255, 255), **kwargs):
    picture = PIL.Image.new("RGBA", kwargs.get("size", (120, 160)), (*background, 255))
    picture.alpha_composite(cut_out(**kwargs))
    return picture.convert("RGB")


def saved(tmp_path, image, name, **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def assert_box_prompt(prompt, size=64, height=58, width=29, colour=ORANGE, tolerance=3 / 255):
    """The 40 x 80 box at 0.9 of 64 pixels: 58 high (57.6), 29 wide (28.8), centred, one colour."""
    solid = prompt.rgba[3] > 0.5
    rows, columns = solid.any(1).nonzero()[:, 0], solid.any(0).nonzero()[:, 0]
    assert abs(len(rows) - height) <= 1
    assert abs(len(columns) - width) <= 1
    assert abs(rows.float().mean() - (size - 1) / 2) <= 1
    assert abs(columns.float().mean() - (size - 1) / 2) <= 1
    inside = prompt.rgba[:3, prompt.rgba[3] > 0.02].T  # the rim too: no halo
    torch.testing.assert_close(
        inside, torch.tensor(colour).div(255).expand_as(inside), atol=tolerance, rtol=0
    )


GREY, PALETTE = (90, 90, 90), cut_out().convert("RGB").quantize(4)
GREEN = PALETTE.getpixel((0, 0))
PROFILE = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize(
    ("image", "name", "options"),
    [
        (cut_out(), "a.png", {}),
        (cut_out(), "a.webp", {"lossless": True, "exact": True}),
        (cut_out(), "a.tiff", {}),
        (PALETTE, "palette.png", {"transparency": GREEN}),
        (PALETTE, "palette.gif", {"transparency": GREEN}),
        (cut_out().convert("RGB"), "keyed.png", {"transparency": (0, 255, 0)}),
        (cut_out(GREY).convert("LA"), "grey.png", {}),
        (cut_out(), "profile.png", {"icc_profile": PROFILE}),
        (cut_out(), "broken-profile.png", {"icc_profile": b"nonsense"}),
        (cut_out(size=(1200, 3200), box=(300, 400, 700, 1200)), "large.png", {}),
    ],
)
def test_transparency_is_used_straight(tmp_path, image, name, options):
    prompt = load_image_prompt(saved(tmp_path, image, name, **options), 64)
    assert (prompt.background_removal, prompt.warnings) == ("alpha", ())
    assert_box_prompt(prompt, colour=GREY if name == "grey.png" else ORANGE, tolerance=5 / 255)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.full((160, 120), 65535, np.uint16)
    values[20:100, 30:70] = 20000  # 20000 / 65535 * 255 = 77.8
    prompt = load_image_prompt(saved(tmp_path, PIL.Image.fromarray(values), "16.png"), 64)
    assert_box_prompt(prompt, colour=(78, 78, 78))


def test_half_transparent_colours_are_not_darkened():
    pixels = np.array(cut_out())
    pixels[30:60, 30:70, 3] = 153
    prompt = prepare_image_prompt(PIL.Image.fromarray(pixels, "RGBA"), 64)
    assert_box_prompt(prompt, tolerance=4 / 255)
    assert abs(float(prompt.rgba[3, 15, 32]) - 153 / 255) < 0.01


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "P", "1"])
def test_opaque_modes_have_their_background_removed(tmp_path, mode, caplog):
    caplog.set_level(logging.INFO, logger="imagedream")
    grey = mode in ("L", "1")
    source = on_background(colour=(0, 0, 0) if grey else ORANGE)
    source = source.quantize(4) if mode == "P" else source.convert(mode)
    name = "a.jpg" if mode == "CMYK" else "a.png"
    options = {"quality": 95, "subsampling": 0} if mode == "CMYK" else {}
    prompt = load_image_prompt(saved(tmp_path, source, name, **options), 64)
    assert prompt.background_removal == "grabcut"
    assert "GrabCut" in caplog.text
    assert_box_prompt(prompt, colour=(0, 0, 0) if grey else ORANGE, tolerance=8 / 255)


def test_exif_rotation_is_applied(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn by 90° to view
    picture = on_background().transpose(PIL.Image.Transpose.ROTATE_90)
    prompt = load_image_prompt(
        saved(tmp_path, picture, "phone.jpg", exif=exif, quality=95, subsampling=0), 64
    )
    assert_box_prompt(prompt, tolerance=8 / 255)


def test_jpeg_on_a_gradient_is_cut_along_its_edges(tmp_path):
    height, width = 300, 400
    y, x = np.mgrid[0:height, 0:width]
    background = np.stack([90 + y / 3, 140 + x / 8, 220 - y / 4], -1)
    inside = ((x - 180) / 90) ** 2 + ((y - 160) / 110) ** 2 < 1
    pixels = np.where(inside[..., None], [180, 40, 60], background).astype(np.uint8)
    path = saved(tmp_path, PIL.Image.fromarray(pixels), "photo.jpg", quality=88)
    prompt = load_image_prompt(path, 128)
    expected = place(
        torch.from_numpy(np.dstack([pixels, inside * 255]) / 255).float().permute(2, 0, 1), 128, 0.9
    )
    both = (prompt.rgba[3] > 0.5) & (expected[3] > 0.5)
    either = (prompt.rgba[3] > 0.5) | (expected[3] > 0.5)
    assert both.sum() / either.sum() > 0.97
    rim = prompt.rgba[:3, prompt.rgba[3] > 0.1].T  # nothing of the blue background on it
    assert (rim - torch.tensor([180, 40, 60]).div(255)).abs().max() < 0.12
    assert torch.equal(load_image_prompt(path, 128).rgba, prompt.rgba)  # and the same every time


def test_a_hole_shows_the_background_through():
    ring = PIL.Image.new("RGB", (200, 200), (240, 240, 235))
    draw = PIL.ImageDraw.Draw(ring)
    draw.ellipse((30, 30, 170, 170), fill=(30, 90, 160))
    draw.ellipse((75, 75, 125, 125), fill=(240, 240, 235))
    alpha = prepare_image_prompt(ring, 100).rgba[3]
    assert alpha[50, 50] == 0
    assert alpha[50, 15] == 1


def test_a_busy_background_is_cut_with_a_warning():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30), np.uint8)
    busy = PIL.Image.fromarray(pixels).resize((120, 160)).convert("RGB")
    busy.paste(ORANGE, BOX)
    prompt = prepare_image_prompt(busy, 64)
    assert "the background is not plain" in " ".join(prompt.warnings)
    assert_box_prompt(prompt)


@pytest.fixture
def fake_rembg(tmp_path, monkeypatch):
    """Packages of the names rembg needs: the mask is the left half; refuses to run where it could download."""
    (tmp_path / "onnxruntime.py").touch()
    (tmp_path / "rembg.py").write_text(
        "import os\nimport PIL.Image\n"
        "def new_session(name):\n"
        "    assert os.environ['MODEL_CHECKSUM_DISABLED']\n"
        "    return name\n"
        "def remove(image, session, only_mask):\n"
        "    mask = PIL.Image.new('L', image.size)\n"
        "    mask.paste(255, (0, 0, image.width // 2, image.height))\n"
        "    return mask\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("U2NET_HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "rembg", raising=False)
    yield tmp_path
    sys.modules.pop("rembg", None)


def test_rembg_is_used_where_its_model_file_is(fake_rembg, caplog):
    caplog.set_level(logging.INFO, logger="imagedream")
    assert prepare_image_prompt(on_background(), 64).background_removal == "grabcut"
    assert "none of its model files" in caplog.text
    assert "rembg" not in sys.modules
    (fake_rembg / "u2net.onnx").touch()
    prompt = prepare_image_prompt(on_background(), 64)
    assert prompt.background_removal == "rembg"
    assert "MODEL_CHECKSUM_DISABLED" not in os.environ
    assert abs((prompt.rgba[3] > 0.5).float().mean() - 0.9 * 0.9 * 60 / 160) < 0.02


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3000, 2), (7, 5)])
def test_odd_sizes_do_not_crash(size):
    picture = PIL.Image.new("RGB", size, (255, 255, 255))
    with pytest.raises(ImagePromptError, match="no object found"):
        prepare_image_prompt(picture, 64)
    assert prepare_image_prompt(PIL.Image.new("RGBA", size, (9, 9, 9, 100)), 64).rgba.shape == (4, 64, 64)


def test_a_mask_decides(tmp_path):
    mask = PIL.Image.new("L", (60, 80))  # half the picture's size
    PIL.ImageDraw.Draw(mask).rectangle((15, 10, 34, 49), fill=255)
    busy = PIL.Image.effect_noise((120, 160), 80).convert("RGB")
    busy.paste(ORANGE, BOX)
    prompt = load_image_prompt(saved(tmp_path, busy, "busy.png"), 64, mask=saved(tmp_path, mask, "mask.png"))
    assert prompt.background_removal == "mask"
    assert_box_prompt(prompt, height=57, width=28, tolerance=6 / 255)
    with pytest.raises(ImagePromptError, match="mask is 50 x 50"):
        prepare_image_prompt(busy, 64, mask=PIL.Image.new("L", (50, 50)))


@pytest.mark.parametrize("fraction", [0.5, 0.9, 1.0])
def test_place_centres_at_the_fraction(fraction):
    rgba = torch.zeros(4, 50, 70)
    rgba[:, 10:30, 5:65] = 1
    placed = place(rgba, 64, fraction)
    visible = placed[3] > 0.5
    columns, rows = visible.any(0).nonzero()[:, 0], visible.any(1).nonzero()[:, 0]
    assert len(columns) == round(64 * fraction)
    assert abs(len(rows) - 64 * fraction / 3) <= 1
    assert abs(columns[0] - (63 - columns[-1])) <= 1
    assert abs(rows[0] - (63 - rows[-1])) <= 1


def test_what_was_placed_and_saved_stays_the_same(tmp_path):
    pixels = torch.rand(4, 40, 30, generator=torch.Generator().manual_seed(0))
    once = place(pixels.add(0.1).clamp(0, 1), 64, 1.0)
    torch.testing.assert_close(place(once, 64, 1.0), once, atol=1e-5, rtol=0)
    prompt = prepare_image_prompt(cut_out(), 64)
    prompt.save(tmp_path / "out" / "prompt.png")
    again = load_image_prompt(tmp_path / "out" / "prompt.png", 64)
    assert (again.rgba[3] - prompt.rgba[3]).abs().max() < 0.02


def test_composite_by_hand():
    rgba = torch.tensor([0.2, 0.4, 0.6, 0.25])[:, None, None]
    expected = torch.tensor([0.8, 0.1, 0.9])[:, None, None]  # 0.25 * rgb + 0.75 * background
    torch.testing.assert_close(composite(rgba, torch.tensor([1.0, 0.0, 1.0])), expected)
    batch = composite(rgba.expand(2, 4, 3, 5), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(batch[0], expected.expand(3, 3, 5))


def two_boxes():
    boxes = [np.array(cut_out(box=box)) for box in ((5, 5, 50, 100), (60, 5, 100, 100))]
    return PIL.Image.fromarray(np.maximum(*boxes), "RGBA")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (cut_out(box=(0, 20, 70, 160)), "touches the left, bottom border"),
        (cut_out(size=(1200, 1600), box=(600, 600, 640, 680)), "tiny, it fills 0.17%"),
        (cut_out(box=(30, 20, 40, 35)), "only 15 pixels long"),
        (two_boxes(), "2 separate pieces"),
    ],
)
def test_warnings(image, message, caplog):
    prompt = prepare_image_prompt(image, 64)
    assert any(message in warning for warning in prompt.warnings), prompt.warnings
    assert message in caplog.text


@pytest.mark.parametrize("colour", [(255, 255, 255, 0), (120, 130, 140, 255)])
def test_nothing_in_the_picture(tmp_path, colour):
    path = saved(tmp_path, PIL.Image.new("RGBA", (64, 64), colour), "nothing.png")
    with pytest.raises(ImagePromptError, match=r"nothing\.png: no object found"):
        load_image_prompt(path)


def make_truncated(path):
    buffer = io.BytesIO()
    on_background().save(buffer, "JPEG")
    path.write_bytes(buffer.getvalue()[:700])


def make_animation(path):
    frames = [cut_out(colour=(value, 0, 0)) for value in (50, 100, 150)]
    frames[0].save(path, format="WEBP", save_all=True, append_images=frames[1:], duration=100)


@pytest.mark.parametrize(
    "address",
    [
        "https://example.org/a.png",
        "http:/example.org/a.png",  # what is left of an address that became a path
        "s3://bucket/a.png",
        "FILE:///etc/passwd",
        "data:image/png;base64," + "A" * 5000,
    ],
)
def test_addresses_are_refused_in_one_line(address):
    with pytest.raises(
        ImagePromptError, match="is an address; pictures are read from this machine only"
    ) as error:
        load_image_prompt(address)
    assert len(str(error.value)) < 200


def test_the_object_may_stay_where_it_stands(tmp_path):
    pixels = np.zeros((100, 200, 4), np.uint8)
    pixels[10:30, 150:190] = (200, 30, 40, 255)
    PIL.Image.fromarray(pixels).save(tmp_path / "corner.png")
    rgba = load_image_prompt(tmp_path / "corner.png", size=100, object_fraction=None).rgba
    # the picture is half as large, in the middle of the frame: 25 rows above it
    rows, columns = (rgba[3] > 0.5).any(1).nonzero()[:, 0], (rgba[3] > 0.5).any(0).nonzero()[:, 0]
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (30, 40, 75, 95)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_text("hello"), "not a picture of a known format"),
        (lambda path: path.write_bytes(b""), "not a picture of a known format"),
        (
            lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
            "not a picture",
        ),
        (make_truncated, "damaged or incomplete"),
        (make_animation, "several frames, a single picture is needed"),
    ],
)
def test_errors_name_the_file(tmp_path, make, message):
    path = tmp_path / "input.png"
    make(path)
    with pytest.raises(ImagePromptError, match=rf"input\.png.*{message}"):
        load_image_prompt(path)


@pytest.mark.parametrize(
    ("image", "size", "fraction", "message"),
    [
        (cut_out(), 4, 0.9, "size is 4"),
        (cut_out(), 64, 0.0, "object_fraction is 0.0"),
        (cut_out(), 64, 1.5, "object_fraction is 1.5"),
        (PIL.Image.new("F", (20, 20)), 64, 0.9, "8 or 16 bits"),
    ],
)
def test_what_cannot_be_prepared(image, size, fraction, message):
    with pytest.raises(ValueError, match=message):
        prepare_image_prompt(image, size, fraction)
