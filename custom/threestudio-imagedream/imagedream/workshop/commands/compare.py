"""`compare`: which of several methods people prefer."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from imagedream.cli.verb import OutPath, Verb, say
from imagedream.runs.ranges import Count, Seed


@dataclass(frozen=True)
class Compare(Verb):
    """Folders of results of the same prompts -> an offline page that asks voters which of two is better, without names.

    `imagedream compare results VOTES.json ... --out STUDY` counts the files that the voters send back.
    """

    paths: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FOLDER FOLDER ... | results VOTES ...")
    ] = ()
    """Folders of results, one a method: of `batch`, of the page, of trials, or with PROMPT.glb, PROMPT.mp4, PROMPT.png;
    or `results` and the voters' files."""
    out: OutPath = Path("study")
    """Folder of the study: page/ goes to the voters, key.json stays here."""
    pictures: Path | None = None
    """Folder with the picture of each prompt, PROMPT.png; by default those that the runs keep."""
    question: str = "Which one is the better 3D model of the picture?"
    """What voters are asked."""
    questions: Count = 24
    """Most pairs that a voter sees, besides two attention checks."""
    seed: Seed = 0
    """Of order, sides and names."""

    def run(self) -> None:  # noqa: D102
        if self.paths[:1] == (Path("results"),) and not any(path.is_dir() for path in self.paths[1:]):
            self._count()
            return
        from imagedream.workshop.evaluation.user_study import PAGE, write_study

        write_study(self.out, self.paths, self.question, self.questions, self.seed, self.pictures)
        say(self.out / PAGE / "index.html")

    def _count(self) -> None:
        from imagedream.workshop.evaluation.preferences import count_preferences, read_ballots
        from imagedream.workshop.evaluation.tables import save_results
        from imagedream.workshop.evaluation.user_study import KEY

        found = count_preferences(*read_ballots(self.out / KEY, self.paths[1:]))
        save_results(self.out / "results", str(found), asdict(found))
        say(found)
