"""How a map is drawn, by DataMapPlot: points, labels that cover none of them, title and caption."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from panic_tda.cli.text import on_one_line
from panic_tda.errors import OUTLIER, PanicTdaError
from panic_tda.insight.layout import Map
from panic_tda.report.fonts import find_fonts
from panic_tda.report.palette import cluster_colour
from panic_tda.wording import install_extra

if TYPE_CHECKING:
    from panic_tda.types import FloatArray, IntArray

N_LABELS = 30
WIDTH = 7.2
"""Inches: two columns of most journals (183 mm)."""
DPI = 300
LINE_CHARACTERS, LINES = 20, 3
_LABEL_POINTS = 6.0
_WIDER = (1.0, 1.1, 1.21, 1.33, 1.5, 1.75)
"""By what the ring of the labels grows, in turn, until no label lies over a point."""
_AROUND = 4
"""Pixels around a label in which no point lies: a point is a disk."""
_TOWARDS_SIDES = 1.25
"""How much more labels stand left and right than above and below, where their lines would soon collide."""
_OUTLIERS = {False: "#D9D9D9", True: "#3A3A3A"}
_INK = {False: "#222222", True: "#EEEEEE"}
_SETTINGS: dict[Any, Any] = {
    # Texts are what people and models wrote: nothing in them is a formula.
    "text.parse_math": False,
    "text.usetex": False,
    # What names parts of an SVG is random otherwise.
    "svg.hashsalt": "panic-tda",
    # Type 42 fonts are what journals ask for, and their text can be searched.
    "pdf.fonttype": 42,
}


@dataclass(frozen=True)
class Style:
    """How a figure looks.

    Attributes
    ----------
    n_labels : int
        Clusters that get a label, the largest ones.
    title : str or None
        Its title; None says what was clustered, an empty one leaves it out.
    dark : bool
        On black.
    width : float
        In inches.
    """

    n_labels: int = N_LABELS
    title: str | None = None
    dark: bool = False
    width: float = WIDTH

    @property
    def scale(self) -> float:
        """By what texts are larger than at the usual width; none is smaller than 5 points."""
        return max(5 / _LABEL_POINTS, self.width / WIDTH)


@dataclass(frozen=True)
class Place:
    """A cluster on the map: its label, what its medoid says, its size, and where its medoid lies."""

    label: int
    text: str
    size: int
    xy: tuple[float, float]


@dataclass(frozen=True)
class Scene:
    """What is drawn.

    Attributes
    ----------
    map : Map
        The rows, and where they lie.
    labels : (m,) int64
        Cluster of each of the rows, or `OUTLIER`.
    places : tuple of Place
        All clusters with a medoid, the largest first; the texts of those beyond the labels are empty.
    title, caption : str
        What is written above and below.
    """

    map: Map
    labels: IntArray
    places: tuple[Place, ...]
    title: str
    caption: str


def require_plotting() -> None:
    """Check that what draws is installed, before anything lasts.

    Raises
    ------
    PanicTdaError
        It is not.
    """
    try:
        _import_render_plot()
    except ImportError as error:
        raise PanicTdaError(f"figures need DataMapPlot: {install_extra('figure')} ({error})") from error


def draw(scene: Scene, style: Style) -> Any:
    """Draw a scene; returns Matplotlib's figure. What has been set for Matplotlib elsewhere counts."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(style.width, style.width), dpi=DPI)
    FigureCanvasAgg(figure)
    ground = "black" if style.dark else "white"
    figure.set_facecolor(ground)
    fonts, _ = find_fonts(texts_of(scene, style))
    bottom, top = _write(figure, scene, style, fonts)
    axes = figure.add_axes((0.02, bottom, 0.96, top - bottom), facecolor=ground)
    for wider in _WIDER:
        axes.clear()
        _render(axes, scene, style, fonts, wider)
        if not _covers(axes, scene.map.xy):
            break
    axes.set_facecolor(ground)
    # What DataMapPlot measured with stays behind unseen, and would be found in a PDF.
    for text in [text for text in axes.texts if text.get_alpha() == 0]:
        text.remove()
    for spine in axes.spines.values():
        spine.set_visible(False)
    # Tens of thousands of circles are megabytes of vectors that no editor opens gladly.
    for collection in axes.collections:
        collection.set_rasterized(True)
    return figure


def texts_of(scene: Scene, style: Style) -> list[str]:
    """Return what is written in a figure."""
    labelled = [place.text for place in scene.places if place.text][: style.n_labels]
    return [scene.title, scene.caption, *labelled]


def label_of(text: str | None) -> str:
    """Make a short label of a text: a few lines of whole words where there are some."""
    if text is None:
        return "(an image)"
    # No more than could be shown: a text may have megabytes.
    lines = textwrap.wrap(on_one_line(text[:1000]), LINE_CHARACTERS)
    if len(lines) > LINES:
        last = lines[LINES - 1]
        if len(last) == LINE_CHARACTERS:
            last = last.rpartition(" ")[0] or last[:-1]
        lines = [*lines[: LINES - 1], last.rstrip(" ,;:.") + "…"]
    return "\n".join(lines) or "(no text)"


def _render(axes: Any, scene: Scene, style: Style, font: list[str], wider: float) -> None:
    """Have DataMapPlot draw the points and place the labels so that they do not collide.

    `wider` is by what the ring of the labels is wider than it must be at least.
    """
    by_label = {place.label: cluster_colour(place.label, dark=style.dark) for place in scene.places}
    # Outliers first: the clusters lie on them.
    order = np.argsort(scene.labels != OUTLIER, kind="stable")
    labelled = [place for place in scene.places if place.text][: style.n_labels]
    xy = _apart(np.array([place.xy for place in labelled]).reshape(-1, 2), scene.map.xy)
    radius = _frame(axes, xy, scene.map.xy, wider)
    scale, ink = style.scale, _INK[style.dark]
    _import_render_plot()(
        scene.map.xy[order],
        [by_label.get(label, _OUTLIERS[style.dark]) for label in scene.labels[order].tolist()],
        [place.text for place in labelled],
        xy,
        np.array([place.size for place in labelled]),
        ax=axes,
        figsize=(style.width, style.width),
        dpi=DPI,
        darkmode=style.dark,
        noise_color=_OUTLIERS[style.dark],
        point_size=float(np.clip(9000 / len(order), 0.6, 9)) * (style.width / WIDTH) ** 2,
        alpha=0.8,
        font_family=font,
        label_text_colors=ink,
        label_arrow_colors=[by_label[place.label] for place in labelled],
        # One label is a middle without a ring; DataMapPlot would divide by zero.
        show_labels=len(labelled) > 1,
        label_base_radius=radius,
        label_direction_bias=_TOWARDS_SIDES,
        label_font_size=_LABEL_POINTS * scale,
        label_linespacing=1.0,
        arrowprops={"linewidth": 0.6 * scale},
        add_glow=False,
        force_matplotlib=True,
        use_system_fonts=True,
    )
    if len(labelled) == 1:
        axes.annotate(
            labelled[0].text,
            xy[0],
            xytext=(xy[0, 0], np.average(axes.get_ylim(), weights=(0.06, 0.94))),
            ha="center",
            va="center",
            color=ink,
            family=font,
            fontsize=_LABEL_POINTS * scale,
            arrowprops={"arrowstyle": "-", "linewidth": 0.6 * scale, "color": by_label[labelled[0].label]},
        )


def _apart(xy: FloatArray, points: Any) -> FloatArray:
    """Move the places of labels a thousandth of the map apart: in their very middle there is no direction."""
    extent = float(np.ptp(points, axis=0).max()) or 1.0
    return xy + 1e-3 * extent * np.random.default_rng(0).standard_normal(xy.shape)


def _covers(axes: Any, points: Any) -> bool:
    """Say whether a label lies over one of the points."""
    from matplotlib.text import Text

    axes.figure.canvas.draw()
    at = axes.transData.transform(np.asarray(points, dtype=float))
    # Without the lines that lead there.
    boxes = [Text.get_window_extent(text) for text in axes.texts if text.get_alpha() != 0]
    return any(
        ((at >= (box.x0 - _AROUND, box.y0 - _AROUND)) & (at <= (box.x1 + _AROUND, box.y1 + _AROUND)))
        .all(axis=1)
        .any()
        for box in boxes
    )


def _frame(axes: Any, xy: FloatArray, points: Any, wider: float) -> float:
    """Set the limits of the axes so that labels fit on rings around the points; returns the first's radius.

    DataMapPlot places labels first and makes room for them then, which moves them together again: here the
    room is there from the beginning, and a unit is as long up as to the right.
    """
    centre = (xy if len(xy) > 1 else points).mean(axis=0)
    away = np.linalg.norm(points - centre, axis=1)
    radius = float(max(*away, *np.linalg.norm(xy - centre, axis=1), 1e-3)) * 1.12 * wider
    # As `datamapplot.text_placement` counts and widens the rings.
    n_rings = len(xy) // 32 + 1
    half = max(radius * 1.33 ** (n_rings - 1) * 1.12, float(np.abs(points - centre).max()) * 1.02)
    width, height = axes.get_window_extent().size
    axes.set_xlim(centre[0] - half * width / height, centre[0] + half * width / height)
    axes.set_ylim(centre[1] - half, centre[1] + half)
    return radius


def _write(figure: Any, scene: Scene, style: Style, fonts: list[str]) -> tuple[float, float]:
    """Write title and caption; returns between which heights, 0 to 1, there is room for the map."""
    scale, ink = style.scale, _INK[style.dark]
    # What fits into a line, and how much of the height a line takes, by how large texts are for the width.
    relative = scale * WIDTH / style.width
    top = 0.98
    if scene.title:
        title = textwrap.shorten(scene.title, 70, placeholder="…")
        size = 13 * style.width / WIDTH
        figure.text(0.02, top, title, va="top", fontsize=size, weight="bold", color=ink, family=fonts)
        top -= 0.05
    caption = textwrap.wrap(scene.caption, int(150 / relative))
    figure.text(
        0.02, 0.015, "\n".join(caption), va="bottom", fontsize=6 * scale, color="#808080", family=fonts
    )
    return 0.025 + 0.0145 * relative * len(caption), top


def _import_render_plot() -> Any:
    with warnings.catch_warnings():
        # In a home that cannot be written to it cannot keep its settings, of which none is used here.
        warnings.filterwarnings("ignore", "Error (creating|loading) config file")
        from datamapplot import render_plot
    return render_plot


@contextmanager
def drawing_alone() -> Iterator[None]:
    """Draw with Matplotlib's own settings, whatever its user's are."""
    import matplotlib
    from matplotlib import style

    with (
        style.context("default", after_reset=True),
        matplotlib.rc_context(_SETTINGS),
        warnings.catch_warnings(),
    ):
        # No font has all characters. Where none has one, its box is drawn, and `plot_clustering` says so.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield
