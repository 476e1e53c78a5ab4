import open_clip
import pytest
import torch
from safetensors.torch import save_file

from imagedream.evaluation.clip import check_clip, find_clip
from tests.tiny import tiny_encoder

pytestmark = pytest.mark.filterwarnings("ignore:.*quick_gelu.*", "ignore:QuickGELU mismatch")


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
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-S-32-alt").eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    clip = find_clip(f"ViT-S-32-alt:{tmp_path / 'weights.safetensors'}", tiny_encoder())
    pixels = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v)[:, None, None] for v in (model.visual.image_mean, model.visual.image_std))
    with torch.no_grad():
        image = model.encode_image((pixels - mean) / std, normalize=True)
        text = model.encode_text(open_clip.get_tokenizer("ViT-S-32-alt")(["a mug"]), normalize=True)
    assert clip.text_similarity(pixels, "a mug") == pytest.approx(100 * float(image @ text.T), abs=1e-3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonsense", "no CLIP 'nonsense': give own, the folder"),
        ("ViT-Z:openai", "open_clip knows no architecture 'ViT-Z'; it knows .*ViT-H-14"),
        ("ViT-H-14:laion9", "laion9 is no file, and none of open_clip's weights of ViT-H-14: laion2b"),
    ],
)
def test_unknown_names_list_the_known(name, message):
    with pytest.raises(ValueError, match=message):
        check_clip(name)


def test_an_encoder_without_joint_embedding_gives_no_scores():
    with pytest.raises(ValueError, match="has no joint embedding"):
        find_clip("own", tiny_encoder(joint_embedding=False))
