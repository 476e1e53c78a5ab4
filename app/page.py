"""The page itself: what is shown, and what happens when something is pressed. What it does is in `actions.py`."""

import importlib.util
import os
import re
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware

from imagedream.cameras import VIEW_NAMES
from imagedream.runs.project import project_folder

from .actions import Actions, status_html
from .jobs import MOST_PROMPT, Runs
from .preview import KEEP, MOST_SEEDS, REMOVE, Preview, find_recipes

MOST_UPLOAD = 64 * 2**20
"""Bytes of a picture."""
REFRESH_SECONDS = 2.0
EXAMPLES = {
    "robot": "a gray robot with orange arms, white legs and a green backpack",
    "car": "a blue car with a purple roof, orange wheels and brown dots",
    "house": "a pink house with a teal roof, a brown door and yellow bushes",
    "mug": "a gray mug with a teal handle, a white label and a pink stripe",
}

# what the page may load is the server's own: no font, script or picture from elsewhere
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self' data: blob:; frame-ancestors 'self'"
)
_FONTS = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
_CSS = """
progress { width: 100%; height: 1rem } .notes li { margin: 0.2rem 0 }
.pictures .grid-wrap { min-height: 0; max-height: none; padding-top: 2rem }
.pictures .grid-container { grid-template-rows: none; grid-auto-rows: auto; align-items: start }
.pictures :is(.gallery-item, .thumbnail-item, img) { height: auto; aspect-ratio: auto }
.pictures .caption-label { position: static; max-width: none; border: 0; white-space: normal }
#earlier .grid-container { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)) }
"""  # strips are no squares, and what is said of them stands below
_REMEMBER_RUN = """(key) => {
    const address = new URL(window.location);
    if (key) { address.searchParams.set("run", key); } else { address.searchParams.delete("run"); }
    window.history.replaceState(null, "", address);
}"""


class OwnThingsOnly:
    """Tells the browser to load nothing from elsewhere."""

    def __init__(self, app: Callable) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Callable, send: Callable) -> None:
        """Answer as the server within does, with one more header."""

        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = _POLICY
            await send(message)

        await self.app(scope, receive, send_with_policy)


def picture_input(label: str, height: int, name: str | None = None) -> gr.Image:
    """Where a picture is dropped; whatever is in the file, since our own reader says better what is wrong with it."""
    sources = ["upload", "clipboard"]
    image = gr.Image(label=label, type="filepath", sources=sources, height=height, elem_id=name)
    image.preprocess = lambda upload: None if upload is None else upload.path
    return image


def output(kind: type, label: str, name: str | None = None, **options: Any) -> Any:
    """A part that only shows."""
    if kind in (gr.Image, gr.Gallery):
        options |= {"format": "png", "buttons": []}
    if kind is gr.Gallery:
        options |= {"height": "auto", "allow_preview": False, "elem_classes": ["pictures"]}
    return kind(label=label, interactive=False, elem_id=name, **options)


def build(actions: Actions) -> gr.Blocks:
    """The parts of the page, and what they are wired to."""
    recipes = [(f"{name}: {about}", name) for name, (_, _, about) in actions.recipes.items()]
    folder = project_folder() / "launch_examples"
    examples = [[str(folder / f"{name}.png"), prompt] for name, prompt in EXAMPLES.items()]
    brush = gr.Brush(colors=[_hex(KEEP), _hex(REMOVE)], default_color=_hex(KEEP), color_mode="fixed")
    with gr.Blocks(title="ImageDream", analytics_enabled=False, delete_cache=(3600, 86400)) as blocks:
        mask, shown, names, nothing, sink = gr.State(), gr.State(), gr.State([]), gr.State(), gr.State()
        gr.Markdown("# ImageDream\nOne picture → four views → a textured 3D model.")
        with gr.Row():
            with gr.Column(min_width=320):
                gr.Markdown("## 1. Picture")
                picture = picture_input("Picture: drop, paste or choose", 280, "picture")
                prompt = gr.Textbox(
                    label="Prompt: what it is", max_length=MOST_PROMPT, placeholder="a red car"
                )
                private: dict[str, Any] = {"api_visibility": "private"}
                chosen = gr.Examples(
                    examples,
                    [picture, prompt],
                    example_labels=list(EXAMPLES),
                    cache_examples=False,
                    **private,
                )
                seen = output(gr.Image, "What the model will see", "seen", height=240)
                notes = gr.Markdown(elem_classes=["notes"])
                with gr.Accordion("Mend the cut-out", open=False):
                    gr.Markdown(
                        "Paint green what belongs to the object, red what does not; what is pale is cut away now."
                    )
                    what = {"type": "pil", "format": "png", "sources": (), "transforms": (), "layers": False}
                    editor = gr.ImageEditor(label="Cut-out", brush=brush, buttons=[], height=420, **what)
                    mend = gr.Button("Use the mended cut-out")
                with gr.Accordion("More pictures of the same object", open=False):
                    sides = [picture_input(f"Its {side}", 140) for side in VIEW_NAMES]
            with gr.Column(min_width=320):
                gr.Markdown("## 2. Views")
                recipe = gr.Dropdown(recipes, value=recipes[0][1], label="How it is made")
                with gr.Row():
                    first = gr.Number(0, label="First seed", precision=0, minimum=0, min_width=120)
                    count = gr.Slider(1, MOST_SEEDS, 3, step=1, label="Seeds", min_width=120)
                sample = gr.Button("Show the views", variant="primary")
                strips = output(
                    gr.Gallery, "Four views of each seed. Press one to pick it", "strips", columns=1
                )
            with gr.Column(min_width=320):
                gr.Markdown("## 3. Model")
                its = "Seed: that of the views you picked"
                seed = gr.Number(0, label=its, precision=0, minimum=0, elem_id="seed")
                make = gr.Button("Make the model", variant="primary")
                status = gr.HTML(status_html("No run yet."), elem_id="status")
                with gr.Row():
                    stop = gr.Button("Stop and keep what is there", interactive=False, min_width=140)
                    resume = gr.Button("Go on", interactive=False, min_width=100)
                snapshot = output(gr.Image, "Now", height=220)
                model = output(gr.Model3D, "Model", "model", height=320, clear_color=(0.93, 0.93, 0.93, 1.0))
                files = output(gr.Files, "To take home", "files")
                key = output(gr.Textbox, "Run", "run")
                again = gr.Button("Use its picture and settings again")
        with gr.Accordion("Earlier runs on this machine", open=True):
            gallery = output(gr.Gallery, "Earlier runs", "earlier")

        asked = [picture, mask, prompt, recipe]
        following = [status, snapshot, model, files, stop, resume, shown]
        silent: dict[str, Any] = {"show_progress": "hidden", **private}
        # before the buttons, which would take their names
        for function in (actions.status, actions.files, actions.stop, actions.resume):
            gr.api(function, api_name=function.__name__)
        # a new picture has no mask yet; that of a run that is used again comes with its own
        gr.on([picture.input, chosen.dataset.click], lambda: None, None, mask, **private)
        preparing: dict[str, Any] = {"api_name": "prepare", "trigger_mode": "always_last"}
        gr.on(
            [picture.change, mask.change],
            actions.prepare,
            [picture, mask],
            [seen, notes, editor],
            **preparing,
        )
        mend.click(actions.mend, [picture, mask, editor], mask, **private)
        heavy: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_name": "views"}
        sample.click(actions.views, [*asked, first, count, *sides], [strips, seed], **heavy)
        strips.select(_picked, seed, seed, **private)
        make.click(actions.make, [*asked, seed, *sides], key, api_name="make")
        key.change(actions.show, [key, nothing], following, **silent)
        key.change(None, key, None, js=_REMEMBER_RUN)
        gr.on([key.change, shown.change], actions.earlier, None, [gallery, names], **silent)
        gr.Timer(REFRESH_SECONDS).tick(actions.show, [key, shown], following, **silent)
        stop.click(actions.stop, key, sink, **private)
        resume.click(actions.resume, key, sink, **private)
        gallery.select(_chosen, names, key, **private)
        again.click(actions.again, key, [*asked, seed, *sides], **private)
        blocks.load(actions.opened, None, key, **private)
    return blocks


def launch(
    actions: Actions, address: str, port: int, share: bool, password: str | None
) -> tuple[gr.Blocks, str]:
    """Open the page; it is served by threads of this process until it is closed.

    Args:
        actions: what it does.
        address: to listen on.
        port: likewise.
        share: through gradio's servers, for anybody who knows the address.
        password: of the user `imagedream`; None lets everybody in.

    Returns:
        The page, and its address.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(actions.runs.folder / ".uploads")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    blocks = build(actions)
    theme = gr.themes.Default(primary_hue="blue", font=_FONTS[0], font_mono=_FONTS[1]).set(
        button_primary_background_fill="*primary_700",  # white on it has a contrast of 6.7 : 1
        button_primary_background_fill_hover="*primary_800",
        button_primary_text_color="white",
    )
    _, local, public = blocks.queue(max_size=32).launch(
        server_name=address,
        server_port=port,
        share=share,
        auth=None if password is None else ("imagedream", password),
        allowed_paths=[str(actions.runs.folder)],
        max_file_size=MOST_UPLOAD,
        theme=theme,
        css=_CSS,
        footer_links=["api"],
        run_history=False,
        ssr_mode=False,
        show_error=True,
        quiet=True,
        prevent_thread_lock=True,
        app_kwargs={"middleware": [Middleware(OwnThingsOnly)]},
    )
    return blocks, public or local


def serve(
    folder: Path,
    weights: str,
    configs: Sequence[str],
    device: torch.device,
    address: str,
    port: int,
    share: bool,
    password: str | None,
    opened: Callable[[str], None],
) -> None:
    """Open the page and work through the queue until interrupted; a run that is at work then goes on by itself."""
    overrides = () if weights == "toybox" else (f"system.guidance.weights={weights}",)
    formats = "glb+obj+usdz" if importlib.util.find_spec("pxr") else "glb+obj"
    runs = Runs(folder, project_folder() / "launch.py", overrides, formats)
    actions = Actions(runs, Preview(weights, device), find_recipes(weights, configs))
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # what is ignored here could not stop a run either
    closed = threading.Event()
    worker = threading.Thread(target=runs.serve, args=(closed,), daemon=True)
    blocks, url = launch(actions, address, port, share, password)
    worker.start()
    opened(url)
    try:
        threading.Event().wait()
    finally:
        closed.set()
        blocks.close(verbose=False)
        worker.join(timeout=5)


def _picked(seed: int | None, event: gr.SelectData) -> Any:
    found = re.match(r"seed (\d+)", str((event.value or {}).get("caption", "")))
    return int(found[1]) if found else seed


def _chosen(names: list[str], event: gr.SelectData) -> str:
    return names[event.index] if isinstance(event.index, int) and event.index < len(names) else ""


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
