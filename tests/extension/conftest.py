import pytest
from omegaconf import OmegaConf

from tests.tiny import brick

FORK_CONFIG = """\
# keys and values of the official fork's configs/imagedream-sd21-shading.yaml
name: imagedream-sd21-shading
tag: "${rmspace:${system.prompt_processor.prompt},_}"
exp_root_dir: outputs
seed: 0
data_type: random-multiview-camera-datamodule
data: {batch_size: [8, 4, 4], width: [64, 192, 256], height: [64, 192, 256], resolution_milestones: [5000, 10000],
  camera_distance_range: [0.6, 0.75], fovy_range: [45, 50], elevation_range: [0, 5], n_view: 4, n_val_views: 4,
  camera_perturb: 0., center_perturb: 0., up_perturb: 0., eval_camera_distance: 2.0, eval_fovy_deg: 40.}
system_type: imagedream-system
system:
  geometry_type: implicit-volume
  geometry: {radius: 1.0, normal_type: analytic, density_bias: blob_magic3d, density_activation: softplus,
    density_blob_scale: 10., density_blob_std: 0.5, pos_encoding_config: {otype: HashGrid, n_levels: 16,
    n_features_per_level: 2, log2_hashmap_size: 19, base_resolution: 16, per_level_scale: 1.447269237440378}}
  material_type: diffuse-with-point-light-material
  material: {ambient_only_steps: 5000, textureless_prob: 0.5, ambient_light_color: [1.0, 1.0, 1.0],
    diffuse_light_color: [0.0, 0.0, 0.0], soft_shading: true, albedo_activation: sigmoid}
  background_type: neural-environment-map-background
  background: {color_activation: sigmoid, random_aug: true, share_aug_bg: true}
  renderer_type: nerf-volume-renderer
  renderer: {radius: "${system.geometry.radius}", num_samples_per_ray: 512}
  prompt_processor_type: stable-diffusion-prompt-processor
  prompt_processor: {pretrained_model_name_or_path: stabilityai/stable-diffusion-2-1-base, prompt: "???",
    negative_prompt: "ugly, blurry", front_threshold: 30., back_threshold: 30.}
  guidance_type: multiview-diffusion-guidance
  guidance: {model_name: sd-v2.1-base-4view-ipmv, ckpt_path: null, guidance_scale: 5.0,
    min_step_percent: [0, 0.98, 0.02, 8000], max_step_percent: [0, 0.98, 0.50, 8000], recon_loss: true,
    recon_std_rescale: 0.2, ip_mode: pixel}
  loggers: {wandb: {enable: false, project: threestudio}}
  loss: {lambda_sds: 1., lambda_orient: [0, 10., 1000., 5000], lambda_sparsity: 1.0, lambda_opaque: 0.,
    lambda_z_variance: 0.}
  optimizer: {name: AdamW, args: {betas: [0.9, 0.99], eps: 1.e-15}, params: {geometry.encoding: {lr: 0.01},
    geometry.density_network: {lr: 0.001}, geometry.feature_network: {lr: 0.001}, background: {lr: 0.001}}}
trainer: {max_steps: 12500, log_every_n_steps: 10, num_sanity_val_steps: 0, val_check_interval: 200,
  enable_progress_bar: true, precision: 16-mixed}
checkpoint: {save_last: true, save_top_k: -1, every_n_train_steps: "${trainer.max_steps}"}
"""


@pytest.fixture(scope="session")
def weights(tiny_model):
    return str(tiny_model)


@pytest.fixture(scope="session")
def picture(tmp_path_factory):
    return str(brick(tmp_path_factory.mktemp("picture") / "brick.png"))


@pytest.fixture(scope="session")
def fork_config(tmp_path_factory):
    """The official fork's configuration, as a file."""
    path = tmp_path_factory.mktemp("fork") / "imagedream-sd21-shading.yaml"
    path.write_text(FORK_CONFIG)
    return path


@pytest.fixture
def prompt(extension, picture):
    import threestudio

    settings = OmegaConf.create({"image_path": picture, "prompt": "a brick", "image_size": 32})
    return threestudio.find("imagedream-prompt-processor")(settings)()
