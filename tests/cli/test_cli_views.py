"""`views`: pictures in, a sheet of seeds out, the best first, with numbers beside it."""

import json
import shutil

import numpy as np
import PIL.Image
import pytest
import torch

from imagedream.cli import main
from imagedream.image_prompt.prompt import load_image_prompt
from imagedream.metrics import hull_agreement, score_views
from imagedream.pipeline import ImageDreamOutput, ImageDreamPipeline, make_sampler
from tests.tiny import tiny_encoder, tiny_pipeline, tiny_scheduler

# diffusers' DPM-Solver makes numpy arrays of tensors in a way that numpy 2 frowns upon
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny = tiny_pipeline()
    parts = {name: getattr(tiny, name) for name in ("unet", "vae", "encoder", "scheduler")}
    own = {"guidance_scale": 2.5, "negative_prompt": "ugly", "num_inference_steps": 3}
    ImageDreamPipeline(**parts, **own).save_pretrained(folder)
    return folder


def run(model, out, *arguments):
    assert main(["views", "--weights", str(model), "--device", "cpu", "--out", str(out), *arguments]) == 0
    return json.loads(out.with_suffix(".json").read_text())


def test_one_seed_is_the_labelled_strip(model, bricks, tmp_path, capsys):
    strips, records = [], []
    options = ([], ["--seed", "1"], ["--negative-prompt", "ugly"], ["--negative-prompt", "a blue car"])
    for number, arguments in enumerate(options):
        out = tmp_path / f"{number}.png"
        records.append(run(model, out, bricks["red"], "--steps", "1", *arguments))
        assert capsys.readouterr().out == f"{out}\n"
        strips.append(np.asarray(PIL.Image.open(out)))
    first, other_seed, models_own, other_caption = strips
    assert first.shape[1] == 4 * 192 + 3 * 4  # 16 pixels enlarged 12 times
    assert (first == models_own).all()  # what guidance moves away from by default
    assert records[0] == records[2]
    assert (first != other_seed).any()
    assert (first != other_caption).any()


def test_several_seeds_are_a_sheet_with_the_best_first(model, bricks, tmp_path):
    sheet = run(model, tmp_path / "sheet.png", bricks["red"], "--steps", "1", "--seed", "3", "--seeds", "3")
    scores = [entry["score"] for entry in sheet["seeds"]]
    assert sorted(scores, reverse=True) == scores
    assert sorted(entry["seed"] for entry in sheet["seeds"]) == [3, 4, 5]
    best = sheet["seeds"][0]
    assert best["score"] == pytest.approx(best["clip"] * best["hull"])
    assert best["hull"] == pytest.approx(np.mean(best["hull_of_each_view"]))
    # the first row is what that seed gives alone
    alone = run(model, tmp_path / "alone.png", bricks["red"], "--steps", "1", "--seed", str(best["seed"]))
    assert alone["seeds"] == [best]
    strip, rows = (np.asarray(PIL.Image.open(tmp_path / name)) for name in ("alone.png", "sheet.png"))
    heading = rows.shape[0] // 3 - strip.shape[0]  # each strip has its own above it
    assert heading > 10
    assert (rows[heading : heading + strip.shape[0]] == strip).all()
    assert (rows[:heading] < 128).any()


def test_settings_follow_sampler_and_model(model, bricks, tmp_path):
    one = [bricks["red"], "--azimuths", "0"]
    settings = run(model, tmp_path / "a.png", *one)["settings"]
    chosen = {
        "sampler": "the model's",
        "steps": 3,
        "refine_strength": 1.0,
        "guidance_scale": 2.5,
        "negative_prompt": "ugly",
        "prompt_suffix": "",
    }
    angles = {"azimuths_deg": [0.0], "elevations_deg": [5.0]}
    assert settings == {
        **chosen,
        **angles,
        "prompt_temperature": 0.5,
        "background": "white",
        **dict.fromkeys(("ip_weight", "pixel_weight", "caption_weight"), 1.0),
    }
    changed = ["--sampler", "dpm", "--guidance-scale", "1", "--negative-prompt", ""]
    settings = run(model, tmp_path / "b.png", *one, *changed)["settings"]
    assert (settings["sampler"], settings["steps"]) == ("dpm", 20)
    assert (settings["guidance_scale"], settings["negative_prompt"]) == (1.0, "")


def test_all_pictures_and_their_sides_are_prompts(model, bricks, tmp_path):
    def sample(name, *arguments):
        record = run(model, tmp_path / f"{name}.png", *arguments, "--steps", "1")
        return record, np.asarray(PIL.Image.open(tmp_path / f"{name}.png")).astype(int)

    record, both = sample("both", bricks["red"], bricks["green"])
    assert [entry["azimuth_deg"] for entry in record["pictures"]] == [None, None]
    record, named = sample("named", "--back", bricks["green"], "--front", bricks["red"])
    assert record["pictures"] == [
        {"file": bricks["red"], "azimuth_deg": 0.0},
        {"file": bricks["green"], "azimuth_deg": 180.0},
    ]
    _, level = sample(
        "level", "--back", bricks["green"], "--front", bricks["red"], "--prompt-temperature", "1e6"
    )
    assert (named != both).any()
    assert np.abs(level - both).max() <= 1  # a matter of rounding


def test_cameras_background_and_framing(model, bricks, tmp_path):
    def sample(name, *arguments):
        record = run(model, tmp_path / f"{name}.png", bricks["red"], *arguments, "--steps", "1")
        return record["settings"], PIL.Image.open(tmp_path / f"{name}.png").convert("RGB")

    settings, plain = sample("plain")
    assert settings["elevations_deg"] == [5.0] * 4
    settings, around = sample("around", "--azimuths", "0", "45", "--elevation-deg", "0", "20")
    assert (settings["azimuths_deg"], settings["elevations_deg"]) == ([0.0, 45.0], [0.0, 20.0])
    assert around.width == 2 * 192 + 4
    settings, official = sample("official", "--order", "official")
    assert settings["azimuths_deg"] == [-90.0, 0.0, 90.0, 180.0]
    labels = [
        [np.asarray(strip)[:20, view * 196 : view * 196 + 192] for view in range(4)]
        for strip in (plain, official)
    ]
    assert all(
        (labels[0][view] == labels[1][(view + 1) % 4]).all() for view in range(4)
    )  # the second is the front
    settings, grey = sample("grey", "--background", "#808080")
    assert settings["background"] == "#808080"
    for other in (grey, sample("framing", "--keep-framing")[1]):
        assert (np.asarray(other) != np.asarray(plain)).any()


@pytest.mark.parametrize(
    ("controllers", "changed", "reason"),
    [
        ("pixel", {"joint_embedding": False}, "no joint embedding"),
        ("none", {"vision_cfg": None}, "no CLIP image"),
    ],
)
def test_models_without_a_clip_score(controllers, changed, reason, tmp_path, bricks, capsys):
    tiny = tiny_pipeline(controllers)
    tiny.register_modules(encoder=tiny_encoder(**changed))
    tiny.save_pretrained(tmp_path / "model")
    given = [bricks["red"]] if controllers == "pixel" else ["--prompt", "a toy"]
    record = run(tmp_path / "model", tmp_path / "views.png", *given, "--steps", "1", "--seeds", "2")
    assert reason in record["clip_unavailable"]
    assert [entry["clip"] for entry in record["seeds"]] == [None, None]
    assert [entry["score"] for entry in record["seeds"]] == [entry["hull"] for entry in record["seeds"]]
    assert "CLIP not available" in capsys.readouterr().err
    if controllers == "none":
        weights = ["--weights", str(tmp_path / "model"), "--device", "cpu"]
        assert main(["views", bricks["red"], *weights]) == 2
        assert "this model reads captions only" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no picture and no --prompt"),
        (["{red}", "--left", "nowhere.png"], "nowhere.png: no such file"),
        (["{red}", "--seeds", "0"], "--seeds is 0, must be a whole number of at least 1"),
        (["{red}", "--seed", "9" * 30], "must be a whole number of at least 0, up to 4,294,967,295"),
        (["{red}", "--steps", "0"], "--steps is 0, must be a whole number of at least 1"),
        (["{red}", "--guidance-scale", "nan"], "--guidance-scale is nan, must be a number of at least 0"),
        (["{red}", "--guidance-scale", "-2"], "--guidance-scale is -2.0, must be a number of at least 0"),
        (["{red}", "--prompt-temperature", "0"], "--prompt-temperature is 0.0, must be a number above 0"),
        (
            ["{red}", "--elevation-deg", "90"],
            "--elevation-deg is (90.0,), must be a list of numbers above -90",
        ),
        (["{red}", "--elevation-deg", "1", "2"], "2 elevations for 4 cameras"),
        (["{red}", "--azimuths", "0", "nan"], "--azimuths is (0.0, nan), must be a list of numbers"),
        (["{red}", "--azimuths", "0", "90", "--order", "official"], "--azimuths says where all cameras are"),
        (["{red}", "--background", "dotted"], "--background is 'dotted', must be a colour such as white"),
        (["https://example.org/red.png"], "is an address"),
        (["{red}", "--ip-weight", "-1"], "--ip-weight is -1.0, must be a number of at least 0"),
        (["{red}", "--out", "views.json"], "must end in .png or .jpg"),
    ],
)
def test_mistakes_are_found_before_weights_are_read(arguments, message, bricks, model, tmp_path, capsys):
    weights = shutil.copytree(model, tmp_path / "model")
    (weights / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    out = ["--out", str(tmp_path / "views.png")] if "--out" not in arguments else []
    given = [argument.format(**bricks) for argument in arguments]
    assert main(["views", *given, *out, "--weights", str(weights), "--device", "cpu"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("imagedream: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert list(tmp_path.iterdir()) == [weights]


def test_a_sampler_has_the_models_noise_and_parametrisation():
    model = tiny_scheduler("v_prediction")
    for name in ("ddim", "dpm"):
        sampler = make_sampler(name, model)
        torch.testing.assert_close(sampler.alphas_cumprod, model.alphas_cumprod)
        assert sampler.config.prediction_type == "v_prediction"
        # a denoiser that always sees the same clean latents brings every sampler there
        clean = torch.randn(1, 4, 4, 4, 4, generator=torch.Generator().manual_seed(0))
        sampler.set_timesteps(8)
        latents = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
        for timestep in sampler.timesteps:
            alpha = model.alphas_cumprod[timestep].sqrt()
            sigma = (1 - alpha**2).sqrt()
            velocity = alpha * (latents - alpha * clean) / sigma - sigma * clean
            latents = sampler.step(velocity, timestep, latents).prev_sample
        torch.testing.assert_close(latents, clean, atol=0.15, rtol=0)


def test_scores_by_hand(bricks):
    encoder = tiny_encoder()
    prompts = [load_image_prompt(bricks[name], 24).rgba for name in ("red", "green")]
    images = torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    white_frame = torch.ones_like(images)
    white_frame[:, :, 8:16, 8:16] = images[:, :, 8:16, 8:16] * 0.5
    output = ImageDreamOutput(
        white_frame, torch.eye(4).expand(4, 4, 4), (0.0, 90.0, 180.0, 270.0), (10.0,) * 4
    )
    scores = score_views(encoder, output, prompts, "a brick")
    with torch.no_grad():
        views = encoder.encode_image(white_frame).embedding
        cosines = []
        for rgba in prompts:
            on_white = rgba[:3] * rgba[3:] + 1 - rgba[3:]
            cosines.append(
                max(float(encoder.encode_image(on_white[None]).embedding[0] @ view) for view in views)
            )
        caption = float((encoder.embed_text(["a brick"]) @ views.T).mean())
    assert scores.clip == pytest.approx(sum(cosines) / 2)
    square = torch.zeros(4, 24, 24, dtype=torch.bool)
    square[:, 8:16, 8:16] = True
    assert scores.view_hull == pytest.approx(hull_agreement(square, output.azimuths_deg, 10.0).tolist())
    assert scores.total == pytest.approx(scores.clip * scores.hull)
    assert score_views(encoder, output, [], "a brick").clip == pytest.approx(caption)
