"""Describe the motion of runs for the page: their steps, and the statistics of visits and transitions."""

from __future__ import annotations

from typing import Any

import numpy as np

from panic_tda.insight import dynamics
from panic_tda.insight.milestones import NO_STATE, Trajectories, Visits
from panic_tda.insight.run_groups import RunSummary
from panic_tda.insight.trajectories import TrajectoryStudy, classify_runs, group_runs
from panic_tda.parameters import GROUPINGS, MODEL, NETWORK, PROMPT
from panic_tda.storage.read.census import show_id
from panic_tda.types import FloatArray, IntArray
from panic_tda.wording import shorten_ids

MOST_STATES = 40
MOST_GROUPS = 40
_NONE = -1


def describe_runs(trajectories: Trajectories, study: TrajectoryStudy) -> dict[str, Any]:
    """Return the runs with the state and flag of each step."""
    networks, of_network = classify_runs(study.runs, NETWORK)
    prompts, of_prompt = classify_runs(study.runs, PROMPT)
    steps = np.diff(trajectories.steps, prepend=0)
    ids = [show_id(run.run_id) for run in study.runs]
    names = shorten_ids(ids)
    return {
        "ids": ids,
        "names": [names[run_id] for run_id in ids],
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
    """Return the groups of `show-trajectories --json` for each way of grouping runs."""
    groupings = {}
    for by in GROUPINGS:
        if by != MODEL:
            groups = study.groups if by == NETWORK else group_runs(study, by)
            groupings[by] = [group.to_dict() for group in groups]
    return {"lag": study.lag, "sampling": study.sampling, "by": groupings}


def describe_dynamics(
    trajectories: Trajectories,
    visits: Visits,
    study: TrajectoryStudy,
    *,
    points: IntArray,
    drifts: FloatArray,
) -> dict[str, Any]:
    """Return the transitions, the survival curves, and the curves by step.

    Parameters
    ----------
    trajectories, visits, study
        Steps, visits and their statistics.
    points : (m,) int64
        Positions of the steps with a known drift, among all steps.
    drifts : (m,) float64
        Chords from these steps to the first steps of their runs.
    """
    states = _find_most_visited(visits)
    matrix = dynamics.matrix_of(study.transitions, states)
    order = dynamics.seriate(matrix)
    bins = dynamics.step_bins(trajectories.steps)
    groups = {}
    for by in (NETWORK, PROMPT):
        names, codes = classify_runs(study.runs, by)
        groups[by] = _compute_curves(
            trajectories, study, names, codes, points=points, drifts=drifts, bins=bins
        )
    return {
        "states": states[order],
        "matrix": matrix[np.ix_(order, order)].ravel(),
        "bins": bins,
        "survival": _compute_survival_curves(visits, study),
        "by": groups,
    }


def _compute_curves(
    trajectories: Trajectories,
    study: TrajectoryStudy,
    names: list[Any],
    codes: IntArray,
    *,
    points: IntArray,
    drifts: FloatArray,
    bins: IntArray,
) -> dict[str, Any]:
    """Return the curves by step of the largest groups."""
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


def _compute_survival_curves(visits: Visits, study: TrajectoryStudy) -> list[dict[str, Any]]:
    """Return survival curves by network, in the order of the groups of the study."""
    names, codes = classify_runs(study.runs, NETWORK)
    curves = []
    for number, name in enumerate(names):
        mine = (codes[visits.runs] == number) & (visits.states != NO_STATE)
        curve = dynamics.survive(visits.dwells[mine], visits.censored[mine], sampling=study.sampling)
        curves.append(
            {
                "name": name,
                "visits": int(mine.sum()),
                "times": curve.times,
                "shares": curve.shares,
                "mean": curve.mean,
            }
        )
    return curves


def _find_most_visited(visits: Visits) -> IntArray:
    """Return the clusters with the most visits, (k,) int64 ascending."""
    states, counts = np.unique(visits.states[visits.states != NO_STATE], return_counts=True)
    return np.sort(states[np.argsort(-counts, kind="stable")[:MOST_STATES]])


def _column(runs: tuple[RunSummary, ...], name: str) -> IntArray:
    """Return an attribute of each run, -1 if it is missing."""
    values = [getattr(run, name) for run in runs]
    return np.array([_NONE if value is None else value for value in values], dtype=np.int64)
