"""Votes counted: shares, intervals and agreement against numbers by hand, and what is no vote of the study."""

import json

import numpy as np
import pytest

from imagedream.workshop.evaluation.preferences import (
    Ballot,
    Vote,
    bradley_terry,
    count_preferences,
    krippendorff_alpha,
    read_ballots,
    share_intervals,
)


def test_strengths_are_those_of_the_votes():
    assert bradley_terry(np.array([[0, 7], [3, 0]], float)) == pytest.approx([0.7, 0.3], abs=1e-3)
    # strengths 4 : 2 : 1, every pair just as often as these say
    votes = np.array([[0, 20, 24], [10, 0, 20], [6, 10, 0]], float)
    assert bradley_terry(votes) == pytest.approx([4 / 7, 2 / 7, 1 / 7], abs=1e-3)
    assert bradley_terry(np.array([[0, 9], [0, 0]], float)) == pytest.approx([1, 0], abs=1e-3)


def test_intervals_are_the_jackknife_s():
    # log odds without each prompt in turn: of 4:4, 5:3, 6:2 wins, 11:5 when the first is left out, 10:6, 9:7
    wins = np.array([[[0, won], [8 - won, 0]] for won in (4, 5, 6)], float)
    logits = np.log([11 / 5, 10 / 6, 9 / 7])
    error = np.sqrt(2 / 3 * ((logits - logits.mean()) ** 2).sum())
    low, high = np.log(15 / 9) + np.array([-4.3027, 4.3027]) * error  # t of 2 degrees of freedom
    expected = [1 / (1 + np.exp(-low)), 1 / (1 + np.exp(-high))]
    assert share_intervals(wins)[0] == pytest.approx(expected, abs=1e-3)
    assert share_intervals(wins)[1] == pytest.approx([1 - expected[1], 1 - expected[0]], abs=1e-3)
    assert share_intervals(wins[:1]) is None
    assert share_intervals(np.array([[[0, 3], [0, 0]]] * 9, float)) is None


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    generator, held = np.random.default_rng(0), 0
    for _ in range(200):  # prompts differ: the log odds have a standard deviation of 1
        odds = np.exp(generator.normal(size=12))
        won = generator.binomial(8, odds / (1 + odds))
        low, high = share_intervals(np.array([[[0, a], [8 - a, 0]] for a in won], float))[0]
        held += low <= 0.5 <= high
    assert 0.9 <= held / 200 <= 0.99


def test_agreement():
    assert krippendorff_alpha([(2, 0), (0, 3)]) == 1
    # one question of agreement, one of disagreement: 3 answers and 1, observed 1/2, by chance 2 * 3 / (4 * 3)
    assert krippendorff_alpha([(2, 0), (1, 1)]) == pytest.approx(0)
    assert krippendorff_alpha([(2, 0), (1, 1), (0, 1)]) == pytest.approx(0)
    assert krippendorff_alpha([(1, 1)]) == pytest.approx(0)
    assert krippendorff_alpha([(3, 0)]) is None
    assert krippendorff_alpha([]) is None


def test_a_table_as_in_the_paper():
    def ballot(voter, winner, loser, saw=True):
        return Ballot(voter, tuple(Vote(f"p{n}", winner, loser) for n in range(2)), saw, repeated=True)

    ballots = [ballot("a", "new", "old"), ballot("b", "new", "old"), ballot("c", "old", "new")]
    found = count_preferences(["old", "new"], [*ballots, ballot("d", "old", "new", saw=False)])
    assert found.methods == ("new", "old")
    assert found.shares == pytest.approx((2 / 3, 1 / 3), abs=1e-3)
    assert found.wins == ((0, 4), (2, 0))
    assert found.agreement == pytest.approx(1 - (2 * 2 * 2 / 2 * 5) / (2 * 3 * 3))
    assert [cell.strip() for cell in str(found).splitlines()[2].split("|")] == [
        "", "new", "67%", "67% to 67%", "-", "4 of 6", "",
    ]  # fmt: skip
    assert found.notes[:2] == (
        "3 voters, 6 votes, 2 prompts.",
        "Left out, since they preferred a ruined result: d.",
    )
    with pytest.raises(ValueError, match="no vote is about other yet; more voters are needed"):
        count_preferences(["old", "new", "other"], ballots)
    with pytest.raises(ValueError, match="of 1 voters none preferred a sound result to a ruined one"):
        count_preferences(["old", "new"], [ballot("a", "new", "old", saw=False)])


KEY = {
    "study": "s1",
    "methods": ["old", "new"],
    "ruined": {"name": "r", "of": "a"},
    "results": {
        name: {"prompt": name.lower(), "method": "new" if name.isupper() else "old"}
        for name in ("a", "A", "b", "B")
    },
}


def vote(left, right, chosen):
    return {"left": left, "right": right, "chosen": chosen}


WHOLE = {
    "study": "s1",
    "voter": "0123456789abcdef",
    "votes": [vote("a", "A", "A"), vote("r", "a", "a"), vote("B", "b", "b"), vote("A", "a", "A")],
}


@pytest.fixture
def study(tmp_path):
    (tmp_path / "key.json").write_text(json.dumps(KEY))
    return tmp_path


def sent(folder, **changed):
    path = folder / f"votes-{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps({**WHOLE, **changed}))
    return path


def test_a_ballot_is_read(study):
    methods, ballots = read_ballots(study / "key.json", [sent(study)])
    votes = (Vote("a", "new", "old"), Vote("b", "old", "new"))
    assert (methods, ballots) == (["old", "new"], [Ballot(WHOLE["voter"], votes, True, True)])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"study": "s2"}, "it is of study s2, not of s1"),
        ({"voter": "<b>me</b>"}, "its voter has no name of 16 hexadecimal digits"),
        ({"voter": 7}, "it is no file of votes"),
        ({"votes": [3]}, "it is no file of votes"),
        ({"votes": WHOLE["votes"][:1]}, "it was not answered to the end"),
        ({"votes": [vote("a", "B", "a")]}, "vote 1 is none that was asked for"),
        ({"votes": [vote("a", "A", "b")]}, "vote 1 is none that was asked for"),
        ({"votes": [vote("A", "r", "r")]}, "vote 1 is none that was asked for"),
        ({"votes": [vote("a", "a", "a")]}, "vote 1 is none that was asked for"),
        ({"votes": [vote("a", "x", "a")]}, "vote 1 is none that was asked for"),
    ],
)
def test_what_is_no_ballot_of_the_study(study, changed, message):
    path = sent(study, **changed)
    with pytest.raises(ValueError, match=message) as error:
        read_ballots(study / "key.json", [path])
    assert str(error.value).startswith(f"{path}: ")


def test_a_voter_counts_once_and_a_file_is_whole(study):
    with pytest.raises(ValueError, match="another file of its voter, 0123456789abcdef"):
        read_ballots(study / "key.json", [sent(study), sent(study)])
    path = sent(study)
    path.write_text(path.read_text()[:99])
    with pytest.raises(ValueError, match="it is not JSON, or not all of it"):
        read_ballots(study / "key.json", [path])
    path.write_text("[]")
    with pytest.raises(ValueError, match="it is no file of votes"):
        read_ballots(study / "key.json", [path])
