"""Sources of documents: the same texts from every kind of file, and errors that name the place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from tests.input.samples import in_memory, texts
from trellax.config import ConfigError
from trellax.runtime.input import (
    ArrayRecordDocuments,
    AtHeadings,
    DocumentRange,
    InputError,
    JsonlDocuments,
    PackageText,
    ParagraphGroups,
    ParquetDocuments,
    TextFiles,
)

TEXTS = [t or "empty" for t in texts(23)] + ["Ünïcödé – 文"]


def write_text(file: Path, documents: list[str]) -> None:
    file.write_text("\n\n".join(documents), encoding="utf-8")


def write_jsonl(file: Path, documents: list[str]) -> None:
    file.write_text("".join(json.dumps({"id": 1, "text": d}) + "\n\n" for d in documents))


def write_parquet(file: Path, documents: list[str]) -> None:
    table = pa.table({"id": list(range(len(documents))), "text": documents})
    pq.write_table(table, file, row_group_size=5)


def write_array_record(file: Path, documents: list[str]) -> None:
    writer = ArrayRecordWriter(str(file), "group_size:1")
    for document in documents:
        writer.write(document.encode())
    writer.close()


def text_cfg() -> Any:
    return TextFiles.default_config().set(split=ParagraphGroups.default_config())


KINDS: dict[str, tuple[Callable[[Path, list[str]], None], Callable[[], Any]]] = {
    ".txt": (write_text, lambda: text_cfg().set(split=ParagraphGroups.Config(min_characters=1))),
    ".jsonl": (write_jsonl, JsonlDocuments.default_config),
    ".parquet": (write_parquet, ParquetDocuments.default_config),
    ".array_record": (write_array_record, ArrayRecordDocuments.default_config),
}


@pytest.mark.parametrize("suffix", KINDS)
def test_every_kind_of_file_gives_the_same_documents(suffix: str, tmp_path: Path) -> None:
    write, default_config = KINDS[suffix]
    write(tmp_path / f"b{suffix}", TEXTS[10:])
    write(tmp_path / f"a{suffix}", TEXTS[:10])
    for paths in (
        [str(tmp_path)],
        [f"{tmp_path}/*{suffix}"],
        [f"{tmp_path}/a{suffix}", f"{tmp_path}/b{suffix}"],
    ):
        source = default_config().set(paths=paths).instantiate()
        assert list(source) == TEXTS
        assert [source[i] for i in reversed(range(len(source)))] == TEXTS[::-1]
        for outside in (-1, len(TEXTS)):
            with pytest.raises(IndexError):
                source[outside]


@pytest.mark.parametrize("suffix", KINDS)
def test_a_fingerprint_follows_the_content_and_not_the_name(suffix: str, tmp_path: Path) -> None:
    write, default_config = KINDS[suffix]
    prints = []
    for name, documents in (("a", TEXTS[:5]), ("b", TEXTS[:5]), ("c", TEXTS[:6])):
        write(tmp_path / f"{name}{suffix}", documents)
        source = default_config().set(paths=[f"{tmp_path}/{name}{suffix}"]).instantiate()
        prints.append(source.fingerprint())
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("suffix", KINDS)
def test_missing_and_empty_places_are_named(suffix: str, tmp_path: Path) -> None:
    cfg = KINDS[suffix][1]()
    for paths, message in (
        ([f"{tmp_path}/none{suffix}"], f"none{suffix}: no such file or folder"),
        ([f"{tmp_path}/*{suffix}"], "no file matches"),
        ([str(tmp_path)], rf"the folder holds no \*\{suffix} file"),
        ([], "No files are given"),
    ):
        with pytest.raises(InputError, match=message):
            cfg.set(paths=paths).instantiate()


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_a_file_without_documents_is_named(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"a{suffix}").write_bytes(b"\n \n")
    source = KINDS[suffix][1]().set(paths=[str(tmp_path)]).instantiate()
    with pytest.raises(InputError, match=f"a{suffix}: no "):
        len(source)


@pytest.mark.parametrize("suffix", [".parquet", ".array_record"])
def test_a_damaged_file_is_named(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"a{suffix}").write_bytes(b"this is not such a file" * 10)
    source = KINDS[suffix][1]().set(paths=[str(tmp_path)]).instantiate()
    with pytest.raises(InputError, match=f"a{suffix}: not a"):
        len(source)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", r"a\.jsonl:3: not a JSON value"),
        ('{"body": 1, "id": 2}', r"a\.jsonl:3: no field 'text'; set `field`. It holds: body, id"),
        ('["text"]', r"a\.jsonl:3: no field 'text'"),
        ('{"text": 7}', r"a\.jsonl:3: field 'text' holds 7 \(int\), not text"),
    ],
)
def test_bad_json_lines_are_named(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"text": "fine"}}\n\n{line}\n')
    source = JsonlDocuments.default_config().set(paths=[str(tmp_path)]).instantiate()
    assert source[0] == "fine"
    with pytest.raises(InputError, match=message):
        source[1]


def test_bad_parquet_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["fine", None], "id": [1, 2]}), tmp_path / "a.parquet")
    cfg = ParquetDocuments.default_config().set(paths=[str(tmp_path)])
    with pytest.raises(InputError, match=r"a\.parquet: row 1, column 'text' holds None"):
        cfg.instantiate()[1]
    with pytest.raises(InputError, match=r"no column 'body'; set `column`. It has: text, id"):
        len(cfg.set(column="body").instantiate())


def test_array_records_may_be_json(tmp_path: Path) -> None:
    write_array_record(tmp_path / "a.array_record", ['{"text": "fine"}', "bad"])
    cfg = ArrayRecordDocuments.default_config().set(paths=[str(tmp_path)], field="text")
    source = cfg.instantiate()
    assert source[0] == "fine"
    with pytest.raises(InputError, match=r"a\.array_record: record 1: not a JSON value"):
        source[1]


def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\ntwo \xe9\n")
    with pytest.raises(InputError, match=r"a\.txt:2: byte 0xe9 is not UTF-8"):
        len(text_cfg().set(paths=[str(tmp_path)]).instantiate())


def test_line_ends_of_other_systems_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r")
    assert text_cfg().set(paths=[str(tmp_path)]).instantiate()[0] == "one\ntwo"


def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "some_text").mkdir()
    (folder / "some_text" / "book.txt").write_text("CHAPTER 1\na\nCHAPTER 2\nb")
    monkeypatch.syspath_prepend(folder)


def test_text_comes_from_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, monkeypatch)
    cfg = PackageText.default_config().set(package="some_text", resources=["book.txt"])
    cfg.set(split=AtHeadings.default_config().set(heading="^CHAPTER"))
    assert list(cfg.instantiate()) == ["CHAPTER 1\na", "CHAPTER 2\nb"]
    with pytest.raises(InputError, match=r"'some_text' holds no file 'film\.txt'"):
        len(cfg.clone(resources=["film.txt"]).instantiate())
    with pytest.raises(InputError, match="'no_such_text' is not installed"):
        len(cfg.clone(package="no_such_text").instantiate())


@pytest.mark.parametrize("count", [2, 3, 10, 101])
@pytest.mark.parametrize("cut", [0.01, 0.5, 0.95, 0.999])
def test_ranges_that_meet_share_and_lose_nothing(count: int, cut: float) -> None:
    documents = [str(i) for i in range(count)]
    whole = DocumentRange.default_config().set(documents=in_memory(documents))
    left, right = whole.clone(stop=cut).instantiate(), whole.clone(start=cut).instantiate()
    assert [*left, *right] == documents
    assert len(left) and len(right)
    assert left.fingerprint() != right.fingerprint()


def test_what_cannot_be_divided_is_refused() -> None:
    whole = DocumentRange.default_config().set(documents=in_memory(["only"]))
    with pytest.raises(InputError, match="1 documents cannot be divided"):
        whole.clone(stop=0.5).instantiate()
    with pytest.raises(ConfigError, match="0 <= start < stop <= 1"):
        whole.clone(start=0.5, stop=0.5).instantiate()
