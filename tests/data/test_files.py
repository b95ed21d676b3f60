"""Every kind of bad input raises one sentence that says what, where, and what to do, before
training starts."""

import bz2
import gzip
import json
import lzma
import os
import pickle

import pyarrow
import pyarrow.parquet
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from seekjax.config import DataConfig
from seekjax.data import DataError, load_corpus
from tests.fixtures import write_rows

TEXTS = [f"document {index}: {'na' * index}" for index in range(60)]


def write_jsonl(path, texts=TEXTS, key="text"):
    return write_rows(path, [{key: text} for text in texts])


def write_parquet(path, texts=TEXTS, key="text"):
    pyarrow.parquet.write_table(
        pyarrow.table({key: texts, "id": list(range(len(texts)))}), path, row_group_size=7
    )
    return path


def write_arrayrecord(path, texts=TEXTS):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for text in texts:
        writer.write(text if isinstance(text, bytes) else text.encode())
    writer.close()
    return path


def read(*paths, **settings):
    corpus = load_corpus(DataConfig(sources=tuple(map(str, paths)), **settings))
    return [
        {side: list(getattr(source, side)) for side in ("train", "held_out")}
        for source in corpus.sources
    ]


@pytest.mark.parametrize(
    ("write", "suffix"),
    [
        (write_jsonl, "jsonl"),
        (write_parquet, "parquet"),
        (write_arrayrecord, "arrayrecord"),
        (write_arrayrecord, "array_record"),
    ],
)
def test_every_format_gives_back_its_documents(tmp_path, write, suffix):
    [sides] = read(write(tmp_path / f"a.{suffix}"), held_out=0.2)
    assert sorted(sides["train"] + sides["held_out"]) == sorted(TEXTS)
    assert 3 < len(sides["held_out"]) < 25


def test_a_folder_mixes_formats_and_survives_pickling(tmp_path):
    (tmp_path / "deep").mkdir()
    write_jsonl(tmp_path / "deep" / "a.jsonl", TEXTS[:20])
    write_parquet(tmp_path / "b.parquet", TEXTS[20:40])
    write_arrayrecord(
        tmp_path / "c.array_record", [json.dumps({"text": text}) for text in TEXTS[40:59]]
    )
    (tmp_path / "d.txt").write_text(TEXTS[59])
    (tmp_path / "README.md").write_text("not data")
    corpus = load_corpus(DataConfig(sources=(str(tmp_path),), held_out=0.0))
    [source] = pickle.loads(pickle.dumps(corpus)).sources
    assert sorted(source.train) == sorted(TEXTS)
    assert len(source.held_out) == 0
    assert [file["name"].rsplit("/", 1)[-1] for file in source.files] == [
        "b.parquet",
        "c.array_record",
        "d.txt",
        "a.jsonl",
    ]


def test_a_long_text_file_is_cut_at_line_starts(tmp_path):
    text = "".join(f"line {index} ünï\n" for index in range(10_000))
    (tmp_path / "book.txt").write_text(text)
    corpus = load_corpus(DataConfig(sources=(str(tmp_path / "book.txt"),), held_out=0.0))
    sections = list(corpus.sources[0].train)
    assert "".join(sections) == text
    assert 8 < len(sections) < 12
    assert all(section.startswith("line ") for section in sections)


def gz(path):
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return packed


def test_compressed_shards_and_any_case_are_read(tmp_path):
    gz(write_jsonl(tmp_path / "a.jsonl", TEXTS[:20]))
    (tmp_path / "b.jsonl.XZ").write_bytes(
        lzma.compress(write_jsonl(tmp_path / "b", TEXTS[20:40]).read_bytes())
    )
    (tmp_path / "c.txt.bz2").write_bytes(bz2.compress(TEXTS[40].encode()))
    write_jsonl(tmp_path / "D.JSONL", TEXTS[41:])
    (tmp_path / "README.md").write_text("not data")
    corpus = load_corpus(DataConfig(sources=(str(tmp_path),), held_out=0.0))
    [source] = pickle.loads(pickle.dumps(corpus)).sources
    assert sorted(source.train) == sorted(TEXTS)
    assert corpus.left_out() == [f"{tmp_path}: left out 2 files of unknown format (README.md, b)"]
    assert corpus.manifest()["sources"][0]["left_out"] == corpus.left_out()


def test_links_are_followed_once(tmp_path):
    (tmp_path / "far").mkdir()
    write_jsonl(tmp_path / "far" / "a.jsonl", TEXTS[:30])
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data" / "b.jsonl", TEXTS[30:])
    (tmp_path / "data" / "again.jsonl").symlink_to(tmp_path / "data" / "b.jsonl")
    (tmp_path / "data" / "deep").symlink_to(tmp_path / "far")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    corpus = load_corpus(DataConfig(sources=(str(tmp_path / "data"),), held_out=0.0))
    assert sorted(corpus.sources[0].train) == sorted(TEXTS)
    assert "left out 1 file under another name" in corpus.left_out()[0]


def test_empty_documents_and_files_are_left_out_and_counted(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", ["one", "", "two", ""])
    (tmp_path / "b.txt").write_text("")
    (tmp_path / "c.txt").write_text("\ufeff")
    corpus = load_corpus(DataConfig(sources=(str(tmp_path),), held_out=0.0))
    assert list(corpus.sources[0].train) == ["one", "two"]
    assert corpus.left_out() == [
        f"{tmp_path}: left out 2 files without text ({tmp_path}/b.txt, {tmp_path}/c.txt)",
        f"{tmp_path}: left out empty documents, 3 of them",
    ]
    assert "nothing is held out" in corpus.notes()[-1]


def test_a_byte_order_mark_and_categories_are_read(tmp_path):
    mark = "\ufeff"
    (tmp_path / "a.jsonl").write_text(mark + '{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "b.txt").write_text(mark + "three")
    categories = pyarrow.array(["four", "five", "four"]).dictionary_encode()
    write_parquet(tmp_path / "c.parquet", categories)
    corpus = load_corpus(DataConfig(sources=(str(tmp_path),), held_out=0.0))
    assert list(corpus.sources[0].train) == ["one", "two", "three", "four", "five", "four"]


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_jsonl, "a.jsonl"),
        (lambda path: gz(write_jsonl(path)), "a.jsonl"),
        (write_parquet, "a.parquet"),
        (write_arrayrecord, "a.arrayrecord"),
    ],
)
def test_a_file_that_changes_after_it_was_listed_is_refused(tmp_path, write, name):
    path = write(tmp_path / name)
    corpus = load_corpus(DataConfig(sources=(str(path),), held_out=0.0))
    os.utime(path)
    copy = pickle.loads(pickle.dumps(corpus)).sources[0].train  # as a worker process has it
    assert copy[3] == TEXTS[3], "a file that was only touched is the same"
    path.write_bytes(path.read_bytes()[:-9])
    copy = pickle.loads(pickle.dumps(corpus)).sources[0].train
    with pytest.raises(DataError, match="was changed while this run reads it"):
        copy[3]
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        pickle.loads(pickle.dumps(corpus)).sources[0].train[3]


def truncate(path, keep):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    return path


def written(path, content):
    path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)
    return path


def flipped(path):
    data = bytearray(path.read_bytes())
    data[100:150] = b"\xff" * 50
    return written(path, bytes(data))


def folder(path):
    path.mkdir()
    return path


BAD = {
    "a missing path": (lambda at: at / "nowhere.txt", "nowhere.txt does not exist"),
    "an unknown suffix": (
        lambda at: written(at / "a.csv", "x"),
        r"a.csv has an unknown format; .*\.jsonl",
    ),
    "an empty folder": (lambda at: folder(at / "empty"), "empty holds no file of a known format"),
    "an empty text": (lambda at: written(at / "a.txt", ""), "a.txt is empty"),
    "an empty jsonl": (lambda at: written(at / "a.jsonl", "\n\n"), "a.jsonl is empty"),
    "an empty parquet": (
        lambda at: write_parquet(at / "a.parquet", pyarrow.array([], pyarrow.string())),
        "a.parquet is empty",
    ),
    "an empty array record": (
        lambda at: written(at / "a.array_record", b""),
        "a.array_record is not a readable ArrayRecord",
    ),
    "no records": (
        lambda at: write_arrayrecord(at / "a.array_record", []),
        "a.array_record is (empty|not a readable)",
    ),
    "a truncated jsonl": (
        lambda at: truncate(write_jsonl(at / "a.jsonl"), 0.99),
        "a.jsonl line 60 is not valid JSON .* truncated",
    ),
    "corrupt json": (
        lambda at: written(at / "a.jsonl", '{"text": "x"}\n\n{"text": x}\n'),
        "a.jsonl line 3 is not valid JSON",
    ),
    "a missing key": (
        lambda at: write_jsonl(at / "a.jsonl", key="body"),
        "line 1 has no key 'text'; set data.text_field to one of: body",
    ),
    "json that is no object": (
        lambda at: written(at / "a.jsonl", "[1]\n"),
        "line 1 is a JSON list",
    ),
    "half a character": (
        lambda at: written(at / "a.jsonl", '{"text": "ok"}\n{"text": "\\ud83d"}\n'),
        r"a.jsonl line 2 holds half a character \(.ud83d\)",
    ),
    "a number of thousands of digits": (
        lambda at: written(at / "a.jsonl", '{"text": "x", "id": ' + "1" * 5000 + "}"),
        "a.jsonl line 1 is JSON that cannot be read",
    ),
    "a thousand brackets": (
        lambda at: written(at / "a.jsonl", "[" * 9000),
        "a.jsonl line 1 is JSON that cannot be read",
    ),
    "only empty documents": (
        lambda at: write_jsonl(at / "a.jsonl", ["", ""]),
        "a.jsonl is empty: it has no document with text",
    ),
    "an archive in a folder": (
        lambda at: written(write_jsonl(at / "a.jsonl").with_name("b.tar.gz"), "x").parent,
        r"b.tar.gz is compressed in a way that is not read; unpack it",
    ),
    "a link to nothing": (
        lambda at: (at / "a.jsonl").symlink_to(at / "gone") or at,
        "a.jsonl cannot be read .No such file",
    ),
    "a truncated gzip": (
        lambda at: truncate(gz(write_jsonl(at / "a.jsonl")), 0.9),
        r"a.jsonl.gz cannot be unpacked \(.*\); it may be truncated",
    ),
    "zstandard": (
        lambda at: written(at / "a.jsonl.zst", "x"),
        "a.jsonl.zst (needs the package zstandard|cannot be unpacked)",
    ),
    "text that is no string": (
        lambda at: written(at / "a.jsonl", '{"text": 3}\n'),
        "line 1 has a int under 'text'",
    ),
    "another encoding": (
        lambda at: written(at / "a.txt", "naïve".encode("latin-1")),
        r"a.txt is not UTF-8 text \(byte 2\)",
    ),
    "another encoding in jsonl": (
        lambda at: written(at / "a.jsonl", '{"text": "naïve"}'.encode("latin-1")),
        "a.jsonl line 1 is not UTF-8",
    ),
    "another encoding in records": (
        lambda at: write_arrayrecord(at / "a.array_record", [b"ok", b"\xff"]),
        "record 1 is not UTF-8",
    ),
    "a missing column": (
        lambda at: write_parquet(at / "a.parquet", key="body"),
        "no column 'text'; set data.text_field to one of: body, id",
    ),
    "a column of numbers": (
        lambda at: write_parquet(at / "a.parquet", [1, 2]),
        "column 'text' holds int64",
    ),
    "a missing value": (
        lambda at: write_parquet(at / "a.parquet", ["x", None]),
        "row 1 has no text",
    ),
    "a truncated parquet": (
        lambda at: truncate(write_parquet(at / "a.parquet"), 0.9),
        "a.parquet is not a readable Parquet file",
    ),
    "a corrupt array record": (
        lambda at: flipped(write_arrayrecord(at / "a.array_record")),
        "not a readable ArrayRecord file .*Corrupted",
    ),
    "a truncated array record": (
        lambda at: truncate(write_arrayrecord(at / "a.array_record"), 0.6),
        "not a readable ArrayRecord file",
    ),
    "a record without the key": (
        lambda at: write_arrayrecord(at / "a.array_record", ['{"body": "x"}']),
        "record 0 has no key 'text'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_sentence(tmp_path, case):
    make, message = BAD[case]
    with pytest.raises(DataError, match=message) as raised:
        load_corpus(DataConfig(sources=(str(make(tmp_path)),)))
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(".")


@pytest.mark.parametrize(
    ("write", "name", "extra"),
    [(write_parquet, "a.parquet", "parquet"), (write_arrayrecord, "a.arrayrecord", "arrayrecord")],
)
def test_a_missing_extra_is_named(tmp_path, monkeypatch, write, name, extra):
    path = write(tmp_path / name)
    monkeypatch.setattr(
        "importlib.import_module", lambda module: (_ for _ in ()).throw(ImportError(module))
    )
    with pytest.raises(DataError, match=rf"pip install 'seekjax\[{extra}\]'"):
        load_corpus(DataConfig(sources=(str(path),)))
