"""What the votes of a blind comparison say: how often each method is preferred, how sure that is, and how far voters agree."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import choix
import numpy as np
from jaxtyping import Float
from scipy.special import expit, logit, softmax
from scipy.stats import t as student_t

from imagedream.workshop.evaluation.tables import markdown_table


class Vote(NamedTuple):
    """Which of two methods a voter preferred."""

    prompt: str
    winner: str
    loser: str


@dataclass(frozen=True)
class Ballot:
    """A voter's votes, and the answers to the two attention checks."""

    voter: str
    votes: tuple[Vote, ...]
    saw_ruins: bool
    """Whether the sound result was preferred to the ruined one."""
    repeated: bool | None
    """Whether the repeated question got the same answer; None where it was not reached."""


def read_ballots(key_file: Path, files: Sequence[Path]) -> tuple[list[str], list[Ballot]]:
    """The methods of a study, and what is in the files that its voters sent.

    Raises:
        ValueError: a file cannot be read, is of another study, of a voter who has another one, or holds what was not asked.
    """
    key = _read(key_file)
    ballots: dict[str, Ballot] = {}
    for file in files:
        content = _read(file)
        try:
            if content["study"] != key["study"]:
                raise ValueError(f"it is of study {content['study']!s:.16}, not of {key['study']}")
            ballot = _ballot(content, key)
            if ballot.voter in ballots:
                raise ValueError(f"there is another file of its voter, {ballot.voter}; give one of them")
        except (ValueError, KeyError, TypeError) as error:
            wrong = error if isinstance(error, ValueError) else "it is no file of votes"
            raise ValueError(f"{file}: {wrong}") from error
        ballots[ballot.voter] = ballot
    return key["methods"], list(ballots.values())


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: it is not JSON, or not all of it: {error}") from error


def _ballot(content: Any, key: Any) -> Ballot:
    results, ruined, sound = key["results"], key["ruined"]["name"], key["ruined"]["of"]
    if not re.fullmatch("[0-9a-f]{16}", content["voter"]):
        raise ValueError("its voter has no name of 16 hexadecimal digits")
    chosen, saw_ruins, repeated = {}, None, None
    for number, vote in enumerate(content["votes"], 1):
        pair, winner = frozenset((vote["left"], vote["right"])), vote["chosen"]
        prompts = [results[name]["prompt"] for name in pair if name in results]
        if winner in pair and pair == {ruined, sound}:
            saw_ruins = winner == sound
        elif winner not in pair or len(prompts) != 2 or len(set(prompts)) != 1:
            raise ValueError(f"vote {number} is none that was asked for")
        elif pair in chosen:
            repeated = chosen[pair] == winner
        else:
            chosen[pair] = winner
    if saw_ruins is None:
        raise ValueError("it was not answered to the end")
    votes = [(results[winner], results[next(iter(pair - {winner}))]) for pair, winner in chosen.items()]
    votes = [Vote(won["prompt"], won["method"], lost["method"]) for won, lost in votes]
    return Ballot(content["voter"], tuple(votes), saw_ruins, repeated)


def bradley_terry(wins: Float[np.ndarray, "method method"]) -> Float[np.ndarray, " method"]:
    """How often each method would be chosen among all, by the strengths of Bradley and Terry (1952), of largest likelihood.

    Args:
        wins: how often the method of the row was preferred to that of the column.

    Returns:
        Shares that add up to 1; of two methods those of the votes. A thousandth of a vote keeps them from 0 and 1.
    """
    return softmax(choix.ilsr_pairwise_dense(wins, alpha=1e-3, max_iter=10_000, tol=1e-6))


def share_intervals(
    wins: Float[np.ndarray, "prompt method method"],
) -> Float[np.ndarray, "method 2"] | None:
    """95 % intervals of the shares, over prompts and voters like these.

    Votes on one prompt are alike, so each time a whole prompt is left out: jackknife of the shares' logits, Student's t.

    Returns:
        None of a single prompt, and where a method won or lost every vote, so that its strength is unbounded.
    """
    total, count = wins.sum(axis=0), len(wins)
    if count < 2 or not (total.any(axis=0) & total.any(axis=1)).all():
        return None
    without = logit([bradley_terry(total - prompt) for prompt in wins])
    error = np.sqrt((count - 1) * without.var(axis=0))
    margins = student_t.ppf((0.025, 0.975), count - 1) * error[:, None]
    return expit(logit(bradley_terry(total))[:, None] + margins)


def krippendorff_alpha(answers: Iterable[tuple[int, int]]) -> float | None:
    """Krippendorff's alpha of questions with two answers: 1 where voters always agree, 0 where they agree as by chance.

    Args:
        answers: how many voters gave each of the two, a question; what a single voter was asked does not count.

    Returns:
        None where nobody could have disagreed.
    """
    shared = [(one, other) for one, other in answers if one + other > 1]
    first, second = sum(one for one, _ in shared), sum(other for _, other in shared)
    if not first or not second:
        return None
    differing = sum(2 * one * other / (one + other - 1) for one, other in shared)
    return 1 - differing * (first + second - 1) / (2 * first * second)


@dataclass(frozen=True)
class Preferences:
    """What the ballots say, the most preferred method first."""

    methods: tuple[str, ...]
    shares: tuple[float, ...]
    """See `bradley_terry`."""
    intervals: tuple[tuple[float, float], ...] | None
    """See `share_intervals`."""
    wins: tuple[tuple[int, ...], ...]
    """How often the method of the row was preferred to that of the column."""
    agreement: float | None
    """See `krippendorff_alpha`."""
    notes: tuple[str, ...]
    """Who voted, and how attentively."""

    def __str__(self) -> str:
        """The notes under a table."""
        rows = []
        for i, method in enumerate(self.methods):
            row = {"method": method, "preferred": f"{self.shares[i]:.0%}"}
            row["95 %"] = "{:.0%} to {:.0%}".format(*self.intervals[i]) if self.intervals else None
            for j, other in enumerate(self.methods):
                count = self.wins[i][j] + self.wins[j][i]
                row[f"over {other}"] = f"{self.wins[i][j]} of {count}" if count else None
            rows.append(row)
        return "\n".join([markdown_table(rows), "", *self.notes])


def count_preferences(methods: Sequence[str], ballots: Sequence[Ballot]) -> Preferences:
    """Fit the votes of all who preferred the sound result to the ruined one.

    Raises:
        ValueError: there is no such voter, or no vote about a method.
    """
    counted = [ballot for ballot in ballots if ballot.saw_ruins]
    if not counted:
        raise ValueError(f"of {len(ballots)} voters none preferred a sound result to a ruined one")
    votes = [vote for ballot in counted for vote in ballot.votes]
    if unseen := set(methods) - {method for vote in votes for method in (vote.winner, vote.loser)}:
        raise ValueError(f"no vote is about {', '.join(sorted(unseen))} yet; more voters are needed")
    prompts = sorted({vote.prompt for vote in votes})
    wins = np.zeros((len(prompts), len(methods), len(methods)))
    for vote in votes:
        wins[prompts.index(vote.prompt), methods.index(vote.winner), methods.index(vote.loser)] += 1
    order = np.argsort(-bradley_terry(wins.sum(axis=0)))
    wins = wins[:, order][:, :, order]
    # which method counts as the first answer changes from prompt to prompt, so that agreement by chance is a half
    pairs = list(combinations(range(len(methods)), 2))
    agreement = krippendorff_alpha(
        (int(of_prompt[pair]), int(of_prompt[pair[::-1]]))[:: (-1) ** number]
        for number, of_prompt in enumerate(wins)
        for pair in pairs
    )
    intervals = share_intervals(wins)
    repeated = [ballot.repeated for ballot in counted if ballot.repeated is not None]
    notes = [f"{len(counted)} voters, {len(votes)} votes, {len(prompts)} prompts."]
    if ignored := [ballot.voter for ballot in ballots if not ballot.saw_ruins]:
        notes += [f"Left out, since they preferred a ruined result: {', '.join(ignored)}."]
    notes += [f"The repeated question got the same answer from {sum(repeated)} of {len(repeated)} voters."]
    known = "unknown" if agreement is None else f"{agreement:.2f}"
    notes += [f"Agreement between voters (Krippendorff's alpha): {known}."]
    if intervals is None:
        notes += ["Intervals need two prompts, and votes for and against every method."]
    total = wins.sum(axis=0)
    return Preferences(
        methods=tuple(methods[index] for index in order),
        shares=tuple(bradley_terry(total).tolist()),
        intervals=None if intervals is None else tuple(map(tuple, intervals.tolist())),
        wins=tuple(map(tuple, total.astype(int).tolist())),
        agreement=agreement,
        notes=tuple(notes),
    )
