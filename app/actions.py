"""What happens when something on the page is pressed: the endpoints of the page, for browsers and for programs."""

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
import PIL.Image
import torch
from markupsafe import escape

from imagedream.cameras import VIEW_NAMES
from imagedream.pictures import leftmost_square
from imagedream.runs.out_of_memory import is_out_of_memory
from imagedream.runs.user_errors import is_user_error, one_line
from imagedream.workshop.launched_run import LaunchedRun

from .jobs import Progress, Runs
from .preview import MOST_SEEDS, Preview, cut_out, mended_mask, seen_by_the_model

logger = logging.getLogger("imagedream.app")

MOST_SHOWN = 24
"""Earlier runs."""


def told_plainly(action: Callable[..., Any]) -> Callable[..., Any]:
    """A user's mistake becomes one sentence on the page and in the log."""

    @wraps(action)
    def safely(self: "Actions", *given: Any, **named: Any) -> Any:
        try:
            return action(self, *given, **named)
        except Exception as error:
            if is_user_error(error):
                text = re.sub(rf"{re.escape(str(self.runs.folder))}/(\S+/)?", "", one_line(error))
                logger.warning("%s", text)
            else:
                text = f"something went wrong ({type(error).__name__}); the server's log says more"
                logger.exception("%s", text)
            if is_out_of_memory(error) and torch.cuda.is_available():
                torch.cuda.empty_cache()
            raise gr.Error(text[:1].upper() + text[1:], print_exception=False, duration=None) from None

    return safely


@dataclass
class Actions:
    """What the parts of the page do."""

    runs: Runs
    preview: Preview
    recipes: Mapping[str, tuple[str, str | None, str]]

    @told_plainly
    def prepare(self, picture: str | None, mask: str | None) -> tuple[Any, str, Any]:
        """What the model will see of a picture, what may spoil the result, and the picture to mend the cut-out on."""
        if picture is None:
            return None, "", None
        prompt, dimmed = cut_out(Path(picture), _path(mask))
        notes = "".join(f"\n- {warning}" for warning in prompt.warnings)
        way = {"alpha": "the picture's own transparency", "mask": "your mask"}.get(
            prompt.background_removal, "the background was removed"
        )
        said = f"Cut out: {way}." + (f" **Please check:**\n{notes}" if notes else " Nothing doubtful.")
        return seen_by_the_model(prompt), said, {"background": dimmed, "layers": [], "composite": None}

    @told_plainly
    def mend(self, picture: str | None, mask: str | None, editor: Mapping[str, Any] | None) -> str | None:
        """The file of the mask with the brush strokes on it."""
        layers = [layer for layer in (editor or {}).get("layers", ()) if layer is not None]
        if picture is None or not layers:
            return mask
        mended = mended_mask(Path(picture), _path(mask), layers)
        path = Path(picture).with_name(f"mask-{os.urandom(4).hex()}.png")
        mended.save(path)
        return str(path)

    @told_plainly
    def views(
        self,
        picture: str | None,
        mask: str | None,
        prompt: str,
        recipe: str,
        first_seed: float,
        count: float,
        front: str | None = None,
        left: str | None = None,
        back: str | None = None,
        right: str | None = None,
    ) -> tuple[list, int]:
        """Labelled strips of four views by seed, the best first, and the best seed."""
        config, preset, pictures = self._checked(picture, recipe, (front, left, back, right))
        seed, count = (
            _whole(first_seed, 0, 2**31, "the first seed"),
            _whole(count, 1, MOST_SEEDS, "the number of seeds"),
        )
        ranked = self.preview.views(pictures, prompt, config, preset, range(seed, seed + count), _path(mask))
        strips = [(strip, f"seed {seed}, score {score:.2f}") for seed, score, strip in ranked]
        return strips, ranked[0][0]

    @told_plainly
    def make(
        self,
        picture: str | None,
        mask: str | None,
        prompt: str,
        recipe: str,
        seed: float,
        front: str | None = None,
        left: str | None = None,
        back: str | None = None,
        right: str | None = None,
    ) -> str:
        """Ask for a run; its name."""
        config, preset, pictures = self._checked(picture, recipe, (front, left, back, right))
        seed = _whole(seed, 0, 2**31 + MOST_SEEDS, "the seed")
        main = pictures.pop("picture")
        cut_out(main, _path(mask))  # says what is wrong now, not when its turn comes
        return self.runs.submit(main, config, preset, prompt, seed, _path(mask), pictures).key

    def _checked(
        self, picture: str | None, recipe: str, sides: Sequence[str | None]
    ) -> tuple[str, str | None, dict[str, Path]]:
        if picture is None:
            raise ValueError("there is no picture yet; drop one first")
        if recipe not in self.recipes:
            raise ValueError(f"the way to make it is {recipe!r}, must be one of {', '.join(self.recipes)}")
        named = zip(VIEW_NAMES, sides, strict=True)
        pictures = {"picture": Path(picture), **{side: Path(path) for side, path in named if path}}
        return *self.recipes[recipe][:2], pictures

    @told_plainly
    def status(self, run: str) -> dict:
        """How a run stands: state, words, and how far it is."""
        found = self.runs.get(run)
        progress = self.runs.progress(found)
        how_far = asdict(progress) if progress else dict.fromkeys(field.name for field in fields(Progress))
        return {"run": found.key, "state": found.state, "words": self.words(found), **how_far}

    def words(self, run: LaunchedRun) -> str:
        """How a run stands, in a sentence."""
        if run.state == "queued":
            before = self.runs.waiting_before(run)
            wait = f"{before} {'run comes' if before == 1 else 'runs come'} first" if before else "it is next"
            return f"Waiting: {self.runs.problem or wait}."
        if run.state == "running":
            progress = self.runs.progress(run)
            if run.stop_asked:
                return "Stopping: what is there is being finished and exported. Stop again to end it at once."
            if progress is None:
                return "Starting: the model is being loaded."
            if progress.done == progress.total and progress.phase != "Four views":
                return (
                    "The mesh is being exported."
                    if progress.phase == "Rendering"
                    else "A turntable is being rendered."
                )
            left = "" if "?" in progress.left else f", about {progress.left} left of this part"
            return f"{progress.phase}: {progress.done} of {progress.total}{left}."
        if run.state == "stopped":
            return f"Stopped: {run.error or 'what was there was exported'}."
        return {"done": "Done.", "cancelled": "Cancelled before it began."}.get(
            run.state, f"Failed: {run.error}"
        )

    @told_plainly
    def show(self, key: str | None, shown: Any) -> list:
        """How a run stands, as the page shows it; what is as it was is not sent again."""
        if not key:
            return [status_html("No run yet."), None, None, None, *_buttons(None), None]
        run = self.runs.get(key)
        progress = self.runs.progress(run) if run.state == "running" else None
        snapshot, model = self.runs.snapshot(run), self.runs.model(run)
        now = [key, run.state, run.stop_asked, _stamp(snapshot), _stamp(model)]
        before = shown or [None] * 5
        other = now[0] != before[0]
        status = status_html(self.words(run), progress and (progress.done, progress.total))
        parts: list[Any] = [gr.skip()] * 5
        if other or now[3] != before[3]:
            parts[0] = _colours(snapshot)
        if other or now[4] != before[4]:
            parts[1] = None if model is None else str(model)
        if other or now[1] != before[1] or now[4] != before[4]:
            parts[2] = [str(path) for path in self.runs.files(run)]
        if other or now[1:3] != before[1:3]:
            parts[3:] = _buttons(run)
        return [status, *parts, now]

    @told_plainly
    def files(self, run: str) -> list[str]:
        """What can be taken home of a run by now."""
        return [str(path) for path in self.runs.files(self.runs.get(run))]

    @told_plainly
    def stop(self, run: str) -> str:
        """Stop a run and keep what is there, or take it out of the queue; asked again, end it at once."""
        return self.words(self.runs.stop(run))

    @told_plainly
    def resume(self, run: str) -> str:
        """Let a stopped or failed run go on."""
        return self.words(self.runs.resume(run))

    def earlier(self) -> tuple[list, list[str]]:
        """Pictures with captions of the newest runs, and their names."""
        runs = self.runs.all()[::-1][:MOST_SHOWN]
        pictures = [_colours(self.runs.snapshot(run)) or str(run.folder / run.picture) for run in runs]
        captions = [f"{run.key[:13]}: {run.prompt or 'no prompt'} ({run.state})" for run in runs]
        return list(zip(pictures, captions, strict=True)), [run.key for run in runs]

    @told_plainly
    def again(self, key: str) -> list:
        """What a run was asked for, to be changed and asked for again."""
        run = self.runs.get(key)
        names = {(config, preset): name for name, (config, preset, _) in self.recipes.items()}
        recipe = names.get((run.config, run.preset), gr.skip())
        files = [run.picture, run.mask, *(run.sides.get(side) for side in VIEW_NAMES)]
        picture, mask, *sides = (file and str(run.folder / file) for file in files)
        return [picture, mask, run.prompt, recipe, run.seed, *sides]

    def opened(self, request: gr.Request) -> str:
        """The run that a page shows when it is opened: the one in its address, or the one that is at work."""
        asked = request.query_params.get("run", "") if request else ""
        runs = self.runs.all()
        if asked in [run.key for run in runs]:
            return asked
        return next((run.key for run in runs[::-1] if run.state in ("running", "queued")), "")


def _buttons(run: LaunchedRun | None) -> list[Any]:
    state = "" if run is None else run.state
    words = "Take it out of the queue" if state == "queued" else "Stop and keep what is there"
    if run is not None and run.stop_asked and state == "running":
        words = "End it at once"
    stop = gr.Button(words, interactive=state in ("queued", "running"))
    return [stop, gr.Button(interactive=state in ("stopped", "failed", "cancelled"))]


def status_html(words: str, progress: tuple[int, int] | None = None) -> str:
    """A sentence that screen readers read out when it changes, and a bar."""
    bar = ""
    if progress:
        bar = f'<progress aria-label="progress" value="{progress[0]}" max="{progress[1]}"></progress>'
    return f'<p role="status">{escape(words)}</p>{bar}'


def _colours(snapshot: Path | None) -> PIL.Image.Image | None:
    """The leftmost of squares side by side."""
    if snapshot is None:
        return None
    try:
        with PIL.Image.open(snapshot, formats=["PNG"]) as picture:
            return leftmost_square(picture.convert("RGB"))
    except OSError:  # replaced just now
        return None


def _stamp(path: Path | None) -> list | None:
    return None if path is None else [str(path), path.stat().st_mtime_ns]


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)


def _whole(value: float, least: int, most: int, what: str) -> int:
    if value is None or value != int(value) or not least <= value <= most:
        raise ValueError(f"{what} is {value}, must be a whole number from {least} to {most}")
    return int(value)
