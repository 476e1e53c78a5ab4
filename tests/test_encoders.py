import pytest
import torch

from tests.tiny import tiny_encoder


@torch.no_grad()
def test_text_tokens_are_the_second_to_last_block_then_the_final_norm():
    encoder = tiny_encoder()
    clip, ids = encoder.clip, encoder.tokenize(["a red ball", ""])
    hidden = clip.token_embedding(ids) + clip.positional_embedding
    for block in list(clip.transformer.resblocks)[:-1]:
        hidden = block(hidden, attn_mask=clip.attn_mask)
    torch.testing.assert_close(encoder.encode_text(["a red ball", ""]), clip.ln_final(hidden))


@torch.no_grad()
def test_hidden_tokens_are_the_second_to_last_block_without_the_final_norm():
    encoder = tiny_encoder()
    seen = {}
    visual = encoder.clip.visual
    handle = visual.transformer.resblocks[-2].register_forward_hook(lambda *args: seen.update(hidden=args[2]))
    pixels = torch.rand(2, 3, 16, 16)
    features = encoder.encode_image(pixels)
    handle.remove()
    assert features.hidden.shape == (2, 1 + 4, 32)
    torch.testing.assert_close(features.hidden, seen["hidden"])


@torch.no_grad()
def test_embeddings_are_open_clips_and_of_unit_length():
    encoder = tiny_encoder()
    pixels = torch.rand(2, 3, 16, 16)
    embedding = encoder.encode_image(pixels).embedding
    torch.testing.assert_close(
        embedding, encoder.clip.encode_image(encoder.preprocess(pixels), normalize=True)
    )
    torch.testing.assert_close(embedding.norm(dim=-1), torch.ones(2))
    torch.testing.assert_close(encoder.embed_text(["a ball"]).norm(dim=-1), torch.ones(1))


def test_pictures_of_any_size_are_resized_and_normalised():
    encoder = tiny_encoder()
    grey = encoder.preprocess(torch.full((1, 3, 40, 40), 0.5))
    expected = [
        (0.5 - m) / s for m, s in zip(encoder.config.image_mean, encoder.config.image_std, strict=True)
    ]
    torch.testing.assert_close(grey[0, :, 3, 3], torch.tensor(expected))


def test_an_encoder_without_image_encoder_reads_captions_the_same_way():
    whole, text = tiny_encoder(), tiny_encoder(vision_cfg=None)
    text.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith("clip.visual.")})
    captions = ["a red robot"]
    torch.testing.assert_close(text.encode_text(captions), whole.encode_text(captions))
    torch.testing.assert_close(text.embed_text(captions), whole.embed_text(captions))
    with pytest.raises(ValueError, match="no CLIP image encoder"):
        text.encode_image(torch.rand(1, 3, 16, 16))


def test_an_encoder_without_last_text_block_and_projections_gives_the_same_tokens():
    whole = tiny_encoder()
    text_cfg = {**whole.config.text_cfg, "layers": 2}
    cut = tiny_encoder(text_cfg=text_cfg, caption_tokens="last", joint_embedding=False)
    own = cut.state_dict().keys()
    assert whole.state_dict().keys() - own >= {"clip.text_projection", "clip.visual.proj", "clip.logit_scale"}
    cut.load_state_dict({k: v for k, v in whole.state_dict().items() if k in own})
    captions, pixels = ["a red robot"], torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(cut.encode_text(captions), whole.encode_text(captions))
    features = cut.encode_image(pixels)
    torch.testing.assert_close(features.hidden, whole.encode_image(pixels).hidden)
    assert features.embedding is None
    with pytest.raises(ValueError, match="no joint embedding"):
        cut.embed_text(captions)
