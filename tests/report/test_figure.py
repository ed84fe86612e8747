"""Test `plot-clustering`: complete files, the same for the same seed, hostile texts drawn literally."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from panic_tda.insight.layout import Map
from panic_tda.main import main
from panic_tda.progress import Silent
from panic_tda.records import EffectiveParameters
from panic_tda.report import drawing, figure
from panic_tda.report.drawing import LINE_CHARACTERS, LINES, Style
from panic_tda.report.figure import read_scene
from panic_tda.report.fonts import find_fonts
from panic_tda.report.palette import cluster_colour
from panic_tda.storage.write.saving import save_or_write_pending
from tests.conftest import MakeFile, UpgradedFile, ids_of, make_finished
from tests.exported import latest
from tests.field_files import FieldSpec
from tests.insight.planted import PlantedRun, plant
from tests.snapshots import opened, snapshot

# Importing it takes seconds, and every process of the tests collects this file.
if find_spec("datamapplot") is None:
    pytest.skip("DataMapPlot is not installed (extra figure)", allow_module_level=True)
Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed (extra report)")

HOSTILE = [
    r"$\frac{1}{0}$ and $ \undefined{ $x_{$",
    "<script>alert(1)</script> & --> <!-- ]]>",
    "שלום עולם, این یک متن است\u202e\u2066",
    "風船 in the sky 🎈👩‍👩‍👧",
    "two\nlines\r\tand\x00 NUL \x1b[31m",
    "word" * 25_000,
    "",
    " ",
]


def run(*words: object) -> Result:
    result = CliRunner().invoke(main, ["plot-clustering", *map(str, words)])
    assert "Traceback" not in result.output
    return result


def plotted(*words: object) -> Any:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def svg_texts(path: Path) -> list[str]:
    """Return the texts of an SVG by Matplotlib, which has them in comments."""
    return [
        comment.strip()
        for comment in re.findall(r"<!-- (.*?) -->", path.read_text(encoding="utf-8"), re.DOTALL)
    ]


@pytest.fixture
def clustered(upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch) -> UpgradedFile:
    # UMAP has its own tests, and to compile it takes longer than all of this.
    monkeypatch.setitem(sys.modules, "umap", None)
    file = upgraded(FieldSpec(runs=6, length=60))
    save_or_write_pending(file.database, make_finished(ids_of(file)))
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder for figures, which holds no database with its logs."""
    folder = tmp_path / "figures"
    folder.mkdir()
    return folder


def test_importing_the_libraries_compiles_nothing_that_figures_do_not_need() -> None:
    """DataShader compiles its edge bundling when it is imported, which took 10 s."""
    drawing.require_plotting()
    from datashader import bundling, utils

    assert not hasattr(bundling.advect_and_resample, "signatures")
    # Other functions are compiled when they are called, as always.
    assert utils.ngjit(lambda row: row).signatures == []


def test_labels_are_words_on_request(clustered: UpgradedFile, folder: Path) -> None:
    plotted("--db", clustered.path, "-o", folder / "medoids.svg")
    plotted("--db", clustered.path, "-o", folder / "words.svg", "--words")
    shown = CliRunner().invoke(main, ["show-clustering", "--words", "--json", "--db", str(clustered.path)])
    (printed,) = json.loads(shown.stdout)
    medoids, words = ("\n".join(svg_texts(folder / f"{name}.svg")) for name in ("medoids", "words"))
    for cluster in printed["clusters"]:
        assert cluster["words"]
        label = drawing.make_label(", ".join(cluster["words"])).splitlines()
        assert all(line in words for line in label)
        assert not all(line in medoids for line in label)
    assert "Labels: words of the largest clusters" in " ".join(words.split())


def test_a_png_has_300_dots_an_inch(clustered: UpgradedFile, folder: Path) -> None:
    path = folder / "map.png"
    before = snapshot(clustered.path)
    clustered.path.chmod(0o444)
    result = plotted("--db", clustered.path, "-o", path)
    assert list(result) == ["file", "rows", "clusters", "method"]
    assert (result["file"], result["rows"], result["clusters"]) == (str(path), 180, 4)
    assert result["method"].startswith("PCA")
    with Image.open(path) as image:
        assert image.size == (2160, 2160)
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert (pixels == 255).all(axis=1).mean() > 0.7
    pixels_of_map = set((pixels @ np.array([1 << 16, 1 << 8, 1])).tolist())
    # The lines to the labels have the colours of the clusters; points are transparent.
    colours = [cluster_colour(label, dark=False) for label in range(4)]
    assert sum(int(name[1:], 16) in pixels_of_map for name in colours) >= 2
    assert sorted(at.name for at in folder.iterdir()) == ["map.png"]
    assert snapshot(clustered.path) == before


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [("invocation", "output_text", "CAST(x'ff41' AS TEXT)"), ("embeddingcluster", "label", "'first'")],
)
def test_a_stored_value_that_cannot_be_read_is_named(
    clustered: UpgradedFile, folder: Path, table: str, column: str, value: str
) -> None:
    with opened(clustered.path) as connection:
        connection.execute(f"UPDATE {table} SET {column} = {value}")
    result = run("--db", clustered.path, "-o", folder / "map.png")
    assert result.exit_code == 1
    assert f"table {table}, column {column}, row " in result.stderr
    assert list(folder.iterdir()) == []


def test_a_cluster_whose_label_no_row_has_is_drawn_without_rows(
    clustered: UpgradedFile, folder: Path
) -> None:
    with opened(clustered.path) as connection:
        connection.execute("UPDATE cluster SET label = -5 WHERE label = 0")
    result = run("--db", clustered.path, "-o", folder / "map.png")
    assert result.exit_code == 0, result.stderr


def test_a_dark_and_narrow_figure_is_drawn(clustered: UpgradedFile, tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    assert run("--db", clustered.path, "-o", path, "--dark", "--width", 3).exit_code == 0
    with Image.open(path) as image:
        assert image.size == (900, 900)
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert (pixels == 0).all(axis=1).mean() > 0.7


@pytest.mark.parametrize("kind", figure.FORMATS)
def test_the_same_seed_gives_the_same_file(clustered: UpgradedFile, tmp_path: Path, kind: str) -> None:
    first, same, second = (tmp_path / f"{name}.{kind}" for name in ("one", "same", "other"))
    for path, seed in ((first, 0), (same, 0), (second, 1)):
        plotted("--db", clustered.path, "-o", path, "--seed", seed, "--map-rows", 60, "--width", 3)
    assert first.read_bytes() == same.read_bytes()
    assert first.read_bytes() != second.read_bytes()


def test_vectors_show_title_settings_and_labels(clustered: UpgradedFile, tmp_path: Path) -> None:
    svg, pdf = tmp_path / "map.svg", tmp_path / "map.pdf"
    source = latest(clustered.database)
    plotted("--db", clustered.path, "-o", svg, "--labels", 3)
    texts = svg_texts(svg)
    n, of = source.record.n_clusters, source.record.n_embeddings
    assert f"{n} clusters of {of} Nomic embeddings" in texts
    caption = " ".join(texts).replace("\n", " ")
    assert "min_cluster_size 10, min_samples 5, epsilon 0.4, eom" in caption
    assert f"; all {of} embeddings. Labels: medoids of the largest clusters (3)." in caption
    assert str(source.id) in caption
    with opened(clustered.path) as connection:
        query = (
            "SELECT output_text FROM cluster JOIN embedding ON embedding.id = medoid_embedding_id "
            "JOIN invocation ON invocation.id = invocation_id ORDER BY label"
        )
        quoted_texts = [text for (text,) in connection.execute(query)]
    shown = " ".join(" ".join(texts).split())
    assert min(map(len, quoted_texts)) > 10
    assert [text in shown for text in quoted_texts] == [True] * 3 + [False]
    # Points are an image in it: an editor opens it gladly.
    assert svg.read_text().count("<image") == 1
    assert svg.stat().st_size < 1_000_000
    plotted("--db", clustered.path, "-o", pdf, "--title", "My $own$ title")
    assert pdf.read_bytes().startswith(b"%PDF-")
    assert b"/CreationDate" not in pdf.read_bytes()
    assert b"/Type3" not in pdf.read_bytes()
    plotted("--db", clustered.path, "-o", svg, "--title", "My $own$ title", "--force")
    assert "My $own$ title" in svg_texts(svg)
    plotted("--db", clustered.path, "-o", svg, "--title", "", "--force", "--map-rows", 50)
    texts = svg_texts(svg)
    assert not [text for text in texts if "clusters of" in text]
    assert "; 50 embeddings, sampled evenly over runs and steps." in " ".join(" ".join(texts).split())


def test_hostile_texts_are_drawn_literally(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(len(HOSTILE)), 3).tolist()
    texts = np.repeat(HOSTILE, 3).tolist()
    path = tmp_path / "hostile.sqlite"
    database, source = plant(path, [PlantedRun(labels, texts)])
    for kind in figure.FORMATS:
        result = plotted("--db", path, "-o", tmp_path / f"map.{kind}")
        assert (result["rows"], result["clusters"]) == (24, 8)
    svg = (tmp_path / "map.svg").read_text(encoding="utf-8")
    assert "<script" not in svg
    scene = read_scene(database, source, style=Style(), n_rows=100, seed=0, progress=Silent())
    by_text = [place.text for place in scene.places]
    assert by_text[0].startswith(r"$\frac{1}{0}$ and $")
    assert by_text[6:] == ["(no text)"] * 2
    for text in by_text:
        assert len(text.splitlines()) <= LINES
        assert max(map(len, text.splitlines())) <= LINE_CHARACTERS
        # Emoji are made with joiners.
        assert re.sub("[\n\u200c\u200d]", "", text).isprintable()
    assert by_text[5] == f"{('word' * 5 + chr(10)) * 2}{'word' * 4}wor…"


SMALL = {
    "no clusters": [-1] * 30,
    "one cluster": [0] * 30,
    "two clusters": [0] * 10 + [1] * 10,
    "one row": [0],
    "one outlier": [-1],
}


@pytest.mark.parametrize("labels", SMALL.values(), ids=SMALL)
def test_figures_of_few_rows_are_drawn(tmp_path: Path, labels: list[int]) -> None:
    # All vectors of planted runs are zero: everything lies at one place.
    plant(tmp_path / "small.sqlite", [PlantedRun(labels)])
    result = plotted("--db", tmp_path / "small.sqlite", "-o", tmp_path / "map.svg")
    assert (result["rows"], result["clusters"]) == (len(labels), len(set(labels) - {-1}))
    assert sum("step" in text for text in svg_texts(tmp_path / "map.svg") if "HDBSCAN" not in text) == len(
        set(labels) - {-1}
    )


def test_labels_do_not_collide(clustered: UpgradedFile) -> None:
    from matplotlib.text import Text

    rng = np.random.default_rng(0)
    drawn_scene = read_scene(
        clustered.database, latest(clustered.database), style=Style(), n_rows=100, seed=0, progress=Silent()
    )
    places = tuple(
        drawing.Place(
            label, "a photograph of the\nplace with the long\nname that is cut…", 5, (float(x), float(y))
        )
        for label, (x, y) in enumerate(rng.standard_normal((30, 2)))
    )
    scene = drawing.Scene(drawn_scene.map, drawn_scene.labels, places, "", "")
    with drawing.default_settings():
        drawn = drawing.draw(scene, Style())
        drawn.canvas.draw()
        (axes,) = drawn.axes
        # Without the lines that lead there.
        boxes = [Text.get_window_extent(text) for text in axes.texts]
    assert len(boxes) == 30
    assert all(box.y0 >= 0 and box.x0 >= 0 and box.x1 <= 2160 and box.y1 <= 2160 for box in boxes)
    overlapping = [(a, b) for number, a in enumerate(boxes) for b in boxes[:number] if a.overlaps(b)]
    assert overlapping == []


SHAPES = {
    "square": lambda rng: rng.uniform(-1, 1, (1000, 2)),
    "far islands": lambda rng: np.concatenate([rng.normal(0, 0.2, (950, 2)), rng.uniform(-3, 3, (50, 2))]),
}
"""Points in the corners of a figure, and a few far from all others."""


@pytest.mark.parametrize(
    ("shape", "n_labels", "width"), [("square", 15, 7.2), ("far islands", 15, 7.2), ("square", 1, 3.5)]
)
def test_labels_cover_no_points(shape: str, n_labels: int, width: float) -> None:
    from matplotlib.text import Text

    points = np.asarray(SHAPES[shape](np.random.default_rng(0)), dtype=float)
    given_map = Map(np.arange(len(points)), points, "as given", len(points))
    labels = np.arange(len(points)) % max(2, n_labels)
    text = "a photograph of the\nplace with the long\nname that is cut…"
    places = tuple(drawing.Place(label, text, 5, tuple(points[label])) for label in range(n_labels))
    style = Style(n_labels=n_labels, width=width)
    with drawing.default_settings():
        drawn = drawing.draw(drawing.Scene(given_map, labels, places, "Title", "Caption"), style)
        drawn.canvas.draw()
        (axes,) = drawn.axes
        boxes = [Text.get_window_extent(text) for text in axes.texts]
        at = axes.transData.transform(points)
    assert len(boxes) == n_labels
    assert [box for box in boxes if box.count_contains(at)] == []
    side = 300 * width
    assert all(box.y0 >= 0 and box.x0 >= 0 and box.x1 <= side and box.y1 <= side for box in boxes)
    assert ((at >= 0) & (at <= side)).all()


def nowhere() -> str:
    """Return a character that no installed font has."""
    from matplotlib import font_manager, ft2font

    taken: set[int] = set()
    for font in font_manager.fontManager.ttflist:
        if "Last Resort" not in font.name:
            taken |= ft2font.FT2Font(font.fname).get_charmap().keys()
    # Chinese, Tangut, Yi: whatever these are, one is missing on any machine that runs this.
    free = [code for block in (range(0x9000, 0x9FFF), range(0x2A700, 0x2B73F)) for code in block]
    return chr(next(code for code in free if code not in taken))


def test_characters_that_no_font_has_are_reported(tmp_path: Path) -> None:
    sign = nowhere()
    plant(tmp_path / "one.sqlite", [PlantedRun([0] * 6 + [1] * 5, [f"{sign} and words"] * 6 + ["plain"] * 5)])
    result = run("--db", tmp_path / "one.sqlite", "-o", tmp_path / "map.svg")
    assert result.exit_code == 0
    assert f"no installed font has the character {sign} (U+{ord(sign):04X})" in result.stderr
    assert " and 1 other character" not in result.stderr
    # Without its label there is nothing to say; in the title there is.
    for words, has_title in ((("--labels", 0), False), (("--labels", 0, "--title", sign), True)):
        outcome = run("--db", tmp_path / "one.sqlite", "-o", tmp_path / "map.png", "--force", *words)
        assert ("no installed font" in outcome.stderr) == has_title
    assert find_fonts([sign])[1] == [sign]


def test_a_font_that_has_a_character_is_found_among_all(clustered: UpgradedFile, tmp_path: Path) -> None:
    """A character in none of the preferred fonts is drawn without a box."""
    from matplotlib import font_manager, ft2font
    from matplotlib.figure import Figure

    first, _ = find_fonts("abc")
    have = {
        name: set(ft2font.FT2Font(font_manager.findfont(name)).get_charmap())
        for name in font_manager.get_font_names()
        if name in first or re.match("Noto|Liberation", name)
    }
    others = set().union(*(have[name] for name in have if name not in first)) - set().union(
        *(have[name] for name in first)
    )
    letters = sorted(code for code in others if chr(code).isalpha())
    if not letters:
        pytest.skip("all fonts here have the same characters")
    sign = chr(letters[0])
    families, missing = find_fonts([sign])
    assert missing == []
    assert len(families) == len(first) + 1
    result = run("--db", clustered.path, "-o", tmp_path / "map.svg", "--title", f"{sign}{sign}")
    assert result.exit_code == 0
    assert "font" not in result.stderr
    # Whatever draws it asks for no glyph that is not there.
    with warnings.catch_warnings(), drawing.default_settings():
        warnings.filterwarnings("error", "Glyph .* missing")
        drawn = Figure()
        drawn.text(0, 0, sign, family=families)
        drawn.savefig(tmp_path / "sign.png")


def test_the_caption_names_every_setting(clustered: UpgradedFile, tmp_path: Path) -> None:
    source = latest(clustered.database)
    plotted("--db", clustered.path, "-o", tmp_path / "map.svg")
    caption = " ".join(" ".join(svg_texts(tmp_path / "map.svg")).split())
    names = {field.name for field in fields(EffectiveParameters)}
    names -= {"cluster_selection_epsilon", "cluster_selection_method"}
    assert len(names) == 5
    for name in names:
        value = getattr(source.record, name)
        shown = ("on" if value else "off") if isinstance(value, bool) else f"{value:g}" if value else "none"
        assert f"{name} {shown}" in caption
    assert f"epsilon {source.record.cluster_selection_epsilon:g}, eom" in caption
    assert f"downsample {source.record.downsample}, backend {source.record.backend} (exact)" in caption


DENO = shutil.which("deno", path=str(Path(sys.executable).parent)) or shutil.which("deno")


@pytest.mark.skipif(DENO is None, reason="Deno is not installed: pip install deno")
def test_clusters_have_the_colours_of_the_page(tmp_path: Path) -> None:
    module = Path(figure.__file__).with_name("colours.js").as_uri()
    (tmp_path / "colours.js").write_text(
        f'import {{ colourOf }} from "{module}";\n'
        "const labels = Array.from({ length: 50 }, (_, label) => label);\n"
        "const all = (dark) => labels.map((label) => colourOf(label, dark));\n"
        "console.log(JSON.stringify([all(false), all(true)]));"
    )
    process = subprocess.run(
        [str(DENO), "run", "--allow-read", str(tmp_path / "colours.js")],
        capture_output=True,
        text=True,
        env={"DENO_DIR": str(tmp_path), "NO_COLOR": "1", "PATH": "", "DENO_NO_UPDATE_CHECK": "1"},
        check=True,
    )
    for dark, shown in zip((False, True), json.loads(process.stdout), strict=True):
        drawn = [cluster_colour(label, dark=dark) for label in range(50)]
        assert drawn == [f"#{bytes(colour).hex()}" for colour in shown]
        assert len(set(drawn)) == 21


def test_settings_of_matplotlib_do_not_change_the_figure(clustered: UpgradedFile, tmp_path: Path) -> None:
    import matplotlib

    plotted("--db", clustered.path, "-o", tmp_path / "one.svg")
    with matplotlib.rc_context({"text.usetex": True, "svg.fonttype": "none", "font.size": 30.0}):
        plotted("--db", clustered.path, "-o", tmp_path / "two.svg")
        assert matplotlib.rcParams["text.usetex"]
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_an_existing_file_is_replaced_completely_or_not_at_all(
    clustered: UpgradedFile, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    def write_half(_figure: Figure, file: IO[bytes], **_options: object) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = folder / "map.svg"
    path.write_text("mine")
    result = run("--db", clustered.path, "-o", path)
    assert result.exit_code == 2
    assert "exists; replace it with --force" in result.stderr
    with monkeypatch.context() as patched:
        patched.setattr(Figure, "savefig", write_half)
        result = run("--db", clustered.path, "-o", path, "--force")
        assert result.exit_code == 1
        assert f"{path} cannot be written: No space left on device" in result.stderr
    assert path.read_text() == "mine"
    assert sorted(at.name for at in folder.iterdir()) == ["map.svg"]
    plotted("--db", clustered.path, "-o", path, "--force")
    assert path.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("map.jpg", "ends in .png, .svg or .pdf; got map.jpg"),
        ("map", "ends in .png, .svg or .pdf; got map"),
        ("nowhere/map.png", "no folder "),
        ("folder.png", "folder.png is a folder; give another name"),
    ],
)
def test_invalid_figure_paths_are_refused(
    clustered: UpgradedFile, tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / "folder.png").mkdir()
    result = run("--db", clustered.path, "-o", tmp_path / name)
    assert result.exit_code == 2
    assert words in result.stderr


def test_without_datamapplot_it_says_what_to_install(
    clustered: UpgradedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datamapplot", None)
    result = run("--db", clustered.path, "-o", tmp_path / "map.png")
    assert result.exit_code == 1
    assert "pip install '.[figure]'" in result.stderr
