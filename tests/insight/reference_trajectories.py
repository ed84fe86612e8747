"""Reference for trajectories, written from the definitions: loops over lists, one step at a time.

Nothing here shares code with the package: the file is read with plain `sqlite3`.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import UUID

from scipy.optimize import minimize_scalar


@dataclass(frozen=True)
class Walk:
    """One run: its sampled steps and, by output step, its texts."""

    steps: list[int]
    labels: list[int]
    probabilities: list[float]
    texts: dict[int, str]


def states_of(labels: list[int], probabilities: list[float], core: float) -> tuple[list[int], list[str]]:
    """Return the state and the flag of each step of a run."""
    in_core = [label >= 0 and p >= core for label, p in zip(labels, probabilities, strict=True)]
    first = next((label for label, yes in zip(labels, in_core, strict=True) if yes), -1)
    states, flags, entered = [], [], False
    for label, yes in zip(labels, in_core, strict=True):
        if yes:
            entered = True
            states.append(label)
            flags.append("core")
        else:
            states.append(states[-1] if entered else first)
            flags.append("transit" if entered else "entering")
    return states, flags


def visits_of(steps: list[int], states: list[int]) -> list[list[int]]:
    """Return [state, first step, dwell] of each visit; the last one lasts to the last step, counting it."""
    begins = [i for i in range(len(steps)) if i == 0 or states[i] != states[i - 1]]
    stretches = []
    for position, i in enumerate(begins):
        is_last = position == len(begins) - 1
        end = steps[-1] + 1 if is_last else steps[begins[position + 1]]
        stretches.append([states[i], steps[i], end - steps[i]])
    return stretches


def settled_of(steps: list[int], flags: list[str], visits: list[list[int]]) -> tuple[Any, Any]:
    """Return where a run settled, and when."""
    state, first, dwell = visits[-1]
    length = steps[-1] - steps[0] + 1
    if state == -1 or dwell < 3 or dwell < Fraction(length, 5):
        return None, None
    final = [flag for step, flag in zip(steps, flags, strict=True) if step >= first]
    if Fraction(final.count("core"), len(final)) <= Fraction(1, 2):
        return None, None
    return state, first


def transitions_of(steps: list[int], states: list[int], lag: int) -> Counter[tuple[int, int]]:
    """Count the pairs of states `lag` apart."""
    at = dict(zip(steps, states, strict=True))
    return Counter((at[t], at[t + lag]) for t in steps if t + lag in at and at[t] != -1)


def recurrence_of(texts: dict[int, str]) -> dict[str, Any]:
    """Describe how the texts of a run repeat, by output step."""
    earlier_texts: set[str] = set()
    returns = 0
    for t in sorted(texts):
        returns += texts[t] in earlier_texts
        earlier_texts.add(texts[t])
    record = {
        "distinct_texts": len(earlier_texts),
        "returns": returns,
        "period": None,
        "absorbed_at": None,
        "repeats": None,
    }
    if not texts:
        return record
    begin, end = min(texts), max(texts)
    for p in range(1, 17):
        for s in range(begin, end + 1):
            if end - s + 1 < max(3, 2 * p):
                break
            if all(t in texts and texts[t] == texts.get(t + p) for t in range(s, end - p + 1)):
                return record | {"period": p, "absorbed_at": s, "repeats": (end - s + 1) // p}
    return record


def left_stretches_of(texts: dict[int, str]) -> list[tuple[int, int]]:
    """Return period and repeats of the stretches of repeats of a run that another text was seen to end."""
    stretches: list[tuple[int, int, int]] = []
    for p in range(1, 17):
        for begin in texts:
            if _matches(texts, begin - 1, p):
                continue
            end = begin
            while (
                end + p in texts
                and all(t in texts for t in range(end, end + p))
                and texts[end] == texts[end + p]
            ):
                end += 1
            last = end + p - 1
            is_inside = any(low <= begin and last <= high for _, low, high in stretches)
            if last - begin + 1 >= max(3, 2 * p) and end > begin and not is_inside:
                stretches.append((p, begin, last))
    return sorted((p, (last - begin + 1) // p) for p, begin, last in stretches if last + 1 in texts)


def _matches(texts: dict[int, str], t: int, p: int) -> bool:
    """Return whether text[t] = text[t + p], with no hole from one to the other."""
    return all(at in texts for at in range(t, t + p + 1)) and texts[t] == texts[t + p]


def absorption_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the Kaplan-Meier figures of when runs begin to repeat."""
    ended = [run["absorbed_at"] for run in runs if run["period"] is not None]
    cut_off = [
        run["last_text"] - 2
        for run in runs
        if run["period"] is None and run["last_text"] is not None and run["last_text"] >= 2
    ]
    survival = Fraction(1)
    for t in sorted(set(ended)):
        survival *= 1 - Fraction(ended.count(t), sum(d >= t for d in ended) + sum(c >= t for c in cut_off))
    return {
        "median_absorbed_at": median_of(ended, cut_off),
        "absorbed_share": float(1 - survival) if ended else None,
        "absorbed_within": float(max(ended + cut_off)) if ended else None,
    }


def stretches_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Count the stretches of repeats, and those of one text by how often it is repeated at least."""
    at_end = [(run["period"], run["repeats"]) for run in runs if run["period"] is not None]
    left = [stretch for run in runs for stretch in run["left"]]
    singles = [k for p, k in at_end + left if p == 1]
    return {
        "reached_end": len(at_end),
        "left_again": len(left),
        "by_repeats": [
            {
                "repeats": least,
                "stretches": sum(k >= least for k in singles),
                "left_again": sum(p == 1 and k >= least for p, k in left),
            }
            for least in sorted(set(singles))
        ],
    }


def median_of(ended: list[int], cut_off: list[int]) -> float | None:
    """Return the first duration at which the Kaplan-Meier product is at most a half."""
    survival = Fraction(1)
    for t in sorted(set(ended)):
        at_risk = sum(d >= t for d in ended) + sum(c >= t for c in cut_off)
        survival *= 1 - Fraction(ended.count(t), at_risk)
        if survival <= Fraction(1, 2):
            return float(t)
    return None


def log_likelihood(
    shape: float, scale: float, ended: list[int], cut_off: list[int], spacing: int = 1
) -> float:
    """Return the log-likelihood of a Weibull distribution, term by term: what ended after t had not yet ended
    `spacing` before.
    """
    total = 0.0
    for t in ended:
        before, after = ((at / scale) ** shape for at in (t - spacing, t))
        # exp(-before) - exp(-after), whose logarithm is finite where both are next to nothing.
        total += math.log(-math.expm1(before - after)) - before
    for c in cut_off:
        total -= (c / scale) ** shape
    return total


def best_mean(ended: list[int], cut_off: list[int], spacing: int = 1) -> float:
    """Return the mean of the likeliest exponential distribution: where one leaves with the same chance at
    every look, that chance is how many of the looks saw an end.
    """
    looks = Fraction(sum(ended) + sum(cut_off), spacing)
    return -spacing / math.log(1 - len(ended) / looks)


def weibull_of(strata: list[tuple[list[int], list[int]]], spacing: int = 1) -> tuple[float, float] | None:
    """Return the likeliest shape that all strata have, each with a scale of its own, and the log-likelihood
    ratio against shape 1. Each stratum has durations that ended, and others that were outlasted.
    """
    if not strata or all(_agree(*stratum, spacing) for stratum in strata):
        return None

    def best(shape: float, ended: list[int], cut_off: list[int]) -> float:
        def loss(log_scale: float) -> float:
            try:
                return -log_likelihood(shape, math.exp(log_scale), ended, cut_off, spacing)
            except (ValueError, OverflowError):
                return 1e300

        middle = math.log(best_mean(ended, cut_off, spacing))
        grid = [middle + step for step in range(-6, 7)]
        start = min(grid, key=loss)
        optimum = minimize_scalar(
            loss, bounds=(start - 1, start + 1), method="bounded", options={"xatol": 1e-9}
        )
        return -float(optimum.fun)

    def profile(log_shape: float) -> float:
        return -sum(best(math.exp(log_shape), *stratum) for stratum in strata)

    logs = [math.log(0.05) + step * math.log(400) / 8 for step in range(9)]
    start = min(range(9), key=lambda at: profile(logs[at]))
    optimum = minimize_scalar(
        profile,
        bounds=(logs[max(0, start - 1)], logs[min(8, start + 1)]),
        method="bounded",
        options={"xatol": 1e-8},
    )
    if min(optimum.x - logs[0], logs[-1] - optimum.x) < 1e-3:
        return None
    return math.exp(optimum.x), profile(0.0) - float(optimum.fun)


def _agree(ended: list[int], cut_off: list[int], spacing: int) -> bool:
    """Return whether one duration satisfies all observations."""
    return max([t - spacing for t in ended] + cut_off) <= min(ended)


def dwell_of(runs: list[list[list[int]]], spacing: int) -> dict[str, Any]:
    """Describe the visits of some runs; a run that never visits a core has none."""
    strata: dict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for visits in runs:
        for state, _, dwell in visits[:-1]:
            strata[state][0].append(dwell)
        # Seen to its last step, a visit is known to outlast one step fewer than it counts.
        strata[visits[-1][0]][1].append(visits[-1][2] - 1)
    strata.pop(-1, None)
    ended = [dwell for ended_dwells, _ in strata.values() for dwell in ended_dwells]
    cut_off = [dwell for _, cut_off_dwells in strata.values() for dwell in cut_off_dwells]
    tested = [
        (ended_dwells, others)
        for ended_dwells, others in strata.values()
        if len(ended_dwells) >= 10 and sum(ended_dwells) + sum(others) > spacing * len(ended_dwells)
    ]
    fit = weibull_of(tested, spacing)
    shape, ratio = fit or (None, None)
    return {
        "visits": len(ended) + len(cut_off),
        "censored": len(cut_off),
        "median": median_of(ended, cut_off),
        "weibull_shape": shape,
        "log_likelihood_ratio": ratio,
        "clusters_tested": len(tested) if fit else 0,
    }


def read_walks(path: Path, clustering: str) -> dict[str, Walk]:
    """Read the runs of a clustering from the file itself."""
    with closing(sqlite3.connect(path)) as connection:
        (key, model), *_ = connection.execute(
            "SELECT key, embedding_model FROM clusteringresult WHERE id = ?", (clustering.replace("-", ""),)
        ).fetchall()
        parities: dict[tuple[str, str], set[int]] = defaultdict(set)
        texts: dict[str, dict[int, str]] = defaultdict(dict)
        outputs = connection.execute(
            "SELECT run_id, type, sequence_number, output_text FROM invocation ORDER BY rowid"
        ).fetchall()
        for run, kind, number, _ in outputs:
            parities[run, kind].add(number % 2)
        stride = {key: 1 if len(parity) == 2 else 2 for key, parity in parities.items()}
        for run, kind, number, text in outputs:
            if kind == "TEXT" and text is not None:
                texts[run].setdefault(number // stride[run, kind], text)
        assigned = connection.execute(
            "SELECT i.run_id, i.type, i.sequence_number, a.label, a.probability FROM embeddingcluster a "
            "JOIN embedding e ON e.id = a.embedding_id JOIN invocation i ON i.id = e.invocation_id "
            "WHERE a.result_key = ? AND e.embedding_model = ? ORDER BY i.sequence_number, e.id",
            (key, model),
        ).fetchall()
    at: dict[str, dict[int, tuple[int, float]]] = defaultdict(dict)
    for run, kind, number, label, probability in assigned:
        at[run].setdefault(number // stride[run, kind], (label, probability))
    return {
        run: Walk(
            steps=sorted(steps),
            labels=[steps[step][0] for step in sorted(steps)],
            probabilities=[steps[step][1] for step in sorted(steps)],
            texts=texts[run],
        )
        for run, steps in sorted(at.items())
    }


def sampling_of(path: Path, clustering: str) -> int:
    """Return how many outputs apart the steps of a clustering are."""
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT parameters FROM clusteringresult WHERE id = ?"
        ((parameters,),) = connection.execute(query, (clustering.replace("-", ""),)).fetchall()
    return int(json.loads(parameters).get("downsample") or 1)


def report(
    path: Path, clustering: str, *, by: str = "network", lag: int = 1, core_probability: float = 0.0
) -> dict[str, Any]:
    """Return the expected output of `show-trajectories --json --runs`."""
    paths, sampling = read_walks(path, clustering), sampling_of(path, clustering)
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    counts: Counter[tuple[int, int]] = Counter()
    runs = []
    for run, path_of_run in paths.items():
        states, flags = states_of(path_of_run.labels, path_of_run.probabilities, core_probability)
        visits = visits_of(path_of_run.steps, states)
        settled_in, settled_at = settled_of(path_of_run.steps, flags, visits)
        recurrence = recurrence_of(path_of_run.texts)
        record = recurrence | {
            "run_id": str(UUID(run)),
            "n_steps": len(path_of_run.steps),
            "settled_in": settled_in,
            "settled_at": settled_at,
            "transit_share": sum(flag != "core" for flag in flags) / len(flags),
            "visits": visits,
        }
        runs.append(record)
        beside = {
            "left": left_stretches_of(path_of_run.texts),
            "last_text": max(path_of_run.texts, default=None),
        }
        counts += transitions_of(path_of_run.steps, states, lag)
        groups[json.dumps(group_of(path, run, by), ensure_ascii=False)].append(record | beside)
    everything = [run for runs_of_group in groups.values() for run in runs_of_group]
    return {
        "clustering": clustering,
        "lag": lag,
        "n_steps": sum(len(path_of_run.steps) for path_of_run in paths.values()),
        # Predictions have tests of their own.
        "n_predicted": 0,
        "groups": [summed(json.loads(key), groups[key], sampling) for key in sorted(groups)],
        "total": summed({}, everything, sampling) if everything else None,
        "transitions": [
            {"from": source, "to": target, "count": count}
            for (source, target), count in sorted(counts.items())
        ],
        "runs": runs,
    }


def group_of(path: Path, run: str, by: str) -> dict[str, Any]:
    """Return the group of a run."""
    with closing(sqlite3.connect(path)) as connection:
        row = connection.execute("SELECT network, initial_prompt FROM run WHERE id = ?", (run,)).fetchone()
    network, prompt = (json.loads(row[0]), row[1]) if row else (None, None)
    values = {
        "network": network,
        "prompt": prompt,
        "t2i": network and network[::2],
        "i2t": network and network[1::2],
    }
    return {name: values[name] for name in by.split(",")}


def summed(group: dict[str, Any], runs: list[dict[str, Any]], sampling: int) -> dict[str, Any]:
    """Sum up some runs."""
    n_steps = sum(run["n_steps"] for run in runs)
    periods = Counter(run["period"] for run in runs if run["period"] is not None)
    n_texts = sum(run["distinct_texts"] + run["returns"] for run in runs)
    return {
        "group": group,
        "n_runs": len(runs),
        "n_steps": n_steps,
        "transit_share": sum(run["transit_share"] * run["n_steps"] for run in runs) / n_steps,
        "settled_runs": sum(run["settled_in"] is not None for run in runs),
        "return_share": sum(run["returns"] for run in runs) / n_texts if n_texts else None,
        "periodic_runs": {str(period): count for period, count in sorted(periods.items())},
        "stretches": stretches_of(runs),
        **absorption_of(runs),
        "dwell": dwell_of([run["visits"] for run in runs], sampling),
    }
