"""Test the words of the page: legends in both themes, names of runs, rows and commands to paste."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest
from click.testing import CliRunner

from panic_tda.doubts import find_doubts
from panic_tda.main import main
from panic_tda.storage.database import open_database
from panic_tda.storage.read.results import find_clustering
from tests.report.browser import Opened
from tests.report.conftest import MakePage
from tests.report.walks import Walk, make_walks, read_json, run_command
from tests.snapshots import opened as raw

Open = Callable[..., Opened]

INHERITED = ("constructor", "toString", "__proto__", "hasOwnProperty", "valueOf")
"""Names that every object of the page's script has without being given them."""
BY_NAME = ("by", "order", "group", "theme", "network", "prompt", "cluster", "run", "step", "sort", "view")
MATRIX_SHADES = """() => {
    const { states, matrix } = report.page.dynamics;
    const n = states.length;
    const canvas = document.querySelector('canvas.matrix');
    const context = canvas.getContext('2d');
    const shades = [];
    for (let row = 0; row < n; row++) {
        let leaving = 0;
        for (let column = 0; column < n; column++) if (column !== row) leaving += matrix[row * n + column];
        for (let column = 0; column < n; column++) {
            if (column === row || !leaving) continue;
            const middle = (at) => (at + 0.5) * canvas.width / n;
            const [r, g, b] = context.getImageData(middle(column), middle(row), 1, 1).data;
            shades.push([matrix[row * n + column] / leaving, r + g + b]);
        }
    }
    return shades;
}"""
"""Each cell of the transitions: the share that it stands for, and how bright it is drawn."""
FORMULAS = (
    "=HYPERLINK(1)",
    "+1+1",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    '"=1+1"',
    "＝1+1",
    " =1",
)


def formula(name: str) -> str:
    """Give every text, prompt and network a name that a spreadsheet would evaluate."""
    return f"{FORMULAS[sum(map(ord, name)) % len(FORMULAS)]} {name}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_legend_of_the_transitions_says_what_is_drawn(
    plain_page: Path, opened: Open, scheme: str
) -> None:
    page = opened(plain_page, color_scheme=scheme)
    shades = page.evaluate(MATRIX_SHADES)
    least, most = min(shades), max(shades)
    assert most[0] > least[0] + 0.1
    word = "Darker" if most[1] < least[1] else "Brighter"
    caption = "figure:has(h3:text-is('Transitions')) .caption"
    assert f" {word} is a larger share" in page.page.locator(caption).inner_text()
    # The other scheme, chosen while the page is open.
    page.page.keyboard.press("d")
    page.page.keyboard.press("d")
    turned = page.evaluate(MATRIX_SHADES)
    if scheme == "light":
        assert max(turned)[1] > min(turned)[1]
        assert " Brighter is a larger share" in page.page.locator(caption).inner_text()


def test_the_page_names_no_shade_that_depends_on_the_theme(plain_page: Path, opened: Open) -> None:
    """A colour that is pale on white is dim on black."""
    for scheme, change in (("light", "brighter"), ("dark", "darker")):
        page = opened(plain_page, color_scheme=scheme)
        text = page.page.locator("main").inner_text().lower()
        assert re.findall(r"\b(?:pale|white|black|lighter|light|dark)\b", text) == []
        assert change not in text


def make_runs_with_similar_ids(folder: Path, shared: int) -> Path:
    """Make the page of twelve runs whose ids have the first `shared` digits in common."""
    database = make_walks(folder, Walk(runs=12, steps=20, places=2))
    with raw(database) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        old_ids = connection.execute("SELECT id FROM run ORDER BY id").fetchall()
        for number, (old,) in enumerate(old_ids):
            new = f"{'067ffc18' * 4:.{shared}}{number:x}{old[shared + 1 :]}"
            connection.execute("UPDATE run SET id = ? WHERE id = ?", (new, old))
            connection.execute("UPDATE invocation SET run_id = ? WHERE run_id = ?", (new, old))
    run_command("report-clustering", "--db", database, "-o", folder / "page.html", "-q")
    return database


def test_runs_have_different_names(tmp_path: Path, opened: Open) -> None:
    """Ids created in sequence share a prefix: their names are as long as necessary."""
    database = make_runs_with_similar_ids(tmp_path, 9)
    page = opened(tmp_path / "page.html")
    ids, names = page.evaluate("report.page.runs.ids"), page.evaluate("report.page.runs.names")
    assert names == [f"067ffc18-0{number:x}" for number in range(12)]
    assert all(line.startswith(name) for name, line in zip(names, ids, strict=True))
    assert [text.split()[0] for text in page.cells("#map-controls option")[1:]] == names
    # Each is an address, and what show-trajectories takes and lists.
    other_page = opened(tmp_path / "page.html", f"#run={names[7]}")
    assert other_page.chosen("run") == 7
    run = read_json("show-trajectories", "--db", database, "--run", names[7])["runs"]
    assert [step["run_id"] for step in run] == [ids[7]]


def test_names_of_runs_are_not_cut(tmp_path: Path, opened: Open) -> None:
    """The strips begin to the right of the names, also where it takes whole ids to tell runs apart."""
    make_runs_with_similar_ids(tmp_path, 31)
    page = opened(tmp_path / "page.html")
    assert set(map(len, page.evaluate("report.page.runs.names"))) == {36}
    page.page.locator("#strips-box").scroll_into_view_if_needed()
    page.wait_for_frames()
    box = page.page.locator("#strips-box canvas").bounding_box()
    assert box is not None
    page.page.mouse.click(box["x"] + 230, box["y"] + 30)
    # A click on the name chooses the run alone; one on a step its cluster too.
    assert page.chosen("run") is not None
    assert page.chosen("cluster") is None
    page.page.mouse.click(box["x"] + 300, box["y"] + 30)
    assert page.chosen("cluster") is not None


def test_names_of_object_properties_are_ordinary_keys(plain_page: Path, opened: Open) -> None:
    plain = opened(plain_page)
    selectors = ("#run-count", "#groups-box", "#dynamics-charts h3", "#theme-button")
    shown_plainly = [plain.cells(selector) for selector in selectors]
    # A column or a view of that name is looked for and not found.
    chosen_plainly = {key: plain.chosen(key) for key in BY_NAME if key not in ("sort", "view")}
    for name in INHERITED:
        fragment = "#" + "&".join([f"{name}={name}", *(f"{key}={name}" for key in BY_NAME)])
        page = opened(plain_page, fragment)
        # The other page is open already.
        plain.evaluate("fragment => { location.hash = fragment; }", fragment)
        plain.wait_for_frames()
        for either in (page, plain):
            assert either.messages == []
            assert {key: either.chosen(key) for key in chosen_plainly} == chosen_plainly
        assert (page.chosen("sort"), page.chosen("view")) == (name, name)
        assert [page.cells(selector) for selector in selectors] == shown_plainly
        for select in page.page.locator("select").all():
            assert select.evaluate("one => one.selectedIndex") >= 0
        page.close()
    plain.page.keyboard.press("ArrowDown")
    assert plain.chosen("cluster") == 0


def test_an_unknown_filter_hides_no_run(plain_page: Path, opened: Open) -> None:
    page = opened(plain_page, "#network=77")
    for fragment in ("", "#prompt=-1", "#network=1e0", "#prompt=0.5", "#order=none"):
        if fragment:
            page.evaluate("fragment => { location.hash = fragment; }", fragment)
            page.wait_for_frames()
        assert page.page.locator("#run-count").inner_text() == "8 runs"


def test_no_copied_text_is_a_formula(make_page: MakePage, opened: Open) -> None:
    page = opened(make_page(Walk(places=9, rename=formula)))
    copied = [
        row for box in ("#cluster-controls", "#strips-controls", "#groups-box") for row in page.copied(box)
    ]
    copied += page.numbers("Absorption")
    cells = [cell for row in copied for cell in row.values()]
    texts = [cell for cell in cells if not re.fullmatch(r"-?[\d.]+(?:e-?\d+)?|", cell)]
    assert len(texts) > 30
    assert [text for text in texts if re.match(r"[=+\-@\"＝＋－＠\s]", text)] == []
    guarded = {text[1] for text in texts if text.startswith("'")}
    assert guarded >= set('=+-@"')
    # Without the apostrophe, which a spreadsheet takes away, it is the text.
    assert any(re.fullmatch(r"'=HYPERLINK\(1\) place \d seen from \d", text) for text in texts)


def test_copied_numbers_stay_numbers(plain_page: Path, opened: Open) -> None:
    """A negative one begins with a dash like a formula."""
    page = opened(plain_page)
    page.evaluate("() => { report.page.sweep.epsilon[1].ari_stored = -0.25; }")
    assert page.copied("[data-sweep=epsilon]")[1]["ARI stored"] == "-0.25"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("BLIP 2; rm -rf ~", "my walks; $(date) 'a'.sqlite"),
        ("-model", "-walks.sqlite"),
        ('it\'s "quoted" `here`', "walks & more.sqlite"),
    ],
)
def test_commands_on_the_page_can_be_pasted(
    tmp_path: Path, model: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = make_walks(tmp_path, Walk(runs=3, steps=20, places=2, model=model)).rename(tmp_path / name)
    with open_database(database).session() as session:
        clustering = find_clustering(session)
    page = tmp_path / "-my page.html"
    run_command("report-clustering", f"--db={database}", "-q", f"--output={page}", "--map-rows", "50")
    commands = re.findall(r"<code>(panic-tda .*?)</code>", page.read_text(encoding="utf-8"))
    again, this_page = (shlex.split(unescape(command))[1:] for command in commands)
    answer = CliRunner().invoke(main, [again[0], "-q", *again[1:]])
    assert answer.exit_code == 0, answer.output
    with open_database(database).session() as session:
        remade = find_clustering(session)
    assert remade.id != clustering.id
    assert remade.record.min_cluster_size == clustering.record.min_cluster_size
    monkeypatch.chdir(tmp_path)
    before = page.stat().st_mtime_ns
    run_command(*this_page, "--force", "-q")
    assert page.stat().st_mtime_ns > before
    recut = read_json("recut-clustering", f"--db={database}", "--epsilon", "0.123456789", "-q")["results"][0][
        "id"
    ]
    run_command("report-clustering", recut, f"--db={database}", "-q", "-o", page, "--force")
    (command, _) = re.findall(r"<code>(panic-tda .*?)</code>", page.read_text(encoding="utf-8"))
    run_command(*shlex.split(unescape(command))[1:], "-q")
    with open_database(database).session() as session:
        assert find_clustering(session).record.cluster_selection_epsilon == 0.123456789


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--min-cluster-size", "200"), "all 320 rows are outliers."),
        (("--min-cluster-size", "5", "--epsilon", "2", "--allow-single-cluster"), "The root cluster"),
        (("--min-cluster-size", "40", "--min-samples", "40", "--epsilon", "0"), "of 320 rows"),
    ],
)
def test_warnings_come_first_in_the_headline(tmp_path: Path, options: tuple[str, ...], text: str) -> None:
    noise = 3.0 if "200" in options or "40" in options else 0.1
    database = make_walks(tmp_path, Walk(noise=noise, options=(*options, "-q")))
    run_command("report-clustering", "--db", database, "-o", tmp_path / "page.html", "-q")
    (headline,) = re.findall("<h1>(.*?)</h1>", (tmp_path / "page.html").read_text(encoding="utf-8"))
    with open_database(database).session() as session:
        doubts = find_doubts(find_clustering(session).record)
    assert headline.startswith(f"This clustering is doubtful. {doubts[0].sentence} ")
    assert text in headline


def test_a_sound_clustering_has_no_warning(plain_page: Path) -> None:
    (headline,) = re.findall("<h1>(.*?)</h1>", plain_page.read_text(encoding="utf-8"))
    assert headline.startswith("Of 320 texts of 8 runs, ")
