"""Draw a map with DataMapPlot: points, labels beside them, title and caption."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from panic_tda.errors import PanicTdaError
from panic_tda.insight.layout import Map
from panic_tda.parameters import FIGURE_WIDTH, N_LABELS
from panic_tda.report.fonts import find_fonts
from panic_tda.report.palette import cluster_colour
from panic_tda.types import OUTLIER, FloatArray, IntArray
from panic_tda.wording import install_extra, on_one_line

DPI = 300
LINE_CHARACTERS, LINES = 20, 3
_LABEL_POINTS = 6.0
_WIDER = (1.0, 1.1, 1.21, 1.33, 1.5, 1.75)
"""Factors of the radius of the ring of labels; tried in turn until no label covers a point."""
_AROUND = 4
"""Pixels around a label that must have no point's centre: a point is a disk."""
_TOWARDS_SIDES = 1.25
"""Preference for labels at the left and right. Above and below the map their lines would collide."""
_OUTLIERS = {False: "#D9D9D9", True: "#3A3A3A"}
_INK = {False: "#222222", True: "#EEEEEE"}
_SETTINGS: dict[Any, Any] = {
    # Texts are captions and prompts: a dollar sign does not begin a formula.
    "text.parse_math": False,
    "text.usetex": False,
    # Without a salt the ids in an SVG are random.
    "svg.hashsalt": "panic-tda",
    # Journals require Type 42 fonts, and their text can be searched.
    "pdf.fonttype": 42,
}


@dataclass(frozen=True)
class Style:
    """Appearance of a figure.

    Attributes
    ----------
    n_labels : int
        Number of labels; the largest clusters get one.
    title : str or None
        Title; None describes the clustering, an empty text leaves the title out.
    dark : bool
        Whether the background is black.
    width : float
        Width in inches.
    with_words : bool
        Whether the labels are the words that set the clusters apart, instead of the texts of their medoids.
    """

    n_labels: int = N_LABELS
    title: str | None = None
    dark: bool = False
    width: float = FIGURE_WIDTH
    with_words: bool = False

    @property
    def scale(self) -> float:
        """Factor of the text sizes relative to the default width. No text is smaller than 5 points."""
        return max(5 / _LABEL_POINTS, self.width / FIGURE_WIDTH)


@dataclass(frozen=True)
class Place:
    """A cluster on the map: its label, its medoid's text, its size, and its medoid's coordinates."""

    label: int
    text: str
    size: int
    xy: tuple[float, float]


@dataclass(frozen=True)
class Scene:
    """Contents of a figure.

    Attributes
    ----------
    map : Map
        The rows and their coordinates.
    labels : (m,) int64
        Cluster of each of the rows, or `OUTLIER`.
    places : tuple of Place
        All clusters with a medoid, the largest first; the texts of those beyond the labels are empty.
    title, caption : str
        Texts above and below the map.
    """

    map: Map
    labels: IntArray
    places: tuple[Place, ...]
    title: str
    caption: str


def require_plotting() -> None:
    """Check that DataMapPlot is installed, before long work begins.

    Raises
    ------
    PanicTdaError
        It is not installed.
    """
    try:
        _import_render_plot()
    except ImportError as error:
        raise PanicTdaError(f"figures need DataMapPlot: {install_extra('figure')} ({error})") from error


def draw(scene: Scene, style: Style) -> Any:
    """Draw a scene and return Matplotlib's figure. The current settings of Matplotlib apply."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(style.width, style.width), dpi=DPI)
    FigureCanvasAgg(figure)
    ground = "black" if style.dark else "white"
    figure.set_facecolor(ground)
    fonts, _ = find_fonts(list_texts(scene, style))
    bottom, top = _write_texts(figure, scene, style, fonts)
    axes = figure.add_axes((0.02, bottom, 0.96, top - bottom), facecolor=ground)
    for wider in _WIDER:
        axes.clear()
        _render(axes, scene, style, fonts, wider)
        if not _covers_points(axes, scene.map.xy):
            break
    axes.set_facecolor(ground)
    # DataMapPlot leaves the invisible texts that it measured with; a search in a PDF would find them.
    for text in [text for text in axes.texts if text.get_alpha() == 0]:
        text.remove()
    for spine in axes.spines.values():
        spine.set_visible(False)
    # As vectors, tens of thousands of circles take megabytes and make editors slow.
    for collection in axes.collections:
        collection.set_rasterized(True)
    return figure


def list_texts(scene: Scene, style: Style) -> list[str]:
    """Return all texts of a figure."""
    labelled = [place.text for place in scene.places if place.text][: style.n_labels]
    return [scene.title, scene.caption, *labelled]


def make_label(text: str | None) -> str:
    """Shorten a text to a label of a few lines, broken between words if possible."""
    if text is None:
        return "(an image)"
    # A text may have megabytes; only the beginning can be shown.
    lines = textwrap.wrap(on_one_line(text[:1000]), LINE_CHARACTERS)
    if len(lines) > LINES:
        last = lines[LINES - 1]
        if len(last) == LINE_CHARACTERS:
            last = last.rpartition(" ")[0] or last[:-1]
        lines = [*lines[: LINES - 1], last.rstrip(" ,;:.") + "…"]
    return "\n".join(lines) or "(no text)"


def _render(axes: Any, scene: Scene, style: Style, font: list[str], wider: float) -> None:
    """Draw the points, and labels that do not collide, with DataMapPlot.

    The ring of labels has `wider` times its least radius.
    """
    by_label = {place.label: cluster_colour(place.label, dark=style.dark) for place in scene.places}
    # Outliers first: clusters are drawn over them.
    order = np.argsort(scene.labels != OUTLIER, kind="stable")
    labelled = [place for place in scene.places if place.text][: style.n_labels]
    xy = _separate_labels(np.array([place.xy for place in labelled]).reshape(-1, 2), scene.map.xy)
    radius = _set_limits(axes, xy, scene.map.xy, wider)
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
        point_size=float(np.clip(9000 / len(order), 0.6, 9)) * (style.width / FIGURE_WIDTH) ** 2,
        alpha=0.8,
        font_family=font,
        label_text_colors=ink,
        label_arrow_colors=[by_label[place.label] for place in labelled],
        # With a single label DataMapPlot would divide by zero.
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


def _separate_labels(xy: FloatArray, points: Any) -> FloatArray:
    """Move label positions by a thousandth of the map: a label at their centre would have no direction."""
    extent = float(np.ptp(points, axis=0).max()) or 1.0
    return xy + 1e-3 * extent * np.random.default_rng(0).standard_normal(xy.shape)


def _covers_points(axes: Any, points: Any) -> bool:
    """Return whether a label covers a point."""
    from matplotlib.text import Text

    axes.figure.canvas.draw()
    at = axes.transData.transform(np.asarray(points, dtype=float))
    # The boxes of the texts alone, without their lines.
    boxes = [Text.get_window_extent(text) for text in axes.texts if text.get_alpha() != 0]
    return any(
        ((at >= (box.x0 - _AROUND, box.y0 - _AROUND)) & (at <= (box.x1 + _AROUND, box.y1 + _AROUND)))
        .all(axis=1)
        .any()
        for box in boxes
    )


def _set_limits(axes: Any, xy: FloatArray, points: Any, wider: float) -> float:
    """Set the limits of the axes so that rings of labels fit around the points; return the inner radius.

    DataMapPlot places labels first and widens the axes afterwards, which moves labels together again. Here
    the axes have their limits before labels are placed, and equal scales in both directions.
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


def _write_texts(figure: Any, scene: Scene, style: Style, fonts: list[str]) -> tuple[float, float]:
    """Write title and caption; return the lower and upper limit of the map, as shares of the height."""
    scale, ink = style.scale, _INK[style.dark]
    # Text size relative to the width: it decides the characters in a line and the height of a line.
    relative = scale * FIGURE_WIDTH / style.width
    top = 0.98
    if scene.title:
        title = textwrap.shorten(scene.title, 70, placeholder="…")
        size = 13 * style.width / FIGURE_WIDTH
        figure.text(0.02, top, title, va="top", fontsize=size, weight="bold", color=ink, family=fonts)
        top -= 0.05
    caption = textwrap.wrap(scene.caption, int(150 / relative))
    figure.text(
        0.02, 0.015, "\n".join(caption), va="bottom", fontsize=6 * scale, color="#808080", family=fonts
    )
    return 0.025 + 0.0145 * relative * len(caption), top


def _import_render_plot() -> Any:
    with warnings.catch_warnings():
        # DataMapPlot warns if its settings cannot be saved in the home folder. They are not used here.
        warnings.filterwarnings("ignore", "Error (creating|loading) config file")
        _import_edge_bundling()
        from datamapplot import render_plot
    return render_plot


def _import_edge_bundling() -> None:
    """Import the edge bundling that DataMapPlot imports, without compiling it.

    Importing it compiles its functions, which takes 10 s in every process. Figures need none of them.
    """
    # First all that it imports itself, which is compiled when it is called.
    import datashader
    import numba

    config: Any = numba.config
    before, config.DISABLE_JIT = config.DISABLE_JIT, True
    try:
        import datashader.bundling  # noqa: F401
    finally:
        config.DISABLE_JIT = before


@contextmanager
def default_settings() -> Iterator[None]:
    """Use Matplotlib's default settings within this context instead of the user's."""
    import matplotlib
    from matplotlib import style

    with (
        style.context("default", after_reset=True),
        matplotlib.rc_context(_SETTINGS),
        warnings.catch_warnings(),
    ):
        # A character that no font has is drawn as a box; `plot_clustering` warns about it.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield
