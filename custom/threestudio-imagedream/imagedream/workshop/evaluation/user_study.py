"""A blind comparison, as in the paper's user study (Fig. 6): results of several methods become a page that asks which is better.

A voter sees pairs under names that say nothing; what they stand for is in `key.json`, which stays with whoever asks.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import PIL.ImageSequence
from tqdm import tqdm

from imagedream.pictures import FORMATS, leftmost_square, on_white, to_pil
from imagedream.report import write_page
from imagedream.runs.files import atomic_folder
from imagedream.workshop.batch.pages import SHEET
from imagedream.workshop.rendering.captioned_files import Item
from imagedream.workshop.rendering.object_views import RenderConfig, Ring, open_object

logger = logging.getLogger(__name__)

KEY, PAGE = "key.json", "page"
"""In the folder of a study: what the names stand for, and what voters get."""
FRAMES, SIDE_PX, FRAME_MS = 36, 320, 110
"""Of all that voters see, so that these tell no methods apart."""

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_KINDS = {"glb": (".glb",), "film": (".mp4", ".webm", ".gif"), "views": _PICTURES}
"""What a result can be shown by, the most equal way first: meshes are all rendered the same."""

Results = dict[str, dict[str, Path]]
"""Files by prompt and kind; of the kind `picture` is the prompt itself."""


def find_results(folder: Path) -> Results:
    """What a folder holds of each prompt: `PROMPT.glb`, `.mp4`, `.png`, ..., or a folder of that name as runs leave it.

    Args:
        folder: of `imagedream batch`, of the web page, of trials (`TAG@TIME` counts as `TAG`), or of files.

    Raises:
        ValueError: there is nothing in it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    found: Results = {}
    for path in sorted(folder.rglob("*.*"), key=lambda path: path.stat().st_mtime_ns):  # the newest counts
        first, *inner = path.relative_to(folder).parts
        ending = path.suffix.lower()
        kind = next((kind for kind, endings in _KINDS.items() if ending in endings), None)
        if inner and kind == "views":  # of the many pictures of a run
            kind = {"views": "views", "prompt": "picture"}.get(path.stem)
        hidden = any(part.startswith(".") for part in (first, *inner))  # uploads, and what is being written
        if kind is not None and first != SHEET and not hidden:
            found.setdefault(first.partition("@")[0] if inner else path.stem, {})[kind] = path
    found = {prompt: files for prompt, files in sorted(found.items()) if files.keys() & _KINDS.keys()}
    if not found:
        raise ValueError(f"{folder} holds no results: neither runs nor PROMPT.glb, PROMPT.mp4 or PROMPT.png")
    return found


def shared_prompts(methods: Mapping[str, Results]) -> dict[str, str]:
    """The prompts of which every method has a result of one kind, and the kind; the log names the others.

    Raises:
        ValueError: there is none.
    """
    kinds, left_out = {}, []
    for prompt in sorted({prompt for results in methods.values() for prompt in results}):
        files = {method: results.get(prompt, {}) for method, results in methods.items()}
        lacking = [method for method, found in files.items() if not found]
        kind = next((kind for kind in _KINDS if all(kind in found for found in files.values())), None)
        if kind is None:
            why = f"not in {', '.join(lacking)}" if lacking else "of different kinds"
            left_out.append(f"{prompt} ({why})")
        else:
            kinds[prompt] = kind
    if left_out:
        logger.warning("left out: %s", ", ".join(left_out))
    if not kinds:
        raise ValueError(f"{', '.join(methods)} have results of no prompt in common")
    return kinds


def arrange(prompts: Sequence[str], methods: Sequence[str], seed: int) -> list[tuple[str, str, str]]:
    """Prompt, left and right method of every question, in a drawn order.

    Each turn of as many questions as there are pairs asks about every pair once, and a pair's sides change from turn to
    turn: whatever part a voter sees is balanced.
    """
    generator = np.random.default_rng(seed)
    pairs = list(combinations(methods, 2))
    orders = [generator.permutation(len(prompts)) for _ in pairs]
    return [
        (prompts[orders[index][turn]], *pairs[index][:: (-1) ** (turn + index)])
        for turn in range(len(prompts))
        for index in generator.permutation(len(pairs))
    ]


def write_study(
    out: Path,
    folders: Sequence[Path],
    question: str,
    per_voter: int,
    seed: int = 0,
    pictures: Path | None = None,
) -> None:
    """Write the page for voters and the key to it.

    Args:
        out: folder to make, which must not exist or be empty.
        folders: of results, one a method.
        question: that is asked.
        per_voter: most pairs that a voter sees.
        seed: of order, sides and names.
        pictures: folder with the picture of each prompt; by default those that the runs keep.

    Raises:
        ValueError: fewer than two folders, one without results, no prompt in common, a file that cannot be read.
        FileExistsError: `out` holds something.
    """
    methods = _methods(folders)
    kinds = shared_prompts(methods)
    given = [] if pictures is None else sorted(pictures.iterdir())
    asked = {path.stem: path for path in given if path.suffix.lower() in _PICTURES}
    for results in methods.values():
        asked = {prompt: files["picture"] for prompt, files in results.items() if "picture" in files} | asked
    if unseen := [prompt for prompt in kinds if prompt not in asked]:
        logger.warning("voters will not see the picture of %s; --pictures gives them", ", ".join(unseen))
    questions = arrange(list(kinds), list(methods), seed)
    generator = np.random.default_rng(seed)
    with atomic_folder(out) as folder:
        media = folder / PAGE / "media"
        media.mkdir(parents=True)

        def add(frames: Sequence[PIL.Image.Image]) -> str:
            name = generator.bytes(6).hex()
            options = {"duration": FRAME_MS, "loop": 0, "quality": 85}
            frames[0].save(media / f"{name}.webp", save_all=True, append_images=frames[1:], **options)
            return name

        results, shown = {}, {}
        for prompt, kind in tqdm(kinds.items(), desc="study", unit="prompt"):
            shown[prompt] = add(_frames(asked[prompt], "picture")) if prompt in asked else None
            for method, found in methods.items():
                results[prompt, method] = add(_frames(found[prompt][kind], kind))
        pairs = [
            {"picture": shown[prompt], "left": results[prompt, left], "right": results[prompt, right]}
            for prompt, left, right in questions
        ]
        sound = pairs[0]["left"]
        with PIL.Image.open(media / f"{sound}.webp") as film:
            ruined = add([_ruined(frame) for frame in PIL.ImageSequence.Iterator(film)])
        key = {"seed": seed, "question": question, "methods": list(methods)}
        key["ruined"] = {"name": ruined, "of": sound}
        key["results"] = {name: {"prompt": p, "method": method} for (p, method), name in results.items()}
        digest = hashlib.sha256(json.dumps(key).encode())
        for path in sorted(media.iterdir()):
            digest.update(path.read_bytes())
        name = digest.hexdigest()[:16]
        (folder / KEY).write_text(json.dumps({"study": name, **key}, indent=1), encoding="utf-8")
        study = {"study": name, "ask": min(per_voter, len(pairs)), "pairs": pairs}
        study["check"] = {**pairs[0], "right": ruined}
        write_page("study.html", folder / PAGE / "index.html", question=question, study=study)


def _methods(folders: Sequence[Path]) -> dict[str, Results]:
    """What is in the folders, by their names, or by their paths where two have one name."""
    if len(folders) < 2:
        raise ValueError(f"a comparison needs at least 2 folders of results, {len(folders)} given")
    names = [folder.name for folder in folders]
    names = names if len(set(names)) == len(names) else list(map(str, folders))
    if len(set(names)) < len(names):
        raise ValueError(f"a folder is given twice: {', '.join(names)}")
    return {name: find_results(folder) for name, folder in zip(names, folders, strict=True)}


def _frames(path: Path, kind: str) -> list[PIL.Image.Image]:
    """A turn of the object, or a picture; of a film with squares side by side the leftmost, the colours."""
    if kind == "glb":
        raycaster, _ = open_object(Item("result", str(path)), RenderConfig())
        ring = Ring(FRAMES)
        views = raycaster.render(ring.camera_to_world, ring.fovs_y_deg, SIDE_PX)
        return [to_pil(view) for view in views.over_white]
    try:
        if kind == "film":
            film, frames = cv2.VideoCapture(str(path)), []
            while (read := film.read())[0]:
                frame = PIL.Image.fromarray(read[1][..., ::-1])
                whole = frame.width % frame.height  # not made of squares
                frames.append(_square(frame if whole else leftmost_square(frame)))
            return [frames[index * len(frames) // FRAMES] for index in range(FRAMES)]
        with PIL.Image.open(path, formats=FORMATS) as picture:
            return [_square(picture)]
    except (OSError, ValueError, LookupError) as error:
        raise ValueError(f"{path} cannot be shown: {error}") from error


def _square(picture: PIL.Image.Image) -> PIL.Image.Image:
    return PIL.ImageOps.pad(on_white(picture), (SIDE_PX, SIDE_PX), color="white")


def _ruined(frame: PIL.Image.Image) -> PIL.Image.Image:
    """For the attention check: next to nothing is left of it."""
    coarse = frame.convert("RGB").resize((5, 5), PIL.Image.Resampling.BOX)
    return coarse.resize(frame.size, PIL.Image.Resampling.NEAREST)
