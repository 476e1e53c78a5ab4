"""Weights, settings and adapters that are damaged or meant to harm: one line each, before anything is made of them."""

import io
import json
import shutil
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save, save_file

from imagedream import checkpoints
from imagedream.checkpoints import CheckpointError, pickles, tensors
from imagedream.encoders import ImageTextEncoder
from tests.tiny import tiny_pipeline, tiny_unet


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory):
    return shutil.copytree(tiny_model, tmp_path_factory.mktemp("hostile") / "model")


@pytest.fixture
def changed(model):
    """Puts something in a file's place until the test is over."""
    kept = {}

    def change(name, content):
        kept.setdefault(name, (model / name).read_bytes())
        (model / name).write_bytes(content)
        return model

    yield change
    for name, content in kept.items():
        (model / name).write_bytes(content)


def refused(source, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoints.load(source)
    assert "weights_only" not in str(caught.value)


def test_weights_in_several_files(model, changed, tmp_path):
    """As the hub has them: all of them, each tensor once, halves beside them passed over."""
    folder = shutil.copytree(model, tmp_path / "model")
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    state = load_file(file)
    halves = dict(list(state.items())[::2]), dict(list(state.items())[1::2])
    for number, half in enumerate(halves, 1):
        save_file(half, folder / f"unet/diffusion_pytorch_model-0000{number}-of-00002.safetensors")
    refused(
        folder, r"unet has \d+ tensors twice, .* in diffusion_pytorch_model-00001-of-00002.safetensors and"
    )
    file.unlink()
    save_file({name: tensor * 0 for name, tensor in state.items()}, file.with_suffix(".fp16.safetensors"))
    loaded = checkpoints.load(folder).unet.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    (folder / "unet/diffusion_pytorch_model-00001-of-00002.safetensors").unlink()
    refused(folder, "unet lacks 1 of 2 files: diffusion_pytorch_model-00001-of-00002.safetensors")


# ------------------------------------------------------------------------------------------------ settings

FILES = {
    "unet": "unet/config.json",
    "vae": "vae/config.json",
    "encoder": "encoder/config.json",
    "scheduler": "scheduler/scheduler_config.json",
    "index": "model_index.json",
}


@pytest.mark.parametrize("file", FILES.values())
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "holds a list, must be an object"),
        ("null", "holds a NoneType"),
        ("[" * 100_000, r"\(100000 bytes\) is not JSON: maximum recursion"),
        ('{"a": "' + "9" * (17 * 2**20) + '"}', "bytes, the limit of settings is 16,777,216"),
    ],
)
def test_settings_are_objects_of_a_bounded_size(changed, file, text, message):
    refused(changed(file, text.encode()), f"{file}.*{message}")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        # what would ask the network, or offer to run code
        ("encoder text_cfg hf_model_name", "owner/name", "text_cfg has hf_model_name; known are context_length"),
        ("encoder text_cfg hf_tokenizer_name", "owner/name", "text_cfg has hf_tokenizer_name"),
        ("encoder vision_cfg timm_model_name", "resnet50", "vision_cfg has timm_model_name"),
        ("encoder auto_map", {"AutoModel": "evil.Evil"}, "encoder has auto_map"),
        ("vae trust_remote_code", True, "vae has trust_remote_code"),
        ("unet unet_config auto_map", {}, "unet_config has auto_map"),
        ("index custom_pipeline", "owner/name", "model_index.json has custom_pipeline"),
        # other types
        ("unet unet_config in_channels", "4", "unet_config: in_channels is '4', must be int"),
        ("unet unet_config in_channels", True, "in_channels is True"),
        ("unet unet_config in_channels", -4, "in_channels is -4, must be int, whole numbers from 0"),
        ("unet unet_config block_out_channels", [32, None], "block_out_channels is .32, None., must be tuple"),
        ("unet image_projection_config", None, "image_projection_config is None, must be a mapping"),
        ("unet image_projection_config depth", 2.5, "depth is 2.5, must be int"),
        ("vae scaling_factor", float("nan"), "scaling_factor is nan, must be float"),
        ("vae force_upcast", "no", "force_upcast is 'no', must be bool"),
        ("encoder embed_dim", [24], "embed_dim is .24., must be int"),
        ("index guidance_scale", float("inf"), "guidance_scale is inf, must be float"),
        ("index guidance_scale", -5.0, "guidance_scale is -5.0, must be a number of at least 0"),
        ("index num_inference_steps", 10**6, "num_inference_steps is 1000000, .* up to 1,000"),
        ("index refine_strength", 3.0, "refine_strength is 3.0, must be .* up to 1"),
        ("scheduler beta_start", "0", "beta_start is '0', must be float"),
        ("vae _class_name", "AutoencoderTiny", "is of a 'AutoencoderTiny', must be AutoencoderKL"),
        # numbers that make no model
        ("unet controllers", "global", "image_projection_config has depth, dim_head"),
        ("unet unet_config sample_size", 0, "sample_size is 0, must be a whole number of at least 1, up to 512"),
        ("unet unet_config norm_num_groups", 0, "the unet's settings: ZeroDivisionError"),
        ("unet unet_config layers_per_block", 10**6, "the unet's settings: they ask for more than"),
        ("unet image_projection_config depth", 10**6, "they ask for more than"),
        ("vae layers_per_block", 10**6, "the vae's settings: they ask for more than"),
        ("vae scaling_factor", 0, "scaling_factor is 0"),
        ("vae shift_factor", 0.1, "the vae's shift_factor is 0.1, which is no model of this family"),
        ("encoder text_cfg layers", 10**6, "the encoder's settings: they ask for more than"),
        ("encoder text_cfg context_length", 10**6, "context_length is 1000000, must be a whole number of at least 1, up to 1,024"),
        ("encoder text_cfg vocab_size", 10**12, r"of another shape: .*\(49408, 16\) instead of \(1000000000000, 16\)"),
        ("encoder image_mean", [0.5, 0.5], "image_mean is .0.5, 0.5., must be a list of 3 numbers of at least 0"),
        ("encoder image_std", [0.0, 0.0, 0.0], "image_std is .0.0, 0.0, 0.0., must be a list of 3 numbers of at least 1e-06"),
        ("scheduler num_train_timesteps", 10**12, "num_train_timesteps is 1000000000000, must be a whole number of at least 1, up to 100,000"),
        ("scheduler trained_betas", [0.5], "the scheduler's settings: IndexError"),
        ("scheduler steps_offset", 10**6, "the scheduler's settings: IndexError"),
        ("scheduler beta_end", -1.0, "the scheduler's settings: "),
        ("scheduler prediction_type", "evil", "prediction_type is 'evil', must be"),
        ("scheduler _class_name", 5, "5 is not a scheduler"),
    ],
)  # fmt: skip
def test_settings_are_held_against_what_their_classes_take(model, changed, place, value, message):
    part, *path, last = place.split()
    content = json.loads((model / FILES[part]).read_text())
    inner = content
    for key in path:
        inner = inner[key]
    inner[last] = value
    refused(changed(FILES[part], json.dumps(content).encode()), message)


def test_an_encoder_never_asks_the_network_however_it_is_made():
    text = dict(context_length=8, vocab_size=50, width=16, heads=1, layers=1)
    with pytest.raises(ValueError, match="text_cfg has hf_model_name"):
        ImageTextEncoder(16, None, {**text, "hf_model_name": "owner/name"})


# ------------------------------------------------------------------------------------------------ tensors

UNET = "unet/diffusion_pytorch_model.safetensors"


def in_file(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        {"a": [1, 2]},
        {"a": None},
        {"a": {key: ENTRY[key] for key in ("dtype", "shape")}},
        {"a": {**ENTRY, "shape": [-2]}},
        {"a": {**ENTRY, "shape": [2**62, 4]}},
        {"a": {**ENTRY, "dtype": "F99"}},
        {"a": {**ENTRY, "data_offsets": [0, 2**40]}},
        {"a": ENTRY, "b": ENTRY},
    ],
)
def test_headers_of_safetensors(changed, header):
    refused(changed(UNET, in_file(header, bytes(8))), f"{UNET} .* is no safetensors file, or not all of one")


def test_files_have_a_bounded_number_of_tensors(changed, monkeypatch):
    monkeypatch.setattr(tensors, "MAX_TENSORS", 3)
    refused(
        changed(UNET, save({str(n): torch.zeros(0) for n in range(5)})), "holds 4 tensors, the limit is 3"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.new_full(t.shape, float("nan")),
            f"{UNET}: unet/unet.conv_in.bias: 32 of 32 numbers are not finite in float32",
        ),
        (lambda t: torch.cat([t[1:], t.new_tensor([float("inf")])]), "1 of 32 numbers are not finite"),
        (lambda t: t.to(torch.int64), "1 tensors hold no floating-point numbers.*unet/unet.conv_in.bias"),
        (lambda t: t > 0, "no floating-point numbers"),
        (lambda t: t.to(torch.complex64), "no floating-point numbers"),
        (lambda t: t[0], r"unet.conv_in.bias \(\) instead of \(32,\)"),
    ],
)
def test_weights_are_finite_fractions(model, changed, change, message):
    state = load_file(model / UNET)
    state["unet.conv_in.bias"] = change(state["unet.conv_in.bias"])
    refused(changed(UNET, save(state)), message)


def test_weights_that_half_precision_cannot_hold(model, changed):
    state = load_file(model / UNET)
    state["unet.conv_in.bias"][0] = 70_000
    folder = changed(UNET, save(state))
    with pytest.raises(CheckpointError, match="1 of 32 numbers are not finite in float16"):
        checkpoints.load(folder, dtype=torch.float16)


def test_weights_that_overflow_make_no_pictures():
    pipeline = tiny_pipeline()
    with torch.no_grad():
        pipeline.unet.unet.conv_in.weight.mul_(1e38)
    with pytest.raises(FloatingPointError, match="the views are not finite: these weights overflow"):
        pipeline(prompt="a toy", num_inference_steps=1)


def test_shapes_that_lead_nowhere(tmp_path):
    names = (
        "model.diffusion_model.input_blocks.0.0.weight",
        "vae_model.quant_conv.weight",
        "clip_model.model.ln_final.weight",
    )
    save_file({name: torch.zeros(()) for name in names}, tmp_path / "m.safetensors")
    refused(tmp_path / "m.safetensors", "m.safetensors cannot be made out")


# ------------------------------------------------------------------------------------------------ pickles


def laughs():
    tree = {"w": torch.zeros(1)}
    for _ in range(40):
        tree = {f"k{n}": tree for n in range(10)}
    return tree


def in_itself():
    tree = {}
    tree["x"] = tree
    return {"state_dict": tree}


class Call:
    """Unpickling it calls a function that torch allows."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (laughs(), "is no plain nest of dictionaries"),
        (in_itself(), "is no plain nest of dictionaries"),
        ({"a": torch.zeros(1).expand(10**6)}, "claims to hold tensors of 4,000,000 bytes"),
        ({"a": Call(bytearray, (10**10,))}, r"besides tensors.*\(.*bytearray\)"),
        ({"a": Call(torch.Size, (["a"],))}, "cannot be read as a torch file of tensors"),
        ({"state_dict": 5}, "its state_dict is a int"),
        ([1, 2], "holds a list, not named tensors"),
        ({"a": torch.zeros(2).to_sparse()}, "besides tensors.*_rebuild_sparse_tensor"),
    ],
)
def test_torch_files_hold_named_tensors_and_no_more_than_they_have(stored, message, tmp_path):
    torch.save(stored, tmp_path / "m.pt")
    refused(tmp_path / "m.pt", message)


def test_torch_files_are_not_unpacked(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "m.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))
    refused(tmp_path / "m.pt", r"m.pt \(\d+ bytes\) is compressed, to be unpacked to 1,000,000")
    torch.save({"a": torch.zeros(1)}, tmp_path / "m.pt")
    monkeypatch.setattr(pickles, "MAX_PICKLE_BYTES", 50)
    refused(tmp_path / "m.pt", "bytes of names and shapes, the limit is 50")


def test_a_pickle_that_names_what_is_on_its_stack(tmp_path):
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, stream, pickle_protocol=4)
    (tmp_path / "m.pt").write_bytes(stream.getvalue())
    refused(tmp_path / "m.pt", r"besides tensors.*\(STACK_GLOBAL\)")


# ------------------------------------------------------------------------------------------------ adapters

MATRIX = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
DOWN, UP = torch.ones(2, 64), torch.ones(64, 2)


def adapter(down=DOWN, up=UP, header=None, name=MATRIX):
    metadata = None if header is None else {"lora_adapter_metadata": header}
    return save({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, metadata=metadata)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (adapter(header="[1]"), "its header holds a list"),
        (adapter(header="[" * 100_000), "is not JSON"),
        (adapter(header='{"r": 0}'), "its rank is 0, must be a whole number of at least 1"),
        (adapter(header='{"r": "x"}'), "its rank is 'x'"),
        (adapter(header='{"r": 4}'), r"matrices of \(2, 64\) and \(64, 2\), .* with rank 4"),
        (adapter(header='{"r": 2, "lora_alpha": NaN}'), "its alpha is nan, must be a finite number"),
        (adapter(header='{"r": 2, "lora_alpha": 1e300}'), "corrected: .* numbers are not finite"),
        (adapter(header='{"use_rslora": true}'), "its header sets use_rslora, which is not read here"),
        (adapter(DOWN[:0], UP[:, :0]), r"matrices of \(0, 64\)"),
        (adapter(DOWN[0, 0], UP[0, 0]), r"matrices of \(\) and \(\)"),
        (adapter(DOWN[:1], UP), r"matrices of \(1, 64\) and \(64, 2\)"),
        (adapter(DOWN[:, :, None], UP[:, :, None]), r"matrices of \(2, 64, 1\)"),
        (adapter(DOWN.int()), "holds no floating-point numbers"),
        (adapter(DOWN * float("nan")), "corrected: 4096 of 4096 numbers are not finite"),
        (adapter(name="__class__"), "is not there"),
        (adapter(up=torch.ones(7, 2)), r"is of another network: 1 of 1 matrices do not fit.*\(7, "),
        (save({"a": DOWN}), "is no LoRA adapter: 0 pairs"),
        (b"hello", "is no safetensors file"),
    ],
)
def test_adapters(tmp_path, content, message):
    (tmp_path / "a.safetensors").write_bytes(content)
    unet = tiny_unet()
    with pytest.raises(CheckpointError, match=message):
        checkpoints.merge_adapter(unet, tmp_path / "a.safetensors")
    assert all(map(torch.equal, unet.parameters(), tiny_unet().parameters()))  # nothing was changed


@pytest.mark.parametrize(
    ("header", "factor"),
    [
        (None, 1),
        ('{"r": 2, "lora_alpha": 8}', 4),
        ('{"unet.r": 2, "unet.lora_alpha": 8}', 4),  # as diffusers' pipelines save it
    ],
)
def test_an_adapter_counts_by_its_header(header, factor, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(adapter(header=header))
    unet = tiny_unet()
    before = unet.unet.get_submodule(MATRIX).weight.numpy(force=True).copy()
    checkpoints.merge_adapter(unet, tmp_path / "a.safetensors")
    np.testing.assert_allclose(
        unet.unet.get_submodule(MATRIX).weight.numpy(force=True), before + 2 * factor, rtol=1e-6
    )
