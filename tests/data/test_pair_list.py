"""Lists of labelled pairs that are none."""

from pathlib import Path

import pytest

from rayreid.data.pair_list import HOLDS, read_pair_list

HEAD = "first,second,same\n"


@pytest.mark.parametrize(
    "content",
    [
        f"{HEAD}é.png,b.png,1\n".encode("latin-1"),
        f"né,{HEAD}x,a.png,b.png,1\n".encode("latin-1"),
        b"\x89PNG\r\n\x1a\n" + bytes(300),
    ],
    ids=["an image", "a column", "a picture"],
)
def test_a_list_that_is_no_text_is_told_by_name(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is no text in UTF-8") as told:
        read_pair_list(file)
    assert type(told.value) is ValueError
    assert str(told.value) == f"{file} is no text in UTF-8: pairs are {HOLDS}"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pairs.csv", (HEAD + "a.png,b.png,1\n").encode("utf-16")),
        ("pairs.csv", bytes(range(128)) * 9),
        ("pairs.csv", b""),
        ("pairs.parquet", bytes(range(256))),
    ],
    ids=["utf-16", "control characters", "nothing", "no parquet"],
)
def test_a_list_that_is_no_table_is_told_with_what_is_expected(
    name: str, content: bytes, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(ValueError, match="pairs") as told:
        read_pair_list(file)
    assert str(told.value).startswith(f"{file} ")
    assert str(told.value).endswith(f": pairs are {HOLDS}")
    assert "codec" not in str(told.value)
