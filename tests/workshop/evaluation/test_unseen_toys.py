"""What a network was trained on is known of it, and it is not tested on that."""

import pytest

from imagedream import checkpoints
from imagedream.toybox import FIRST_KINDS, KINDS, make_toy
from imagedream.workshop.evaluation.held_out_objects import check_unseen, held_out_cases, unseen_kinds


def toys(kinds, first_seed, objects):
    return {
        "data": "toybox",
        "kinds": list(kinds),
        "split": "train",
        "first_seed": first_seed,
        "objects": objects,
    }


TRAINED_ON = [toys(["mug", "car"], 0, 100), {"data": "rendered", "folders": ["mine"]}, toys(["dog"], 500, 10)]


@pytest.mark.parametrize(("first", "count"), [(0, 1), (99, 5), (490, 11), (509, 1), (50, 1000)])
def test_seeds_trained_on_are_refused(first, count):
    message = (
        rf"seeds {first} to {first + count - 1} of the train split .* trained on .*choose --seed 510 or above"
    )
    with pytest.raises(ValueError, match=message):
        check_unseen(TRAINED_ON, "train", first, count)


def test_other_seeds_and_the_other_split_are_not():
    check_unseen(TRAINED_ON, "train", 100, 400)
    check_unseen(TRAINED_ON, "train", 510, 10)
    check_unseen(TRAINED_ON, "heldout", 0, 1000)
    check_unseen((), "train", 0, 1000)


def test_kinds_that_are_new_to_a_network():
    assert set(unseen_kinds(TRAINED_ON)) == set(KINDS) - {"mug", "car", "dog"}
    assert unseen_kinds(TRAINED_ON, ("bird", "lamp")) == ("bird", "lamp")
    with pytest.raises(ValueError, match=r"dog was trained on; new to these weights: .*bird"):
        unseen_kinds(TRAINED_ON, ("bird", "dog"))
    with pytest.raises(ValueError, match="every kind of toy was trained on"):
        unseen_kinds([toys(KINDS, 0, 1)])
    with pytest.raises(ValueError, match="do not say which toys"):
        unseen_kinds(TRAINED_ON[1:2])


def test_the_shipped_weights_tell_their_toys():
    trained_on = checkpoints.part_config("toybox", "unet")["trained_on"]
    assert unseen_kinds(trained_on) == ("bear", "snowman", "plane", "hammer")
    on_toys = [entry for entry in trained_on if entry["data"] == "toybox"]
    assert all(set(FIRST_KINDS) <= set(entry["kinds"]) for entry in on_toys)
    assert {entry["objects"] for entry in on_toys} == {2560, 6144, 8192, 12288, 24576}
    assert [entry["folders"] for entry in trained_on if entry["data"] == "rendered"] == [["train"]] * 2


def test_toys_of_the_train_split_as_cases():
    case = held_out_cases(1, seed=9000, kinds=["mug"], split="train")[0]
    assert case.object.caption == make_toy(9000, "mug", split="train").caption
