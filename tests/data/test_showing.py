"""The page: all in one file, no name is markup, and what it counts is what is there."""

import base64
import re
import shutil
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rayreid.data import showing
from rayreid.data.showing import show
from rayreid.data.sources import SyntheticSettings
from tests.data.folders import crop_file, market, noise

STRANGE = "<script>alert('1')&日本 Привет\u202e"


class Page(HTMLParser):
    """A page as a browser reads it: its tags, its text, and its tables as rows of text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text, self._open, self._cell = "", "", False
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = "" if tag == "style" else self._open
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._open == "style":
            return
        self.text += data
        if self._cell:
            self.rows[-1][-1] += data


def shown(folder: Path, *sources: str, **options: Any) -> tuple[Page, str]:
    show(sources, folder, **options)
    html = (folder / "index.html").read_text(encoding="utf-8")
    return Page(html), html


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    source = f"market1501={market(tmp_path / 'mini')}"
    page, html = shown(tmp_path / "page", source, source)
    assert sorted(path.name for path in (tmp_path / "page").iterdir()) == [
        "index.html",
        "sheet.png",
    ]
    assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in page.tags}
    addresses = [value for _, attributes in page.tags for name, value in attributes.items()
                 if name in ("src", "href", "action", "xlink:href", "style") and value]  # fmt: skip
    assert [
        a for a in addresses if not a.startswith(("data:image/jpeg;base64,", "background:rgb("))
    ] == []
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'" in html
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 2
    for each in pictures:
        data = base64.b64decode((each["src"] or "").partition(",")[2])
        assert list(map(str, Image.open(BytesIO(data)).size)) == [each["width"], each["height"]]
    assert {"viewport"} <= {
        attributes.get("name") for tag, attributes in page.tags if tag == "meta"
    }
    with Image.open(tmp_path / "page" / "sheet.png") as sheet:
        assert sheet.format == "PNG"


def test_a_name_is_never_markup(tmp_path: Path) -> None:
    root = market(tmp_path / STRANGE)
    crop_file(root, "train", 1, 1).write_bytes(b"broken")
    shutil.copy(crop_file(root, "train", 1, 2), crop_file(root, "train", 2, 1))
    page, html = shown(tmp_path / "page", f"market1501={root}")
    assert "<script" not in html
    name = STRANGE.replace("\u202e", "\\u202e")
    assert page.text.count(name) >= 5, (
        "as a title, in its source, of a broken crop and of two copies"
    )
    assert "\u202e" not in html


def test_what_is_counted(tmp_path: Path) -> None:
    page, _ = shown(tmp_path / "page", f"market1501={market(tmp_path / 'mini')}")
    rows = {row[0]: row[1:] for row in page.rows[::-1]}
    assert rows["mini"][:3] == ["13", "5", "2"]
    assert rows["train"] == ["5", "3", "0", "2", "0"]
    assert rows["query"] == ["3", "2", "0", "2", "0"]
    assert rows["gallery"] == ["5", "2", "2", "2", "0"]
    assert rows["c1"] == ["3", "1", "2", "4"]
    assert rows["c2"] == ["2", "2", "3", "4"]
    assert "In one camera only: 2 of 5 people3 (train), 6 (test)" in page.text
    assert "No two crops have the same bytes." in page.text
    assert "Broken" in page.text
    assert "Broken crops:" not in page.text
    assert "10 sizes, most often" in page.text


def test_looks_are_those_of_the_pixels(tmp_path: Path) -> None:
    root = market(tmp_path / "mini")
    for file in root.rglob("*.jpg"):
        Image.new("RGB", (64, 128), (200, 100, 50)).save(file, quality=100)
    page, html = shown(tmp_path / "page", f"market1501={root}")
    (row,) = [row for row in page.rows if row[0] == "mini"]
    assert row[4:6] == ["64 x 128", "all"]
    red, green, blue = map(int, row[6].split(","))
    assert max(abs(red - 200), abs(green - 100), abs(blue - 50)) <= 2
    assert f"background:rgb({row[6].strip()})" in html
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    brightness, *spread = row[7].split()
    assert abs(int(brightness) - luma) <= 1
    assert spread == ["±", "0"]
    assert row[8:] == ["0 ± 0", "0 ± 0"]
    assert "One size: 64 x 128 (13)." in page.text


def test_copies_and_broken_crops_are_named(tmp_path: Path) -> None:
    root = market(tmp_path / "mini")
    files = {
        key: crop_file(root, *key)
        for key in (
            ("train", 1, 1),
            ("train", 1, 2),
            ("train", 2, 1),
            ("gallery", 5, 2),
            ("gallery", 5, 1),
        )
    }
    shutil.copy(files["train", 1, 1], files["train", 2, 1])
    shutil.copy(files["gallery", 5, 2], files["gallery", 5, 1])
    files["train", 1, 2].write_bytes(b"")
    page, _ = shown(tmp_path / "page", f"market1501={root}")
    assert (
        "Exact copies: 2 groups of crops with the same bytes, 1 of them with different identities"
        in page.text
    )
    found = re.search(
        r"different identitiesid 1, c1, train: (\S+\.jpg)id 2, c1, train: (\S+\.jpg)", page.text
    )
    assert found is not None
    assert found.groups() == (str(files["train", 1, 1]), str(files["train", 2, 1]))
    assert "one identityid 5, c1, gallery" in page.text
    assert f"Broken crops: 1, passed over{files['train', 1, 2]}: it is empty" in page.text
    rows = {row[0]: row for row in page.rows[::-1]}
    assert rows["train"][-1] == "1"
    assert rows["mini"][5] == "12"


def test_labelling_mistakes_come_first(tmp_path: Path) -> None:
    root = market(tmp_path / "mini")
    shutil.copy(crop_file(root, "train", 1, 1), crop_file(root, "train", 1, 2))
    shutil.copy(crop_file(root, "gallery", 5, 1), crop_file(root, "gallery", 0, 1))
    page, _ = shown(tmp_path / "page", f"market1501={root}")
    mistake, harmless = page.text.index("different identitiesid"), page.text.index("one identityid")
    assert mistake < harmless


def test_only_a_sample_of_a_large_set_is_measured(tmp_path: Path) -> None:
    page, _ = shown(tmp_path / "page", f"market1501={market(tmp_path / 'mini')}", sample=4)
    (row,) = [row for row in page.rows if row[0] == "mini"]
    assert (row[1], row[5]) == ("13", "4")
    assert "Measured are the crops, evenly spread over a domain" in page.text


def test_lists_are_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = market(tmp_path / "mini")
    for file in (root / "bounding_box_train").iterdir():
        file.write_bytes(b"")
    for box in range(1, 5):
        shutil.copy(crop_file(root, "gallery", 5, 1), crop_file(root, "gallery", 5, 1, box))
    monkeypatch.setattr(showing, "_LISTED", 1)
    page, _ = shown(tmp_path / "page", f"market1501={root}")
    for rest in ("and 4 more crops", "and 1 more cameras", "and 1 more people"):
        assert rest in page.text


def test_drawn_and_unreadable_domains_have_a_section_too(tmp_path: Path) -> None:
    root = market(tmp_path / "mini")
    for file in root.rglob("*.jpg"):
        file.write_bytes(b"nothing")
    drawn = SyntheticSettings(train_people=3, test_people=2, crops=2)
    sources = (f"market1501={root}", "synthetic=snow")
    page, _ = shown(tmp_path / "page", *sources, people=1, sample=10, synthetic=drawn)
    rows = {row[0]: row for row in page.rows if len(row) == 10}
    assert rows["mini"][4:] == ["none", "0", "", "", "", ""]
    assert rows["snow"][1:6] == ["40", "5", "4", "128 x 256", "10"]


def test_progress_is_told_of_each_source(tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []
    done: list[int] = []
    source = f"market1501={market(tmp_path / 'mini')}"

    def progress(name: str, crops: int) -> object:
        told.append((name, crops))
        return done.append

    show([source], tmp_path / "page", progress=progress)  # type: ignore[arg-type]
    assert told == [(source, 13)]
    assert sum(done) == 13


def test_mistakes_are_told_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(noise(0).tobytes())
    source = f"market1501={tmp_path / 'absent'}"
    with pytest.raises(ValueError, match="is a file, where a folder for the page was expected"):
        show([source], tmp_path / "file")
    with pytest.raises(ValueError, match="more than 40,000,000"):
        show([source] * 9, tmp_path / "page", people=100, cameras=20, height=512)
    with pytest.raises(FileNotFoundError, match="no data set at"):
        show([source], tmp_path / "page")
    assert not (tmp_path / "page").exists()
    assert np.array_equal(
        np.frombuffer((tmp_path / "file").read_bytes(), np.uint8), noise(0).ravel()
    )
