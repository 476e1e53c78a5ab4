import json

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from imagedream.workshop.evaluation.paper_metrics import check_clip, find_clip
from tests.tiny import tiny_encoder


def test_own_and_saved_encoders_agree(tmp_path):
    encoder = tiny_encoder()
    encoder.save_pretrained(tmp_path)
    own, saved = find_clip("own", encoder), find_clip(str(tmp_path), tiny_encoder(seed=1))
    views = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, *others = (encoder.encode_image(view[None]).embedding for view in views)
    cosines = [1.0, *(float(other @ one.T) for other in others)]
    for clip in (own, saved):
        assert clip.image_similarity(views, views[0]) == pytest.approx(100 * sum(cosines) / 4, rel=1e-4)
        assert clip.image_similarity(views[:1], views[0]) == pytest.approx(100, rel=1e-4)
    assert saved.name == str(tmp_path)


def test_a_file_of_an_open_clip_architecture(tmp_path):
    architecture = {name: tiny_encoder().config[name] for name in ("embed_dim", "vision_cfg", "text_cfg")}
    (tmp_path / "tiny-clip.json").write_text(json.dumps(architecture))
    open_clip.add_model_config(tmp_path)
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-clip").eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    clip = find_clip(f"tiny-clip:{tmp_path / 'weights.safetensors'}", tiny_encoder())
    pixels = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v)[:, None, None] for v in (model.visual.image_mean, model.visual.image_std))
    with torch.no_grad():
        image = model.encode_image((pixels - mean) / std, normalize=True)
        text = model.encode_text(open_clip.get_tokenizer("tiny-clip")(["a mug"]), normalize=True)
    assert clip.text_similarity(pixels, "a mug") == pytest.approx(100 * float(image @ text.T), abs=1e-3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonsense", "no weights at nonsense"),
        ("ViT-Z:openai", "open_clip knows no architecture 'ViT-Z'"),
        ("RN50:openai", "is no plain CLIP, which is all that is read here: vision_cfg: layers is"),
        ("ViT-B-32:/etc/passwd", "'/etc/passwd' is no file that ends in one of .safetensors"),
        ("ViT-H-14:laion9", "'laion9' is no file, and none of open_clip's weights of ViT-H-14: laion2b"),
        ("ViT-L-14:openai", "another activation than ViT-L-14 has; name ViT-L-14-quickgelu:openai"),
    ],
)
def test_names_that_mean_nothing(name, message):
    with pytest.raises(ValueError, match=message):
        check_clip(name)


def test_an_encoder_without_joint_embedding_gives_no_scores():
    with pytest.raises(
        ValueError, match="no CLIP scores by own: this model's encoder has no joint embedding"
    ):
        find_clip("own", tiny_encoder(joint_embedding=False))


def test_quick_gelu_is_openais_activation():
    encoder = tiny_encoder(quick_gelu=True)
    encoder.clip.load_state_dict(tiny_encoder().clip.state_dict())
    pixels = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        quick, exact = (one.encode_image(pixels).embedding for one in (encoder, tiny_encoder()))
    assert float(quick @ exact.T) > 0.99
    assert not torch.equal(quick, exact)
