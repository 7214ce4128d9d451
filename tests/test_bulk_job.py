import dataclasses
import json
from pathlib import Path

import pytest

from clients.bulk.job import JOB_FILE, Block, BulkError, Job, Settings, Source, begin, begun, blocks
from clients.bulk.manifest import MANIFEST_FILE, write_manifest
from clients.bulk.shards import Receipt

SETTINGS = Settings("vit22b", 1, "space-one", 8, "float32", "parquet", 5, "parquet", "uri", "")
JOB = Job(SETTINGS, (Source(0, "/a.parquet", 10, 1.5, 12), Source(1, "/b.parquet", 20, 2.5, 0)))
UNKNOWN = Job(dataclasses.replace(SETTINGS, kind="tfrecord"), (Source(0, "/a.tfrecord", 10, 1.5),))


def receipt(source: int, start: int, stop: int, *, last: bool = True) -> Receipt:
    return Receipt(source, start, stop, stop - start, 0, last, {})


@pytest.mark.parametrize("job", [JOB, UNKNOWN])
def test_a_job_comes_back_as_it_was_written(job: Job):
    assert Job.from_json(job.to_json()) == job
    assert Job.from_json(job.to_json()).fingerprint == job.fingerprint


def test_every_field_is_part_of_the_fingerprint():
    changed = [
        dataclasses.replace(JOB, settings=dataclasses.replace(SETTINGS, **{field.name: "other"}))
        for field in dataclasses.fields(SETTINGS)
    ] + [
        dataclasses.replace(JOB, sources=(dataclasses.replace(JOB.sources[0], **{field.name: "other"}),))
        for field in dataclasses.fields(Source)
    ]
    assert len({job.fingerprint for job in [JOB, *changed]}) == len(changed) + 1


def test_blocks_are_shards_where_the_rows_are_known():
    assert [list(blocks(source, 5)) for source in JOB.sources] == [
        [Block(JOB.sources[0], 0, 5), Block(JOB.sources[0], 5, 10), Block(JOB.sources[0], 10, 12)],
        [Block(JOB.sources[1], 0, 0)],
    ]
    assert JOB.shards == 4
    assert list(blocks(UNKNOWN.sources[0], 5)) == [Block(UNKNOWN.sources[0])]
    assert UNKNOWN.shards is None


def test_a_job_that_was_begun_is_found_and_another_one_refused(tmp_path: Path):
    assert begun(str(tmp_path)) is None
    begin(str(tmp_path), JOB)
    begin(str(tmp_path), JOB)
    assert begun(str(tmp_path)) == JOB
    other = Job(dataclasses.replace(SETTINGS, version=2, space_id="space-two"), JOB.sources[:1])
    with pytest.raises(ValueError, match="its version is 1, this one's 2") as refused:
        begin(str(tmp_path), other)
    assert "its space_id is space-one, this one's space-two" in str(refused.value)
    assert "its input is 2 files of 12 rows" in str(refused.value)
    assert begun(str(tmp_path)) == JOB


@pytest.mark.parametrize("text", ["", "[]", '{"format_version": 2}', '{"format_version": 1, "settings": {}}'])
def test_a_folder_with_something_else_is_refused(text: str, tmp_path: Path):
    (tmp_path / JOB_FILE).write_text(text)
    with pytest.raises(ValueError, match=r"cannot be read as a bulk job: .*; give another --output"):
        begun(str(tmp_path))


@pytest.mark.parametrize(
    ("job", "receipts"),
    [
        (JOB, [receipt(0, 0, 5), receipt(0, 5, 10), receipt(0, 10, 12)]),  # none of the second source
        (JOB, [receipt(0, 0, 5), receipt(0, 10, 12), receipt(1, 0, 0)]),
        (JOB, [receipt(0, 0, 5), receipt(0, 5, 10), receipt(1, 0, 0)]),
        (UNKNOWN, [receipt(0, 0, 5, last=False)]),
        (UNKNOWN, []),
    ],
)
def test_a_missing_shard_means_no_manifest(job: Job, receipts: list[Receipt], tmp_path: Path):
    with pytest.raises(BulkError, match=r"end at item [0-9]+, before it does; run the command again"):
        write_manifest(str(tmp_path), job, receipts)
    assert not list(tmp_path.iterdir())


def test_a_manifest_does_not_depend_on_the_order_of_the_receipts(tmp_path: Path):
    receipts = [receipt(1, 0, 0), receipt(0, 10, 12), receipt(0, 0, 5), receipt(0, 5, 10)]
    write_manifest(str(tmp_path / "one"), JOB, receipts)
    write_manifest(str(tmp_path / "other"), JOB, receipts[::-1])
    texts = [(tmp_path / folder / MANIFEST_FILE).read_text() for folder in ("one", "other")]
    assert texts[0] == texts[1]
    assert json.loads(texts[0])["rows"] == 12
    assert json.loads(texts[0])["fingerprint"] == JOB.fingerprint
