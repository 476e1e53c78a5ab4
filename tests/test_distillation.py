"""Image-prompt score distillation against its definition, analytic denoisers and hand calculation."""

import jaxtyping
import pytest
import torch
from diffusers import DDIMScheduler

from imagedream.distillation import (
    DistillationSettings,
    draw_timesteps,
    image_prompt_score_distillation,
    rescale_std,
    score_distillation_sampling,
    signal_and_noise,
    to_original,
)
from imagedream.model import Condition
from tests.tiny import tiny_unet

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def scheduler(prediction_type="epsilon"):
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction_type
    )


def condition(groups=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Condition(
        text_tokens=torch.randn(groups, 3, 16, generator=generator),
        image_features=torch.randn(groups, 5, 32, generator=generator),
        prompt_latents=torch.randn(groups, 1, 4, 4, 4, generator=generator),
    )


def group_inputs(groups=2, seed=1, views=4):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(groups, views, 4, 4, 4, generator=generator, requires_grad=True)
    return {
        "latents": latents,
        "cameras": torch.randn(groups, views, 16, generator=generator),
        "noise": torch.randn(groups, views, 4, 4, 4, generator=generator),
        "timesteps": torch.randint(20, 980, (groups,), generator=generator),
    }


def perfect_denoiser(schedule, target):
    """Answers, in the scheduler's parametrisation, as if every clean latent were `target`."""

    def predict(unet, noisy, timesteps, cameras, text_tokens, image_features, prompt_latents):
        alpha, sigma = signal_and_noise(schedule, timesteps)
        noise = (noisy - alpha * target) / sigma
        answers = {"epsilon": noise, "v_prediction": alpha * noise - sigma * target}
        return answers.get(schedule.config.prediction_type, target.expand_as(noisy))

    return predict


def conditional_denoiser(unet, noisy, timesteps, cameras, text_tokens, image_features, prompt_latents):
    """Smooth in its input and different with and without image prompt, so that guidance has something to do."""
    image = image_features.mean((1, 2)).reshape(-1, 1, 1, 1, 1)
    return torch.sin(noisy) + image + 0.1 * cameras.mean(-1)[..., None, None, None]


def distil(form, inputs, schedule=None, **options):
    """One step with a smooth denoiser, and its gradient."""
    given = {"condition": condition(), "unconditional": condition().without_image(), **inputs}
    given |= {"predict": conditional_denoiser, **options}
    result = form(None, schedule or scheduler(), **given)
    return result, torch.autograd.grad(result.loss, inputs["latents"])[0]


@pytest.fixture(scope="module")
def unet():
    return tiny_unet()


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_perfect_denoiser_gives_the_target_back(prediction_type, guidance_scale):
    inputs = group_inputs()
    schedule = scheduler(prediction_type)
    target = torch.randn(1, 4, 4, 4, 4, generator=torch.Generator().manual_seed(9))
    result, gradient = distil(
        image_prompt_score_distillation,
        inputs,
        schedule,
        condition=condition(2),
        unconditional=condition(2, seed=3),
        guidance_scale=guidance_scale,
        recon_std_rescale=0.2,  # x0 with and without guidance agree, so this must change nothing
        predict=perfect_denoiser(schedule, target),
    )
    target = target.expand(2, -1, -1, -1, -1)
    torch.testing.assert_close(result.predicted_original, target, rtol=1e-3, atol=2e-3)
    # one gradient step of size B = groups × views lands on the target
    torch.testing.assert_close(inputs["latents"] - 8 * gradient, target, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("rescale", [0.0, 0.2])
def test_gradient_is_that_of_the_definition(rescale):
    inputs = group_inputs()
    schedule = scheduler("epsilon")
    with_prompt, without = condition(2), condition(2).without_image()
    result, gradient = distil(
        image_prompt_score_distillation,
        inputs,
        schedule,
        condition=with_prompt,
        unconditional=without,
        guidance_scale=5.0,
        recon_std_rescale=rescale,
    )

    # the released formula, written out for one group at a time
    loss = 0.0
    for group in range(2):
        z = inputs["latents"][group]
        alpha_bar = schedule.alphas_cumprod[inputs["timesteps"][group]]
        noisy = (alpha_bar.sqrt() * z + (1 - alpha_bar).sqrt() * inputs["noise"][group]).detach()
        cameras = 0.1 * inputs["cameras"][group].mean(-1)[:, None, None, None]
        conditional = torch.sin(noisy) + with_prompt.image_features[group].mean() + cameras
        unconditional = torch.sin(noisy) + cameras
        guided = unconditional + 5.0 * (conditional - unconditional)
        original = (noisy - (1 - alpha_bar).sqrt() * guided) / alpha_bar.sqrt()
        unguided = (noisy - (1 - alpha_bar).sqrt() * conditional) / alpha_bar.sqrt()
        original = rescale * original * unguided.std() / original.std() + (1 - rescale) * original
        loss = loss + 0.5 * ((z - original) ** 2).sum() / 8
    torch.testing.assert_close(result.loss, loss)
    torch.testing.assert_close(gradient, torch.autograd.grad(loss, inputs["latents"])[0])


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_reconstruction_is_score_distillation_with_weight_sigma_over_alpha(prediction_type):
    inputs, schedule = group_inputs(), scheduler(prediction_type)
    _, reconstruction = distil(image_prompt_score_distillation, inputs, schedule, recon_std_rescale=0.0)
    _, sampling = distil(score_distillation_sampling, inputs, schedule, weighting="reconstruction")
    torch.testing.assert_close(reconstruction, sampling, rtol=1e-4, atol=1e-5)
    _, dreamfusion = distil(score_distillation_sampling, inputs, schedule)  # its weight is the noise variance
    alpha, sigma = signal_and_noise(schedule, inputs["timesteps"])
    torch.testing.assert_close(dreamfusion, sampling * sigma * alpha)


def test_rescale_std_by_hand():
    values = torch.tensor([1.0, 3.0, 5.0, 7.0]).reshape(1, 4, 1, 1, 1)
    # std of 4 × values is 4 times that of values, so the factor is 1/4: half of it is 4 × (0.5 / 4 + 0.5) = 2.5
    torch.testing.assert_close(rescale_std(4 * values, values, 0.5), 2.5 * values)
    torch.testing.assert_close(rescale_std(4 * values, values, 0.0), 4 * values)
    # groups have their own spread
    both = rescale_std(torch.cat([4 * values, 2 * values]), torch.cat([values, values]), 1.0)
    torch.testing.assert_close(both, torch.cat([values, values]))


@pytest.mark.parametrize("groups_per_call", [1, 3])
def test_chunks_change_nothing(unet, groups_per_call):
    inputs = group_inputs()
    arguments = {**inputs, "condition": condition(), "unconditional": condition().without_image()}
    whole = image_prompt_score_distillation(unet, scheduler(), **arguments)
    parts = image_prompt_score_distillation(unet, scheduler(), **arguments, groups_per_call=groups_per_call)
    torch.testing.assert_close(parts.loss, whole.loss, rtol=1e-4, atol=1e-4)
    parts.loss.backward()
    assert all(parameter.grad is None for parameter in unet.parameters())
    assert inputs["latents"].grad.abs().sum() > 0


@pytest.mark.parametrize("form", [image_prompt_score_distillation, score_distillation_sampling])
def test_clipping_reaches_the_gradient_of_the_loss(form):
    inputs = group_inputs()
    free, free_gradient = distil(form, inputs)
    limit = free.gradient_norm.mean().item()  # between the two groups' norms: clips one, leaves the other
    clipped, gradient = distil(form, inputs, gradient_clip=limit)
    norms = 2 * gradient.flatten(1).norm(dim=1)  # a group's own gradient: the loss is a mean over two groups
    torch.testing.assert_close(norms, free.gradient_norm.clamp_max(limit))
    direction = torch.nn.functional.cosine_similarity(gradient.flatten(1), free_gradient.flatten(1))
    torch.testing.assert_close(direction, torch.ones(2))
    torch.testing.assert_close(clipped.gradient_norm, free.gradient_norm)


def test_seed_decides_timesteps_and_noise():
    inputs = {name: group_inputs(groups=3)[name] for name in ("latents", "cameras")}

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return distil(image_prompt_score_distillation, inputs, generator=generator)[0]

    first, again, other = draw(1), draw(1), draw(2)
    assert torch.equal(first.noise, again.noise)
    assert torch.equal(first.timesteps, again.timesteps)
    assert not torch.equal(first.noise, other.noise)


def test_timesteps_cover_their_range_and_no_more():
    generator = torch.Generator().manual_seed(0)
    drawn = draw_timesteps(scheduler(), 4000, (0.02, 0.03), generator)
    assert (drawn.min(), drawn.max()) == (20, 30)
    assert set(draw_timesteps(scheduler(), 10, (0.98, 0.98), generator).tolist()) == {980}
    assert set(draw_timesteps(scheduler(), 10, (1.0, 1.0), generator).tolist()) == {999}


def test_settings_by_name_and_what_does_not_fit():
    inputs = group_inputs()
    settings = DistillationSettings(guidance_scale=1.0, recon_std_rescale=0.5)
    together, _ = distil(image_prompt_score_distillation, inputs, settings=settings)
    by_name, _ = distil(image_prompt_score_distillation, inputs, guidance_scale=1.0, recon_std_rescale=0.5)
    assert torch.equal(together.loss, by_name.loss)
    with pytest.raises(ValueError, match=r"timestep_range is \(0.9, 0.1\)"):
        DistillationSettings(timestep_range=(0.9, 0.1))
    with pytest.raises((ValueError, jaxtyping.TypeCheckError), match="weighting"):
        distil(score_distillation_sampling, inputs, weighting="sigma")
    rows = {"condition": condition(3), "unconditional": condition(3)}
    with pytest.raises(ValueError, match="has 3 rows, must have 1 or one for each of the 2 groups"):
        distil(image_prompt_score_distillation, inputs, **rows)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_to_original_undoes_add_noise(prediction_type):
    schedule = scheduler(prediction_type)
    inputs = group_inputs()
    clean, noise, timesteps = inputs["latents"].detach(), inputs["noise"], inputs["timesteps"]
    # diffusers' own noise and velocity as the second implementation
    noisy = schedule.add_noise(clean, noise, timesteps)
    outputs = {
        "epsilon": noise,
        "v_prediction": schedule.get_velocity(clean, noise, timesteps),
        "sample": clean,
    }
    original = to_original(schedule, outputs[prediction_type], noisy, timesteps)
    torch.testing.assert_close(original, clean, rtol=1e-3, atol=1e-3)
