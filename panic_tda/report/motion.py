"""The motion: runs step by step, and what they do between the clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from panic_tda.cli.rendering.trajectories import trajectories_json
from panic_tda.cli.text import shorten_ids
from panic_tda.insight import dynamics
from panic_tda.insight.milestones import NO_STATE, Trajectories, Visits
from panic_tda.insight.trajectories import GROUPINGS, MODEL, NETWORK, RunSummary, TrajectoryStudy, group_runs
from panic_tda.storage.read.census import show_id

if TYPE_CHECKING:
    from panic_tda.types import FloatArray, IntArray

MOST_STATES = 40
MOST_GROUPS = 40
_NONE = -1


def describe_runs(trajectories: Trajectories, study: TrajectoryStudy) -> dict[str, Any]:
    """Return the runs with the state and flag of each step."""
    networks, of_network = _codes([list(run.facts.network) if run.facts else None for run in study.runs])
    prompts, of_prompt = _codes([run.facts.initial_prompt if run.facts else None for run in study.runs])
    steps = np.diff(trajectories.steps, prepend=0)
    ids = [show_id(run.run_id) for run in study.runs]
    names = shorten_ids(ids)
    return {
        "ids": ids,
        "names": [names[one] for one in ids],
        "networks": networks,
        "prompts": prompts,
        "network": of_network,
        "prompt": of_prompt,
        "seeds": [run.facts.seed if run.facts else None for run in study.runs],
        "offsets": trajectories.offsets,
        "step_differences": steps,
        "states": trajectories.states,
        "flags": trajectories.flags.astype(np.int64),
        "similar": dynamics.order_by_similarity(trajectories),
        **{name: _column(study.runs, name) for name in ("period", "absorbed_at", "settled_in", "settled_at")},
        **{
            name: _column(study.runs, name)
            for name in ("n_steps", "transit_steps", "distinct_texts", "returns")
        },
        "n_visits": np.array([len(run.visits) for run in study.runs], dtype=np.int64),
    }


def describe_groups(study: TrajectoryStudy) -> dict[str, Any]:
    """Return the groups as `show-trajectories --json` has them, by what runs are grouped by."""
    found = {}
    for by in GROUPINGS:
        if by != MODEL:
            groups = study.groups if by == NETWORK else group_runs(study, by)
            said = trajectories_json(study)
            found[by] = _groups_json(study, groups) if by != NETWORK else said["groups"]
    return {"lag": study.lag, "sampling": study.sampling, "by": found}


def describe_dynamics(
    trajectories: Trajectories,
    visits: Visits,
    study: TrajectoryStudy,
    *,
    points: IntArray,
    drifts: FloatArray,
) -> dict[str, Any]:
    """Return transitions, dwells and what changes over steps.

    Parameters
    ----------
    trajectories, visits, study
        The steps, their visits, and what they come to.
    points : (m,) int64
        Steps whose drift is known, as positions among all.
    drifts : (m,) float64
        Their chords to the first steps of their runs.
    """
    states = _busiest(visits)
    matrix = dynamics.matrix_of(study.transitions, states)
    order = dynamics.seriate(matrix)
    bins = dynamics.step_bins(trajectories.steps)
    groups = {}
    for by in ("network", "prompt"):
        of_run = [_key(run, by) for run in study.runs]
        names, codes = _codes(of_run)
        groups[by] = _by_step(trajectories, study, names, codes, points=points, drifts=drifts, bins=bins)
    return {
        "states": states[order],
        "matrix": matrix[np.ix_(order, order)].ravel(),
        "bins": bins,
        "survival": _survivals(visits, study),
        "by": groups,
    }


def _by_step(
    trajectories: Trajectories,
    study: TrajectoryStudy,
    names: list[Any],
    codes: IntArray,
    *,
    points: IntArray,
    drifts: FloatArray,
    bins: IntArray,
) -> dict[str, Any]:
    """Return the curves of the largest groups."""
    counts = np.bincount(codes, minlength=len(names)) if len(codes) else np.zeros(0, dtype=np.int64)
    largest = np.sort(np.argsort(-counts, kind="stable")[:MOST_GROUPS])
    of_step = codes[trajectories.run_numbers]
    known = np.isfinite(drifts)
    steps = trajectories.steps[points[known]]
    transit = dynamics.transit_by_step(trajectories, of_step, len(names))
    drift = dynamics.drift_by_step(
        drifts[known], steps, of_step[points[known]], bins=bins, n_groups=len(names)
    )
    absorbed = [
        sorted(
            run.absorbed_at
            for run, code in zip(study.runs, codes.tolist(), strict=True)
            if code == group and run.absorbed_at is not None
        )
        for group in largest.tolist()
    ]
    return {
        "names": [names[group] for group in largest.tolist()],
        "n_all": len(names),
        "runs": counts[largest],
        "transit": [transit[group] for group in largest.tolist()],
        "drift": [drift[group] for group in largest.tolist()],
        "absorbed_at": absorbed,
    }


def _survivals(visits: Visits, study: TrajectoryStudy) -> list[dict[str, Any]]:
    """Return survival curves by network, in the order of the groups of the study."""
    names, codes = _codes([_key(run, "network") for run in study.runs])
    found = []
    for number, name in enumerate(names):
        mine = (codes[visits.runs] == number) & (visits.states != NO_STATE)
        curve = dynamics.survive(visits.dwells[mine], visits.censored[mine], sampling=study.sampling)
        found.append(
            {
                "name": name,
                "visits": int(mine.sum()),
                "times": curve.times,
                "shares": curve.shares,
                "mean": curve.mean,
            }
        )
    return found


def _busiest(visits: Visits) -> IntArray:
    """Return the clusters with the most visits, (k,) int64 ascending."""
    states, counts = np.unique(visits.states[visits.states != NO_STATE], return_counts=True)
    return np.sort(states[np.argsort(-counts, kind="stable")[:MOST_STATES]])


def _groups_json(study: TrajectoryStudy, groups: Any) -> Any:
    from dataclasses import replace

    return trajectories_json(replace(study, groups=groups))["groups"]


def _key(run: RunSummary, by: str) -> list[str] | str | None:
    if run.facts is None:
        return None
    return list(run.facts.network) if by == "network" else run.facts.initial_prompt


def _codes(values: list[Any]) -> tuple[list[Any], IntArray]:
    """Number values in alphabetical order; None, where a run has gone, comes last."""
    names = {repr(value): value for value in values}
    order = sorted(names, key=lambda name: (names[name] is None, name))
    numbers = {name: number for number, name in enumerate(order)}
    codes = np.array([numbers[repr(value)] for value in values], dtype=np.int64)
    return [names[name] for name in order], codes


def _column(runs: tuple[RunSummary, ...], name: str) -> IntArray:
    """Return one value of each run, -1 where it has none."""
    values = [getattr(run, name) for run in runs]
    return np.array([_NONE if value is None else value for value in values], dtype=np.int64)
