"""preview, default and paper: what they change, by hand."""

import pytest

from imagedream.preset_choice import choose
from imagedream.presets import overrides
from imagedream.quality_presets import (
    GIB,
    NEEDED_BYTES,
    PREVIEW_LEARNING_RATE,
    QUALITIES,
    choose_for_cpu,
    free_memory_bytes,
    quality_settings,
)
from tests.test_presets import config


def test_default_changes_nothing():
    for name in ("imagedream.yaml", "imagedream-toybox.yaml"):
        assert quality_settings(QUALITIES["default"], config(name)) == {}


def test_paper_is_what_imagedream_yaml_is():
    assert quality_settings(QUALITIES["paper"], config()) == {}


def test_a_preview_of_the_small_model():
    settings = quality_settings(QUALITIES["preview"], config("imagedream-toybox.yaml"))
    assert settings["trainer.max_steps"] == settings["checkpoint.every_n_train_steps"] == 80
    assert settings["trainer.val_check_interval"] == 20
    assert settings["system.guidance.min_step_percent"] == [0, 0.98, 0.02, 73]  # 220 / 3
    assert settings["system.loss.lambda_opaque"] == [33, 0.0, 0.3, 80]  # 100 / 3 and 240 / 3
    assert settings["system.exporter.texture_size"] == 512
    assert settings["data.n_test_views"] == 20
    assert settings["system.optimizer.params[geometry.encoding].lr"] == pytest.approx(
        0.03 * PREVIEW_LEARNING_RATE
    )
    changed = config("imagedream-toybox.yaml", *overrides(settings)).system.optimizer.params
    assert changed["geometry.encoding"].lr == settings["system.optimizer.params[geometry.encoding].lr"]
    assert "data.height" not in settings  # it has one resolution only
    assert not any("color" in key or "range" in key for key in settings)


def test_a_preview_of_the_papers_run_stays_at_the_first_resolution():
    settings = quality_settings(QUALITIES["preview"], config())
    assert settings["trainer.max_steps"] == 4167
    assert (settings["data.height"], settings["data.batch_size"]) == (64, 4)
    assert settings["data.resolution_milestones"] == []
    assert settings["system.material.ambient_only_steps"] == 1667
    assert settings["system.loss.lambda_orient"] == [0, 10.0, 1000.0, 1667]
    assert settings["system.guidance.max_step_percent"][-1] == 2667


def test_paper_stretches_the_small_models_schedules():
    settings = quality_settings(QUALITIES["paper"], config("imagedream-toybox.yaml"))
    assert settings["trainer.max_steps"] == 12500
    assert settings["system.guidance.min_step_percent"][-1] == round(220 * 12500 / 240)
    assert set(settings) == {
        *("trainer.max_steps", "trainer.val_check_interval", "checkpoint.every_n_train_steps"),
        *(
            "system.guidance.min_step_percent",
            "system.guidance.max_step_percent",
            "system.loss.lambda_opaque",
        ),
    }


def test_a_cpu_gets_what_fits_its_memory():
    assert choose_for_cpu(8 * GIB)[0].name == "default"
    preview, reason = choose_for_cpu(NEEDED_BYTES["preview"])
    assert preview.name == "preview"
    assert "of memory are free" in reason
    with pytest.raises(ValueError, match=r"0\.5 GiB of memory are free, the preview needs"):
        choose_for_cpu(GIB // 2)
    assert free_memory_bytes() > 0


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match="10g, must be auto or one of preview, default, paper, 8g, 12g"):
        choose("10g", config(), "embedded", "0")
    with pytest.raises(ValueError, match=r"needs trainer\.max_steps of 1 or more, got -1"):
        choose("preview", {"trainer": {}}, "embedded", "0")
