import gzip
import http.server
import io
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from webdataset.writer import TarWriter

from clients.bulk.items import Item, Span
from clients.bulk.job import BulkError, Settings
from clients.bulk.reading import Reading, read_items
from clients.bulk.tfrecord import records
from tests import bulk_inputs

ALL: Span = (0, None)


def settings(kind: str, column: str = "", key_column: str = "") -> Settings:
    return Settings("vit22b", 1, "space-one", 8, "float32", "parquet", 5, kind, column, key_column)


def read(path: Path, kind: str, *columns: str, span: Span = ALL, reading: Reading | None = None) -> list[Item]:
    return list(read_items(str(path), span, settings(kind, *columns), reading or Reading()))


@pytest.fixture
def photo_server(tmp_path: Path) -> Iterator[str]:
    """A web server with tmp_path/red.png, and nothing else."""
    (tmp_path / "red.png").write_bytes(b"red")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, directory=str(tmp_path), **keywords)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("span", [(0, 3), (3, 8), (4, 5), (7, None), (9, 12)])
def test_a_span_of_a_parquet_file_crosses_its_row_groups(span: Span, tmp_path: Path):
    given = bulk_inputs.images(12)
    bulk_inputs.parquet_bytes(tmp_path, given)
    found = read(tmp_path / "table.parquet", "parquet", "image", "id", span=span)
    assert [item.index for item in found] == list(range(12))[slice(*span)]
    assert [(item.name, item.image) for item in found] == list(given.items())[slice(*span)]


def test_rows_without_an_image_say_so(tmp_path: Path):
    values = pa.array([b"one", None, b""], pa.binary())
    pq.write_table(pa.table({"image": values}), tmp_path / "table.parquet")
    found = read(tmp_path / "table.parquet", "parquet", "image")
    assert [item.reason for item in found] == ["", *["the row has nothing in image"] * 2]
    assert found[0].name == f"{tmp_path}/table.parquet, row 0"


def test_names_that_are_bytes_are_text_and_a_row_without_one_goes_by_its_place(tmp_path: Path):
    names = pa.array(["größe".encode(), b"\xff", None, b""], pa.binary())
    uris = [str(tmp_path / "a.png"), str(tmp_path / "b.png"), "", str(tmp_path / "c.png")]
    pq.write_table(pa.table({"uri": uris, "id": names, "number": [7, None, None, 8]}), tmp_path / "table.parquet")
    found = read(tmp_path / "table.parquet", "parquet", "uri", "id")
    assert [item.name for item in found] == ["größe", r"\xff", f"{tmp_path}/table.parquet, row 2", uris[3]]
    found = read(tmp_path / "table.parquet", "parquet", "uri", "number")
    assert [item.name for item in found] == ["7", uris[1], f"{tmp_path}/table.parquet, row 2", "8"]


def test_files_that_cannot_be_read_say_why(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.png").touch()
    (tmp_path / "[1].png").write_bytes(b"one")
    uris = [str(tmp_path / name) for name in ("[1].png", "missing.png", "folder", "empty.png")]
    pq.write_table(pa.table({"path": uris}), tmp_path / "table.parquet")
    found = read(tmp_path / "table.parquet", "parquet", "path")
    assert [item.name for item in found] == uris
    assert found[0].image == b"one"
    assert [item.reason for item in found] == [
        "",
        "cannot be read: there is no such file",
        "cannot be read: Is a directory",
        "the file is empty",
    ]


@pytest.mark.parametrize("uri", ["a\0.png", "ftp://host/a.png"])
def test_a_name_that_no_file_can_have_costs_its_row_alone(uri: str, tmp_path: Path):
    (tmp_path / "one.png").write_bytes(b"one")
    pq.write_table(pa.table({"path": [uri, "one.png"]}), tmp_path / "table.parquet")
    bad, one = read(tmp_path / "table.parquet", "parquet", "path")
    assert bad.reason.startswith("cannot be read: ")
    assert one.image == b"one"


def test_a_store_without_its_module_is_no_fault_of_an_image(tmp_path: Path):
    pq.write_table(pa.table({"path": ["s3://bucket/a.png"]}), tmp_path / "table.parquet")
    # Which of the two Beam misses first depends on whether a pipeline has run in this process.
    with pytest.raises(ValueError, match=r"options|Missing boto3 requirement; install"):
        read(tmp_path / "table.parquet", "parquet", "path")


def test_a_file_system_that_fails_is_no_fault_of_an_image(tmp_path: Path):
    uri = f"/proc/{os.getpid()}/mem"  # there, but its first bytes cannot be read
    pq.write_table(pa.table({"path": [uri]}), tmp_path / "table.parquet")
    with pytest.raises(OSError, match="Input/output error"):
        read(tmp_path / "table.parquet", "parquet", "path")


def test_addresses_are_fetched_where_they_are_allowed(photo_server: str, tmp_path: Path):
    uris = [f"{photo_server}/red.png", f"{photo_server}/missing.png", "http://127.0.0.1:1/away.png"]
    pq.write_table(pa.table({"url": uris}), tmp_path / "table.parquet")
    one, missing, away = read(tmp_path / "table.parquet", "parquet", "url", reading=Reading(allow_urls=True))
    assert one.image == b"red"
    assert "404" in missing.reason
    assert "Connection refused" in away.reason
    with pytest.raises(BulkError, match="say --allow_urls"):
        read(tmp_path / "table.parquet", "parquet", "url")


def test_images_are_read_a_few_at_a_time_and_no_more_than_are_wanted(tmp_path: Path):
    given = bulk_inputs.images(40)
    bulk_inputs.parquet_uris(tmp_path, given)
    items = read_items(str(tmp_path / "table.parquet"), ALL, settings("parquet", "uri"), Reading(readers=2))
    assert next(items).image == given["000.png"]
    # Two readers are at most twice as many images ahead; what lies further back may go.
    for name in list(given)[10:]:
        (tmp_path / "photos" / name).unlink()
    found = list(items)
    assert sum(bool(item.image) for item in found) == 9
    assert len(found) == 39


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda content: content[:10000], "unexpected end of data"),
        (lambda content: content[:10240], "it has no end"),  # after the header of a file without content
        (lambda content: content[:10340], "it has no end"),
        (lambda content: content[:10240] + b"x" * 512 + content[10752:], "it has no end"),
        (lambda content: content + content, "it has no end"),
    ],
)
def test_the_rest_of_a_damaged_tar_is_left_out_and_named(harm: Callable, reason: str, tmp_path: Path):
    given = bulk_inputs.images(10)
    bulk_inputs.tars(tmp_path, given, files=1)
    path = tmp_path / "0.tar"
    path.write_bytes(harm(path.read_bytes()))
    *whole, rest = read(path, "webdataset")
    assert 1 <= len(whole) <= 10
    assert [item.image for item in whole] == list(given.values())[: len(whole)]
    assert rest.index == len(whole)
    assert rest.reason == f"the file is damaged, and what follows is left out: {reason}"


def test_a_tar_without_an_end_block_or_anything_else_is_damaged(tmp_path: Path):
    (tmp_path / "0.tar").touch()
    (only,) = read(tmp_path / "0.tar", "webdataset")
    assert (only.index, only.name) == (0, f"{tmp_path}/0.tar, from sample 0 on")
    assert only.reason == "the file is damaged, and what follows is left out: empty file"


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_a_link_in_a_tar_costs_its_sample_alone(kind: bytes, tmp_path: Path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name in ("a.png", "b.png", "c.png"):
            member = tarfile.TarInfo(name)
            if name == "b.png":
                member.type, member.linkname = kind, "a.png"
            else:
                member.size = 3
            tar.addfile(member, io.BytesIO(b"one"))
    one, link, other = read(tmp_path / "0.tar", "webdataset")
    assert (one.image, other.image) == (b"one", b"one")
    assert link.reason == "its png is a link to another file; expected the image itself"


def test_a_name_that_comes_twice_in_a_tar_costs_its_sample_alone(tmp_path: Path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name in ("a.png", "b.png", "b.png", "c.json", "c.png", "c.json"):
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"one"))
    one, twice, other = read(tmp_path / "0.tar", "webdataset")
    assert (one.image, other.image) == (b"one", b"one")
    assert twice.reason == "the sample has 2 images; expected one, it has png, png"


def test_a_whole_sample_before_the_damage_is_given(tmp_path: Path):
    given = bulk_inputs.images(2)
    bulk_inputs.tars(tmp_path, given, files=1)
    content = (tmp_path / "0.tar").read_bytes()
    with tarfile.open(tmp_path / "0.tar") as tar:
        second = tar.getmembers()[2]
    (tmp_path / "0.tar").write_bytes(content[: second.offset_data + 1])
    one, rest = read(tmp_path / "0.tar", "webdataset")
    assert one.image == given["000.png"]
    assert "the file is damaged" in rest.reason


def test_a_compressed_tar_is_read_too(tmp_path: Path):
    given = bulk_inputs.images(3)
    bulk_inputs.tars(tmp_path, given, files=1)
    (tmp_path / "0.tar.gz").write_bytes(gzip.compress((tmp_path / "0.tar").read_bytes()))
    assert [item.image for item in read(tmp_path / "0.tar.gz", "webdataset")] == list(given.values())


def test_a_sample_without_an_image_says_what_it_has(tmp_path: Path):
    with TarWriter(str(tmp_path / "0.tar")) as tar:
        tar.write({"__key__": "a", "cls": b"1"})
        tar.write({"__key__": "b", "jpg": b"1", "png": b"2"})
        tar.write({"__key__": "c", "jpg": b"3"})
    found = read(tmp_path / "0.tar", "webdataset")
    assert [item.image for item in found] == [b"", b"", b"3"]
    assert found[0].reason == "the sample has 0 images; expected one, it has cls"
    assert found[1].reason == "the sample has 2 images; expected one, it has jpg, png"


@pytest.mark.parametrize("form", ["records", "compressed records"])
def test_the_rest_of_a_damaged_record_file_is_left_out_and_named(form: str, tmp_path: Path):
    given = bulk_inputs.images(10)
    packed = form != "records"
    bulk_inputs.records(tmp_path, given, files=1, compression="GZIP" if packed else "")
    (path,) = tmp_path.glob("part*")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    *whole, rest = read(path, "tfrecord", "image/encoded")
    assert whole
    assert [item.image for item in whole] == list(given.values())[: len(whole)]
    assert rest.index == len(whole)
    assert "the file is damaged, and what follows is left out: it ends within" in rest.reason


def test_a_record_with_a_wrong_checksum_is_no_record(tmp_path: Path):
    bulk_inputs.records(tmp_path, bulk_inputs.images(3), files=1)
    (path,) = tmp_path.glob("part*")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with path.open("rb") as file, pytest.raises(ValueError, match="record 1 does not have the checksum"):
        list(records(file))
    (tmp_path / "other.tfrecord").write_bytes(gzip.compress(b"x" * 100))
    (only,) = read(tmp_path / "other.tfrecord", "tfrecord", "image/encoded")
    assert "the length of record 0 does not have the checksum" in only.reason


def test_a_record_without_the_feature_says_so_and_the_next_one_is_read(tmp_path: Path):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
        writer.write(b"\xff")
        example = tf.train.Example()
        example.features.feature["image"].int64_list.value.append(1)
        writer.write(example.SerializeToString())
        example.features.feature["image"].bytes_list.value.append(b"one")
        example.features.feature["name"].bytes_list.value.append("größe".encode())
        writer.write(example.SerializeToString())
    broken, number, one = read(tmp_path / "a.tfrecord", "tfrecord", "image", "name")
    assert broken.reason == "the record is no tf.train.Example"
    assert number.reason == "the feature image has 0 values in bytes; expected one"
    assert (one.name, one.image) == ("größe", b"one")
