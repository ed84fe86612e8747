"""Test that parameters are validated once, and that effective values are derived in one place."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from panic_tda import hdbscan, parameters
from panic_tda.cli.parsing import from_options, parse_bytes, parse_min_cluster_size
from panic_tda.clustering.hierarchy import extract_clusters
from panic_tda.errors import InvalidParameter, WrongUsage
from panic_tda.main import main
from panic_tda.parameters import ClusteringParameters, Resources, chord_to_cosine, validate_downsample
from panic_tda.types import SpanningTree


@pytest.mark.parametrize(
    ("n_rows", "min_cluster_size", "min_samples"),
    [
        (0, 2, 2),
        (2, 2, 2),
        (4, 2, 4),
        (5, 2, 5),
        (19, 2, 5),
        (30, 3, 5),
        (100, 10, 5),
        (985, 10, 5),
        (10_000, 10, 5),
        (10_001, 11, 5),
        (141_600, 142, 5),
        (1_000_000, 1_000, 5),
        (3_000_000, 3_000, 5),
    ],
)
def test_defaults_follow_the_number_of_rows(n_rows: int, min_cluster_size: int, min_samples: int) -> None:
    effective = ClusteringParameters().resolve(n_rows)
    assert effective.min_cluster_size == min_cluster_size
    assert effective.min_samples == min_samples


@pytest.mark.parametrize("n_rows", [100, 1_000_000])
@pytest.mark.parametrize("min_cluster_size", [None, 2, 40, 0.01])
def test_the_default_of_min_samples_is_5_whatever_the_size(
    n_rows: int, min_cluster_size: int | float | None
) -> None:
    assert ClusteringParameters(min_cluster_size=min_cluster_size).resolve(n_rows).min_samples == 5


def test_the_defaults_of_the_design() -> None:
    assert asdict(ClusteringParameters().resolve(1_000)) == {
        "cluster_selection_epsilon": 0.4,
        "min_cluster_size": 10,
        "min_samples": 5,
        "allow_single_cluster": False,
        "cluster_selection_method": "eom",
        "max_cluster_size": None,
        "distance_floor": 1e-3,
    }


@given(st.integers(0, 10**8))
def test_the_smallest_cluster_is_a_thousandth_of_the_rows_and_at_least_two(n_rows: int) -> None:
    size = ClusteringParameters().resolve(n_rows).min_cluster_size
    assert size >= 2
    assert 1000 * size >= n_rows
    assert size <= max(2, 10, -(-n_rows // 1000))


@given(st.integers(1, 10_000))
def test_a_share_of_thousands_of_rows_is_exact(thousands: int) -> None:
    # 0.001 * 3000 is 3.0000000000000004 in floating point: rounded up as it is, that would be 4 rows.
    assert ClusteringParameters(min_cluster_size=0.001).resolve(1000 * thousands).min_cluster_size == max(
        2, thousands
    )


def test_given_values_are_not_changed() -> None:
    parameters = ClusteringParameters(
        epsilon=0,
        min_cluster_size=500,
        min_samples=700,
        allow_single_cluster=False,
        selection_method="eom",
        max_cluster_size=900,
        distance_floor=1e-5,
    )
    assert asdict(parameters.resolve(10)) == {
        "cluster_selection_epsilon": 0.0,
        "min_cluster_size": 500,
        "min_samples": 700,
        "allow_single_cluster": False,
        "cluster_selection_method": "eom",
        "max_cluster_size": 900,
        "distance_floor": 1e-5,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epsilon", -0.1),
        ("epsilon", 2.1),
        ("epsilon", math.nan),
        ("epsilon", math.inf),
        ("min_cluster_size", 1),
        ("min_cluster_size", 0),
        ("min_cluster_size", -5),
        ("min_cluster_size", 0.0),
        ("min_cluster_size", 1.0),
        ("min_cluster_size", 2.5),
        ("min_cluster_size", -0.1),
        ("min_cluster_size", math.nan),
        ("min_samples", 0),
        ("min_samples", 2.5),
        ("max_cluster_size", 0),
        ("max_cluster_size", 2.5),
        ("distance_floor", 0.0),
        ("distance_floor", -1.0),
        ("distance_floor", 2.5),
        ("distance_floor", math.nan),
        ("selection_method", "EOM"),
        ("epsilon", "0.4"),
        ("epsilon", None),
        ("epsilon", True),
        ("epsilon", np.array([0.4])),
        ("distance_floor", "0.1"),
        ("min_cluster_size", "10"),
        ("min_samples", "10"),
        ("min_samples", True),
        ("max_cluster_size", [10]),
        ("allow_single_cluster", "no"),
        ("allow_single_cluster", 1),
        ("exact", None),
        ("backend", ["tiled"]),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidParameter, match=rf"{name} must be .*; got ") as refusal:
        ClusteringParameters(**{name: value})
    assert isinstance(refusal.value, WrongUsage)
    assert isinstance(refusal.value, ValueError)


@pytest.mark.parametrize(("text", "size"), [("25", 25), ("0.1%", 0.001), ("12.5%", 0.125), ("2 %", 0.02)])
def test_cluster_sizes_are_read_as_counts_or_shares(text: str, size: float) -> None:
    assert parse_min_cluster_size(text) == pytest.approx(size)
    assert type(parse_min_cluster_size(text)) is type(size)


@pytest.mark.parametrize(
    "text", ["", "%", "ten", "2.5", "0%", "100%", "250%", "-1%", "nan%", "inf%", "1", "0", "-3"]
)
def test_other_cluster_sizes_are_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="min_cluster_size"):
        from_options(min_cluster_size=text)


def test_options_without_a_cluster_size_use_the_default() -> None:
    assert from_options(epsilon=0.3) == ClusteringParameters(epsilon=0.3)


@pytest.mark.parametrize("factor", [0, -1, 1.5, 2.0, math.nan, math.inf, "3", 1 << 63])
def test_a_factor_is_a_whole_number_that_a_database_can_hold(factor: Any) -> None:
    with pytest.raises(InvalidParameter, match="downsample must be a whole number"):
        validate_downsample(factor)


@pytest.mark.parametrize("factor", [1, 10, (1 << 63) - 1, np.int64(3)])
def test_other_factors_are_taken_as_they_are(factor: int) -> None:
    assert validate_downsample(factor) == factor
    assert type(validate_downsample(factor)) is int


def test_chord_and_cosine_distances_are_converted() -> None:
    assert chord_to_cosine(parameters.EPSILON) == pytest.approx(0.08)
    assert chord_to_cosine(2) == 2
    first, second = np.array([1.0, 0.0]), np.array([0.6, 0.8])
    assert chord_to_cosine(float(np.linalg.norm(first - second))) == pytest.approx(1 - first @ second)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("work_dir", "work"),
        ("memory_limit", "2GiB"),
        ("memory_limit", 2.5),
        ("checkpoints", "no"),
        ("discard_checkpoints", 1),
        ("devices", 0),
        ("devices", "0,1"),
        ("devices", (0, "1")),
        ("devices", (0, -1)),
    ],
)
def test_resources_of_another_type_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidParameter, match=rf"{name} must be .*; got "):
        Resources(**{name: value})


def test_numpy_numbers_are_converted_to_python_numbers() -> None:
    parameters = ClusteringParameters(
        epsilon=np.float64(0.3),
        min_cluster_size=np.float32(0.25),
        min_samples=np.int64(5),
        max_cluster_size=np.uint8(50),
        allow_single_cluster=np.bool_(False),
        distance_floor=np.float32(0.25),
        exact=np.bool_(True),
    )
    assert json.loads(json.dumps(asdict(parameters))) == asdict(parameters)
    assert parameters.resolve(100).min_cluster_size == 25
    resources = Resources(memory_limit=np.int64(1 << 30), devices=[np.int32(0), 1])  # type: ignore[arg-type]
    assert json.dumps([resources.memory_limit, resources.devices]) == "[1073741824, [0, 1]]"
    assert hash(resources) == hash(Resources(memory_limit=1 << 30, devices=(0, 1)))


def test_a_largest_size_below_the_smallest_is_refused_where_both_are_known() -> None:
    with pytest.raises(
        InvalidParameter, match="max_cluster_size must be at least min_cluster_size, 10; got 9"
    ):
        ClusteringParameters(min_cluster_size=10, max_cluster_size=9)
    assert ClusteringParameters(min_cluster_size=10, max_cluster_size=10).max_cluster_size == 10
    # The size of a share, and of the default, is known with the rows.
    for settings in (
        ClusteringParameters(min_cluster_size=0.5, max_cluster_size=9),
        ClusteringParameters(max_cluster_size=9),
    ):
        with pytest.raises(InvalidParameter, match=r"at least min_cluster_size, \d+; got 9"):
            settings.resolve(100)
    assert ClusteringParameters(min_cluster_size=0.5, max_cluster_size=9).resolve(18).min_cluster_size == 9


SHARED_LIMIT = {"min_cluster_size": 0.9, "max_cluster_size": 50}
VOID_PAIRS = [
    ({"selection_method": "leaf", "max_cluster_size": 50}, "max_cluster_size has no effect"),
    ({"selection_method": "leaf", "epsilon": 0, "allow_single_cluster": True}, "allow_single_cluster has no"),
    ({"min_cluster_size": 60, "max_cluster_size": 50}, "at least min_cluster_size, 60; got 50"),
    (SHARED_LIMIT, "at least min_cluster_size, 90; got 50"),
    ({"epsilon": 0.1, "distance_floor": 0.2}, "epsilon must be 0 or at least distance_floor, 0.2"),
    ({"distance_floor": 0.5}, "epsilon must be 0 or at least distance_floor, 0.5"),
    ({"exact": True, "backend": "cuml"}, "backend cuml is not exact"),
]
"""Options of which one takes all effect from another, or contradicts it."""

GROUND: dict[str, tuple[Any, ...]] = {
    "epsilon": (0.0, 0.2, 0.9),
    "allow_single_cluster": (False, True),
    "selection_method": ("eom", "leaf"),
    "min_samples": (3,),
    "min_cluster_size": (4,),
}
"""Where the effects of options are looked for."""

VALUES: dict[str, tuple[Any, Any]] = {
    "epsilon": (0.0, 0.2),
    "min_cluster_size": (0.1, 4),
    "min_samples": (2, 6),
    "allow_single_cluster": (False, True),
    "selection_method": ("eom", "leaf"),
    "max_cluster_size": (None, 12),
    "distance_floor": (1e-3, 0.1),
}
"""Two values of each option that changes clusters."""


@pytest.mark.parametrize(("settings", "message"), VOID_PAIRS)
def test_an_option_without_effect_beside_another_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        ClusteringParameters(**settings).resolve(100)


def random_rows(seed: int) -> NDArray[np.float64]:
    """Return clouds of several widths or of one width, so that every option has an effect."""
    rng = np.random.default_rng(seed)
    cloud = rng.integers(0, (8, 1)[seed % 2], 110)
    spread = rng.choice([0.02, 0.1, 0.4], 8)[cloud, None] if cloud.any() else 0.15
    return rng.normal(size=(8, 4))[cloud] + spread * rng.normal(size=(110, 4))


@cache
def tree_of(seed: int, min_samples: int, distance_floor: float) -> SpanningTree:
    fit = hdbscan(random_rows(seed), min_samples=min_samples, distance_floor=distance_floor, epsilon=0)
    assert fit.tree is not None
    return fit.tree


def labels_of(seed: int, settings: dict[str, Any]) -> list[int]:
    effective = ClusteringParameters(**settings).resolve(110)
    tree = tree_of(seed, effective.min_samples, effective.distance_floor)
    labels: list[int] = extract_clusters(tree, effective).labels.tolist()
    return labels


@pytest.mark.parametrize(("first", "second"), list(combinations(VALUES, 2)))
def test_in_every_pair_each_option_has_an_effect_or_is_refused(first: str, second: str) -> None:
    for option, other_option in ((first, second), (second, first)):
        for value in VALUES[other_option]:
            # An option is void beside a value if it changes nothing on any ground, and is not refused there.
            refused = changed = False
            for seed, *ground in product(range(6), *GROUND.values()):
                settings = dict(zip(GROUND, ground, strict=True)) | {other_option: value}
                try:
                    labels = [labels_of(seed, settings | {option: each}) for each in VALUES[option]]
                except InvalidParameter:
                    refused = True
                    continue
                changed |= labels[0] != labels[1]
            assert changed or refused, (option, other_option, value)


@pytest.mark.parametrize("epsilon", [0.0, 0.4, 0.9, 2.0])
@pytest.mark.parametrize("single", [False, True])
def test_no_cluster_is_larger_than_max_cluster_size(epsilon: float, single: bool) -> None:
    # At the default epsilon, merging to it gave clusters of 200 and 122 where 100 were asked for.
    for rows in (random_rows(0), np.ones((60, 3))):
        for largest in (4, 8, 23, 24, 50):
            clustering = hdbscan(
                rows,
                epsilon=epsilon,
                min_cluster_size=4,
                min_samples=3,
                max_cluster_size=largest,
                allow_single_cluster=single,
            )
            assert clustering.record.largest_cluster_size is not None
            assert clustering.record.largest_cluster_size <= largest
            assert np.bincount(clustering.labels[clustering.labels >= 0], minlength=1).max() <= largest


def test_effective_parameters_are_plain_numbers_whatever_was_given() -> None:
    # NumPy's numbers are no JSON: they were refused when the result was saved, after all the computing.
    parameters = ClusteringParameters(
        epsilon=np.float32(0.25),
        min_cluster_size=np.int64(5),
        min_samples=np.int32(4),
        max_cluster_size=np.int64(50),
        allow_single_cluster=np.bool_(False),
    )
    effective = asdict(parameters.resolve(100))
    assert json.loads(json.dumps(effective)) == effective
    assert effective["min_cluster_size"] == 5
    assert effective["max_cluster_size"] == 50


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2GiB", 2 << 30),
        ("512 MiB", 512 << 20),
        ("1.5kb", 1500),
        ("4G", 4 * 10**9),
        ("1024", 1024),
        ("1TiB", 1 << 40),
    ],
)
def test_sizes_are_read_with_their_units(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "two GiB", "-1GiB", "1PiB", "nan"])
def test_invalid_sizes_are_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="GiB"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["2", "2 ", " 2 B", "0", "0.5MiB", "1023KiB", "1MB", "0GiB"])
def test_a_memory_limit_that_is_too_small_is_refused(text: str, tmp_path: Path) -> None:
    """A number without a unit is bytes."""
    message = "memory_limit must be at least 1 MiB .* such as 2GiB"
    with pytest.raises(InvalidParameter, match=message):
        Resources(memory_limit=parse_bytes(text))
    for command in ("cluster-embeddings", "recut-clustering"):
        result = CliRunner().invoke(
            main, [command, "--memory-limit", text, "--db", str(tmp_path / "no.sqlite")]
        )
        assert (result.exit_code, len(re.findall(message, result.stderr))) == (2, 1), result.output


def test_the_least_memory_limit_is_a_mebibyte() -> None:
    assert [Resources(memory_limit=parse_bytes(text)).memory_limit for text in ("1MiB", "2GiB")] == [
        1 << 20,
        2 << 30,
    ]


def test_a_work_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InvalidParameter, match="work_dir must be a folder"):
        Resources(work_dir=file)
