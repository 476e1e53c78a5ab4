"""Every kind of starting point gives the network it should; what is new begins without influence."""

import json

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from imagedream import checkpoints
from imagedream.model import predict_noise
from imagedream.workshop.training.build import build_module
from imagedream.workshop.training.optimizers import choose_learned
from imagedream.workshop.training.train_config import TrainConfig
from imagedream.workshop.training.weight_initialisation import start_network
from tests.checkpoints.published import (
    reduced_network,
    reduced_pipeline,
    write_diffusers,
    write_official,
    write_stable_diffusion,
)
from tests.tiny import tiny_encoder, tiny_unet, tiny_vae
from tests.workshop.training.conftest import settings

VIEWS = 2


@pytest.fixture(scope="module")
def captions():
    """A model without image controllers."""
    return reduced_pipeline("none")


@pytest.fixture(scope="module")
def sources(captions, tmp_path_factory):
    """Small models on disk: without image controllers in every form, and the parts of one with them."""
    root = tmp_path_factory.mktemp("sources")
    pixel = reduced_pipeline("pixel", seed=1)
    pixel.unet.save_pretrained(root / "part")
    captions.save_pretrained(root / "folder")
    return {
        "mvdream": write_official(captions, root / "mvdream.pt"),
        "stable-diffusion": write_stable_diffusion(captions, root / "sd.safetensors"),
        "diffusers": write_diffusers(captions, root / "diffusers", "stable-diffusion", torch.float32),
        "folder": root / "folder",
        "pixel": write_official(pixel, root / "pixel.pt"),
        "part": root / "part",
    }


@pytest.fixture(scope="module")
def networks(sources):
    """What `load_part` makes of them."""
    return {name: checkpoints.load_part(str(source), "unet") for name, source in sources.items()}


def inputs(unet, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    features = {"global": (1, 64), "local": (1, 5, 128), "pixel": (1, 5, 128)}.get(unet.config.controllers)
    return (
        (draw(1, VIEWS, 4, 8, 8), torch.tensor([300]), draw(1, VIEWS, 16), draw(1, 3, 64)),
        None if features is None else draw(*features),
    )


@pytest.mark.parametrize(
    ("start", "controllers"),
    [
        *(("mvdream", kind) for kind in ("none", "global", "local", "pixel")),
        *((start, "pixel") for start in ("stable-diffusion", "diffusers", "folder")),
    ],
)
@torch.no_grad()
def test_new_controllers_begin_without_influence(networks, start, controllers):
    (source, new), model = networks[start], reduced_network(controllers)
    start_network(model, source, new)
    shared, features = inputs(model)
    expected = predict_noise(source, *shared)
    torch.testing.assert_close(predict_noise(model, *shared, features), expected, atol=1e-5, rtol=1e-4)


def test_but_they_learn(networks):
    model = reduced_network("local")
    projection = model.image_projection.latents.clone()
    start_network(model, *networks["mvdream"])
    state = model.state_dict()
    for name in [name for name in state if ".to_k_ip." in name]:  # keys are those of the caption
        assert torch.equal(state[name], state[name.split("processor.")[0] + "to_k.weight"])
    assert torch.equal(model.image_projection.latents, projection)
    choose_learned(model, "controllers")
    shared, features = inputs(model)
    predict_noise(model, *shared, features).square().mean().backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    # while the values are zero, nothing else of the image tokens has an influence that could be learned
    assert moved == {name for name, _ in model.named_parameters() if ".to_v_ip." in name}


@pytest.mark.parametrize("start", ["pixel", "part"])
def test_a_trained_network_goes_on_as_it_was(networks, start):
    model = reduced_network("local")  # local and pixel have the same weights
    source, new = networks[start]
    assert not new
    start_network(model, source)
    for name, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_what_was_taken_and_what_is_new_is_said(networks, caplog):
    source, new = networks["stable-diffusion"]
    assert {name.split(".")[1] for name in new} == {"class_embedding"}
    model = reduced_network("local")
    with caplog.at_level("INFO", logger="imagedream"):
        counts = start_network(model, source, new)
    for words in ("taken", "new camera layers", "new image projection", "new image keys and values"):
        assert words in caplog.text
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())
    assert counts["new camera layers"] == 16 * 256 + 256 + 256 * 256 + 256
    # and cameras have no influence at first
    (latents, timesteps, cameras, text), _ = inputs(source)
    with torch.no_grad():
        answers = [
            predict_noise(source, latents, timesteps, turned, text) for turned in (cameras, cameras + 1)
        ]
    torch.testing.assert_close(*answers)


@pytest.mark.parametrize(
    ("controllers", "message"),
    [
        ("global", "model.controllers is global, but the starting point has pixel controllers"),
        ("none", "model.controllers is none, but .* fit local and pixel only"),
        ("pixel-only", "model.controllers is pixel-only, but .* fit local and pixel only"),
    ],
)
def test_controllers_of_another_kind(controllers, message):
    with pytest.raises(ValueError, match=message):
        start_network(tiny_unet(controllers), tiny_unet("pixel"))


def test_a_network_of_another_size_is_named_by_its_shapes(networks):
    with pytest.raises(ValueError, match=r"of another shape: .* instead of .* and \d+ more"):
        start_network(reduced_network("none"), tiny_unet("none"))


def test_all_parts_from_one_file(captions, sources):
    file, model = str(sources["mvdream"]), settings(captions.unet)
    module = build_module(
        TrainConfig("diffusion", "nowhere", model, initial=file, autoencoder=file, encoder=file)
    )
    for part in ("unet", "vae", "encoder"):
        ours, theirs = getattr(module.pipeline, part), getattr(captions, part)
        for name, tensor in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], tensor)
    assert not any(p.requires_grad for p in module.pipeline.vae.parameters())


@pytest.fixture(scope="module")
def tiny_parts(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    tiny_vae().save_pretrained(root / "vae")
    tiny_encoder().save_pretrained(root / "encoder")
    tiny_encoder(vision_cfg=None).save_pretrained(root / "captions")
    tiny_unet("none").save_pretrained(root / "unet")
    return root


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"learn": "controllers"}, "initial is empty: the random weights"),
        ({"initial": "nowhere.pt"}, "no weights at nowhere.pt"),
        ({"encoder": ""}, "encoder is empty"),
        ({"encoder": "ViT-H-15:laion"}, "no architecture 'ViT-H-15'"),
        ({"encoder": "ViT-H-14:none"}, "none of open_clip's weights of ViT-H-14"),
        ({"encoder": "{captions}"}, "the encoder reads no pictures"),
        ({"learn": ["nothing"], "initial": "{unet}"}, "'nothing' fits none"),
        ({"model": {}}, "model.controllers is None, must be one of none, global"),
        ({"model": {**settings(tiny_unet("local")), "camera": 1}}, "unexpected keyword argument 'camera'"),
        ({"model": {"controllers": "local"}}, "16 channels of caption tokens, the network reads 1024"),
    ],
)
def test_mistakes_are_named(tiny_parts, changed, message):
    fields = {
        "model": settings(tiny_unet("local")),
        "autoencoder": "{vae}",
        "encoder": "{encoder}",
        **changed,
    }
    names = {path.name: path for path in tiny_parts.iterdir()}
    filled = {
        name: value.format(**names) if isinstance(value, str) else value for name, value in fields.items()
    }
    with pytest.raises(ValueError, match=message):
        build_module(TrainConfig("diffusion", "nowhere", **filled))


def test_cameras_that_would_never_be_learned(sources, tiny_parts, tmp_path):
    model = reduced_pipeline("local")
    model.encoder.save_pretrained(tmp_path / "encoder")
    config = TrainConfig(
        "diffusion",
        "nowhere",
        settings(model.unet),
        initial=str(sources["stable-diffusion"]),
        autoencoder=str(sources["mvdream"]),
        encoder=str(tmp_path / "encoder"),
        learn="controllers",
    )
    with pytest.raises(ValueError, match="has no camera layers, and learn: controllers leaves them frozen"):
        build_module(config)


def test_clip_from_a_file_of_open_clip(tmp_path):
    architecture = settings(tiny_encoder())
    clip = {name: architecture[name] for name in ("embed_dim", "vision_cfg", "text_cfg")}
    (tmp_path / "tiny-test.json").write_text(json.dumps(clip))
    open_clip.add_model_config(tmp_path)
    encoder = tiny_encoder(seed=5)
    file = tmp_path / "clip.safetensors"
    save_file({name.removeprefix("clip."): tensor for name, tensor in encoder.state_dict().items()}, file)
    loaded, new = checkpoints.load_part(f"tiny-test:{file}", "encoder")
    assert not new
    pixels = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(loaded.encode_image(pixels).hidden, encoder.encode_image(pixels).hidden)
        torch.testing.assert_close(loaded.encode_text(["a ball"]), encoder.encode_text(["a ball"]))
    assert checkpoints.part_config(f"tiny-test:{file}", "encoder")["embed_dim"] == 24
