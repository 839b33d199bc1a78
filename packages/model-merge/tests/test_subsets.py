import math
from itertools import combinations, pairwise

import pytest

from model_merge.subsets import (
    Merge,
    block_of,
    check_part_names,
    compositions,
    count_family,
    gray_code,
    list_family,
    macro,
    parse_step,
    revolving_door,
    uniform,
    weighted,
)

NAMES = ["art", "law", "sea", "war", "zoo"]


def members(merges, names=NAMES):
    return [tuple(names[part] for part in merge.members) for merge in merges]


@pytest.mark.parametrize("num_parts", range(1, 11))
def test_gray_code_lists_every_subset_once_and_changes_one_part_a_step(num_parts):
    masks = list(gray_code(num_parts))
    assert sorted(masks) == list(range(1, 1 << num_parts))
    steps = [before ^ after for before, after in zip([0, *masks], masks, strict=False)]
    assert all(step.bit_count() == 1 for step in steps)
    assert sum(step == 1 for step in steps) == 1 << (num_parts - 1)


@pytest.mark.parametrize(("num_parts", "size"), [(n, k) for n in range(1, 9) for k in range(1, n + 1)])
def test_the_revolving_door_lists_every_choice_once_and_swaps_one_part_a_step(num_parts, size):
    masks = list(revolving_door(num_parts, size))
    expected = {sum(1 << bit for bit in chosen) for chosen in combinations(range(num_parts), size)}
    assert len(masks) == len(expected)
    assert set(masks) == expected
    assert all((before ^ after).bit_count() == 2 for before, after in pairwise(masks))


@pytest.mark.parametrize(("total", "num_parts"), [(1, 1), (1, 4), (4, 2), (5, 3), (4, 4)])
def test_points_of_a_simplex_are_listed_once_and_one_unit_moves_a_step(total, num_parts):
    points = list(compositions(total, num_parts))
    assert len(set(points)) == len(points) == math.comb(total + num_parts - 1, num_parts - 1)
    assert all(sum(point) == total for point in points)
    for before, after in pairwise(points):
        moved = sorted(new - old for old, new in zip(before, after, strict=True) if new != old)
        assert moved == [-1, 1]


@pytest.mark.parametrize(
    "family", ["all", "size:1", "size:3", "size:5", "loo", "pairs", "rolling:2", "simplex:0.25"]
)
def test_a_family_has_as_many_merges_as_its_formula_says(family):
    merges = list_family(family, NAMES)
    assert len(merges) == count_family(family, 5)
    assert len({merge.name(NAMES) for merge in merges}) == len(merges)
    assert all(math.isclose(sum(merge.weights), 1) for merge in merges)


def test_leave_one_out_leaves_out_each_part_once():
    left_out = [set(NAMES) - set(chosen) for chosen in members(list_family("loo", NAMES))]
    assert sorted(map(sorted, left_out)) == [[name] for name in NAMES]


def test_rolling_windows_keep_the_parts_order():
    assert members(list_family("rolling:4", NAMES)) == [
        ("art", "law", "sea", "war"),
        ("law", "sea", "war", "zoo"),
    ]


def test_the_dearest_part_changes_least():
    merges = list_family("all", ["a", "b", "c"], costs=[5, 9, 1])
    assert [merge.mask for merge in merges] == ["001", "101", "100", "110", "111", "011", "010"]


def test_groups_give_each_groups_average_and_the_average_of_these():
    groups = {"land": ["art", "law", "war"], "water": ["sea"]}
    merges = list_family("groups:g.yaml", NAMES, read_file={"g.yaml": groups}.__getitem__)
    assert [merge.name(NAMES) for merge in merges] == ["art+law+war", "sea", "1*art+1*law+3*sea+1*war"]
    assert merges[-1] == Merge((1, 1, 3, 1, 0), 6, "macro", ((0, 1, 3), (2,)))


def test_a_list_holds_members_weights_and_groups():
    entries = [
        ["zoo", "art"],
        {"members": ["law"]},
        {"weights": {"art": 0.7, "zoo": 0.1}},
        {"groups": [["art"], ["law", "sea"]]},
    ]
    merges = list_family("list:l.yaml", NAMES, read_file={"l.yaml": entries}.__getitem__)
    assert merges[:2] == [uniform([0, 4], 5), uniform([1], 5)]
    assert merges[2] == Merge((7, 0, 0, 0, 1), 8, "weighted")
    assert merges[3].weights == (0.5, 0.25, 0.25)


def test_a_macro_merge_of_groups_of_one_size_has_the_uniform_weights_and_name():
    assert macro([[0, 1], [2, 3]], 5).name(NAMES) == uniform([0, 1, 2, 3], 5).name(NAMES)


def test_the_same_merge_has_the_same_name_in_every_family():
    pairs = {merge.name(NAMES) for merge in list_family("pairs", NAMES)}
    everything = {merge.name(NAMES) for merge in list_family("all", NAMES)}
    assert pairs < everything


def test_a_merge_of_many_parts_is_named_by_a_hash():
    names = [f"Biology,{year}-{year}" for year in range(1970, 2000)]
    name = uniform(range(30), 30).name(names)
    assert name.startswith("30 parts ")
    assert name != uniform(range(29), 30).name(names)


def test_weights_that_do_not_sum_to_the_divisor_show_it_in_the_name():
    assert Merge((2, 1), 1, "weighted").name(["a", "b"]) != Merge((2, 1), 3, "weighted").name(["a", "b"])


@pytest.mark.parametrize("num_blocks", [1, 2, 4, 8, 3])
def test_blocks_cover_the_rows_in_order_and_powers_of_two_fix_high_bits(num_blocks):
    masks = list(gray_code(5))
    blocks = [block_of(row, len(masks), num_blocks) for row in range(len(masks))]
    assert blocks == sorted(blocks)
    assert set(blocks) == set(range(num_blocks))
    if num_blocks == 4:
        high_bits = [
            {mask >> 3 for mask, block in zip(masks, blocks, strict=True) if block == b} for b in range(4)
        ]
        assert high_bits == [{0b00}, {0b01}, {0b11}, {0b10}]


@pytest.mark.parametrize(
    "family", ["al", "size", "size:x", "size:0", "all:2", "simplex:0.3", "simplex:2", "simplex:x"]
)
def test_a_family_that_does_not_exist_is_refused(family):
    with pytest.raises(ValueError, match=r"family|step"):
        list_family(family, NAMES)


@pytest.mark.parametrize("family", ["size:6", "rolling:9"])
def test_a_family_without_merges_is_refused(family):
    with pytest.raises(ValueError, match="has no merge of 5 parts"):
        list_family(family, NAMES)


def test_too_many_merges_are_counted_not_listed():
    with pytest.raises(ValueError, match="1,073,741,823 merges, more than 1,000,000"):
        list_family("all", [f"p{number}" for number in range(30)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "list of"),
        (["art"], "exactly one"),
        ([{"members": []}], "needs a list of parts"),
        ([{"members": ["nope"]}], r"names \['nope'\]"),
        ([{"members": ["art", "art"]}], "twice"),
        ([{"weights": {"art": "x"}}], "no finite number"),
        ([{"weights": {"art": float("nan")}}], "no finite number"),
        ([{"weights": {"art": 1, "law": -1}}], "sum to 0"),
        ([{"weights": [1]}], "expected"),
    ],
)
def test_a_bad_list_is_refused_with_its_entry(content, message):
    with pytest.raises(ValueError, match=message):
        list_family("list:x", NAMES, read_file=lambda path: content)


def test_bad_groups_are_refused():
    with pytest.raises(ValueError, match="maps each group's name"):
        list_family("groups:x", NAMES, read_file=lambda path: ["art"])


@pytest.mark.parametrize("names", [["a", "a"], ["a+b"], [""], ["2*a"]])
def test_names_that_could_be_mixed_up_are_refused(names):
    with pytest.raises(ValueError, match="part name"):
        check_part_names(names)


def test_steps_divide_one():
    assert [parse_step(text) for text in ("1", "0.5", "0.1", "1/7")] == [1, 2, 10, 7]


def test_negative_weights_are_allowed_as_long_as_they_do_not_cancel():
    assert weighted({"art": 2, "sea": -1}, NAMES).weights == (2, -1)
