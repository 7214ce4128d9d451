"""Label sets over HTTP: put once, found after a restart, embedded again when the space changes."""

import contextlib
import io
import os
import shutil

import numpy as np

from serving.gateway_label_sets import LabelSet, LabelSets
from tests import web_gateway
from tests.standin import StandIn, picture, serve
from tests.web_gateway import data_uri, form
from vit22b.tensors import to_wire

BLUE = data_uri(picture("blue"))
COLOURS = {"classes": ["red", "green", "blue"], "templates": ["a {}"]}
PATH = "/v1/classes/colours"


@contextlib.contextmanager
def serving(standin, directory):
    with web_gateway.serve(standin.address, classes_dir=directory) as gateway:
        yield gateway


def put(gateway, path, body):
    return gateway.send("PUT", path, body)


def best(gateway, classes="colours"):
    answer = gateway.post("/v1/classify", {"images": [BLUE], "classes": classes})
    assert answer.status == 200
    return answer.json["data"][0]["top"][0]["class"], answer.json["space_id"]


def files(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_a_set_is_embedded_once_and_images_are_compared_with_it(standin, tmp_path):
    with serving(standin, tmp_path) as gateway:
        answer = put(gateway, PATH, COLOURS)
        assert answer.status == 201
        assert answer.json["classes"] == COLOURS["classes"]
        assert (answer.json["templates"], answer.json["spaces"]) == (["a {}"], ["space-one"])
        assert gateway.get(PATH).json == answer.json
        asked = len(standin.asked("embed_text"))
        assert [best(gateway) for _ in range(3)] == [("blue", "space-one")] * 3
        body, headers = form([("images", picture("red")), ("class_set", "colours")])
        assert gateway.send("POST", "/v1/classify", body, headers).json["data"][0]["top"][0]["class"] == "red"
        assert len(standin.asked("embed_text")) == asked
        (listed,) = gateway.get("/v1/classes").json["data"]
        assert (listed["name"], listed["count"]) == ("colours", 3)


def test_a_set_survives_a_restart_without_being_embedded_again(standin, tmp_path):
    with serving(standin, tmp_path) as gateway:
        put(gateway, PATH, COLOURS)
    asked = len(standin.asked("embed_text"))
    with serving(standin, tmp_path) as gateway:
        assert best(gateway) == ("blue", "space-one")
        assert gateway.metric("class_vectors_total", source="file") == 1
        best(gateway)
        assert gateway.metric("class_vectors_total", source="memory") == 1
    assert len(standin.asked("embed_text")) == asked


def test_a_list_of_classes_is_embedded_once_and_kept_in_no_file(standin, tmp_path):
    with serving(standin, tmp_path) as gateway:
        assert best(gateway, ["red", "blue"]) == ("blue", "space-one")
        asked = len(standin.asked("embed_text"))
        best(gateway, ["red", "blue"])
        assert len(standin.asked("embed_text")) == asked
        best(gateway, ["red", "blue", "green"])
        assert len(standin.asked("embed_text")) > asked
        assert gateway.get("/v1/classes").json["data"] == []
    assert files(tmp_path) == []


def test_a_set_is_embedded_again_in_a_new_space_and_spaces_do_not_mix(standin, tmp_path):
    with serving(standin, tmp_path) as gateway:
        put(gateway, PATH, COLOURS)
        assert best(gateway) == ("blue", "space-one")
        standin.swap(2, "space-two")
        asked = len(standin.asked("embed_text"))
        assert best(gateway) == ("blue", "space-two")
        assert len(standin.asked("embed_text")) > asked
        assert gateway.get(PATH).json["spaces"] == ["space-one", "space-two"]
        # Back again: the vectors of the old space are still there.
        standin.swap(3, "space-one")
        asked = len(standin.asked("embed_text"))
        assert best(gateway) == ("blue", "space-one")
        assert len(standin.asked("embed_text")) == asked


def test_a_space_that_changes_between_images_and_classes_is_noticed(standin, tmp_path):
    with serving(standin, tmp_path) as gateway:
        put(gateway, PATH, COLOURS)
        best(gateway)
        # The next images are of the old space; a list of classes that was never embedded is of the new one.
        standin.unloads_after = len(standin.requests) + 1
        images = len(standin.asked("embed_image_each"))
        assert best(gateway, ["green", "blue"]) == ("blue", "space-two")
        assert len(standin.asked("embed_image_each")) >= images + 2


def test_a_set_is_replaced_whole(standin, tmp_path):
    with serving(standin, tmp_path) as gateway:
        assert put(gateway, PATH, COLOURS).status == 201
        answer = put(gateway, PATH, {"classes": ["red", "green"]})
        assert answer.status == 200
        assert len(answer.json["templates"]) == 8
        assert best(gateway)[0] != "blue"
        definition, vectors = files(tmp_path)
        assert definition == "colours/classes.json"
        assert np.load(tmp_path / vectors).shape == (2, 8)


def test_a_set_that_is_deleted_is_gone(standin, tmp_path):
    with serving(standin, tmp_path) as gateway:
        put(gateway, PATH, COLOURS)
        assert gateway.send("DELETE", PATH).json == {"object": "class_set", "name": "colours", "deleted": True}
        assert list(tmp_path.iterdir()) == []
        for answer in (
            gateway.send("DELETE", PATH),
            gateway.get(PATH),
            gateway.post("/v1/classify", {"images": [BLUE], "classes": "colours"}),
        ):
            assert (answer.status, answer.error["code"]) == (404, "class_set_not_found")


def test_a_set_that_is_put_while_it_is_deleted_stays(tmp_path, monkeypatch):
    sets, vectors = LabelSets(tmp_path), np.ones((1, 4), np.float32)
    old, new = (LabelSet((name,), ("{}",), "colours", 1) for name in ("red", "blue"))
    sets.put(old, "space-one", vectors)
    remove = shutil.rmtree

    def put_first(*arguments, **options):
        sets.put(new, "space-one", vectors)
        remove(*arguments, **options)

    monkeypatch.setattr(shutil, "rmtree", put_first)
    assert sets.delete("colours")
    assert sets.get("colours") == new
    assert sets.spaces(new) == ["space-one"]
    assert sets.names() == ["colours"]


def test_a_set_that_is_deleted_while_it_is_put_is_put(tmp_path, monkeypatch):
    sets, vectors = LabelSets(tmp_path), np.ones((1, 4), np.float32)
    labels = LabelSet(("red",), ("{}",), "colours", 1)
    sets.put(labels, "space-one", vectors)
    save, saved = np.save, []

    def delete_first(file, *arguments, **options):
        if not saved:
            sets.delete("colours")
        saved.append(file)
        save(file, *arguments, **options)

    monkeypatch.setattr(np, "save", delete_first)
    sets.put(labels, "space-one", vectors)
    assert (sets.get("colours"), sets.spaces(labels)) == (labels, ["space-one"])


def test_vectors_of_a_set_that_was_deleted_are_not_kept(tmp_path):
    sets, vectors = LabelSets(tmp_path), np.ones((1, 4), np.float32)
    labels = LabelSet(("red",), ("{}",), "colours", 1)
    sets.put(labels, "space-one", vectors)
    sets.keep(labels, "space-two", vectors)
    assert sets.spaces(labels) == ["space-one", "space-two"]
    sets.delete("colours")
    sets.keep(labels, "space-two", vectors)
    assert list(tmp_path.iterdir()) == []


def test_files_are_open_to_whom_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        LabelSets(tmp_path).put(LabelSet(("red",), ("{}",), "colours", 1), "space-one", np.ones((1, 4), np.float32))
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("colours/*")} == {0o640}


def test_a_folder_that_is_copied_is_a_set_of_its_own(standin, tmp_path):
    with serving(standin, tmp_path) as gateway:
        put(gateway, PATH, COLOURS)
        shutil.copytree(tmp_path / "colours", tmp_path / "copy")
        assert gateway.get("/v1/classes/copy").json["name"] == "copy"


def test_an_entry_that_cannot_be_read_harms_no_other(standin, tmp_path):
    with serving(standin, tmp_path) as gateway:
        put(gateway, PATH, COLOURS)
        (tmp_path / "bad" / "classes.json").mkdir(parents=True)
        (tmp_path / "file").write_text("no folder")
        bad, good = gateway.get("/v1/classes").json["data"]
        assert "cannot be read" in bad["error"]
        assert (good["name"], good["count"]) == ("colours", 3)
        answer = gateway.get("/v1/classes/bad")
        assert (answer.status, answer.error["code"]) == (500, "storage_failed")
        assert gateway.get("/v1/classes/file").status == 404
        assert gateway.send("DELETE", "/v1/classes/bad").status == 200
        assert [entry["name"] for entry in gateway.get("/v1/classes").json["data"]] == ["colours"]


def test_banks_in_memory_are_bounded_by_their_bytes(standin, tmp_path, monkeypatch):
    monkeypatch.setattr("serving.gateway_banks._KEPT_BYTES", 3 * 8 * 4)  # three classes of eight numbers
    with serving(standin, tmp_path) as gateway:
        for classes in (["red", "blue"], ["red", "blue"], ["green", "blue"], ["red", "blue"]):
            best(gateway, classes)
        assert gateway.metric("class_vectors_total", source="memory") == 1
        assert gateway.metric("class_vectors_total", source="model") == 3


def test_two_gateways_share_a_directory(standin, tmp_path):
    with serving(standin, tmp_path) as one, serving(standin, tmp_path) as other:
        put(one, PATH, COLOURS)
        assert best(other) == ("blue", "space-one")
        put(one, PATH, {"classes": ["red", "green"]})
        assert best(other)[0] != "blue"
        one.send("DELETE", PATH)
        assert other.get(PATH).status == 404


def test_a_name_that_is_none_reaches_no_file(standin, tmp_path):
    (tmp_path / "secret").write_text("{}")
    with serving(standin, tmp_path / "classes") as gateway:
        for name in ("..", ".hidden", "a%2Fb", "..%2Fsecret", "a%00b", "x" * 65, "%C3%A9", "a%20b"):
            path = f"/v1/classes/{name}"
            assert put(gateway, path, COLOURS).status in (400, 404)
            assert gateway.get(path).status == 404
            assert gateway.send("DELETE", path).status == 404
        answer = gateway.post("/v1/classify", {"images": [BLUE], "classes": "../secret"})
        assert (answer.status, answer.error["code"]) == (404, "class_set_not_found")
    assert files(tmp_path) == ["secret"]


def test_templates_belong_to_the_set(standin, tmp_path):
    with serving(standin, tmp_path) as gateway:
        put(gateway, PATH, COLOURS)
        answer = gateway.post("/v1/classify", {"images": [BLUE], "classes": "colours", "templates": ["{}"]})
        assert (answer.status, answer.error["param"]) == (400, "templates")


def test_what_cannot_be_embedded_is_not_kept(standin, tmp_path):
    with serving(standin, tmp_path) as gateway:
        for body in ({}, {"classes": ["a", "A"]}, {"classes": ["a"], "templates": ["none"]}, {"classes": "a"}):
            assert put(gateway, PATH, body).status == 400
        standin.without = ("embed_text",)
        assert put(gateway, PATH, COLOURS).status == 400
        assert gateway.get(PATH).status == 404


def test_classes_that_the_model_makes_nothing_of_are_told(standin, tmp_path, monkeypatch):
    with serving(standin, tmp_path) as gateway:
        gateway.get("/v1/models")
        monkeypatch.setattr(standin, "_outputs", lambda *_: {"embedding": to_wire(np.zeros((3, 8), np.float32))})
        answer = put(gateway, PATH, COLOURS)
        assert (answer.status, answer.error["code"]) == (502, "upstream_failed")
        assert "points nowhere" in answer.error["message"]


def test_a_damaged_set_is_told_and_can_be_put_again(standin, tmp_path):
    with serving(standin, tmp_path) as gateway:
        put(gateway, PATH, COLOURS)
        (tmp_path / "colours" / "classes.json").write_text("{")
        for answer in (gateway.get(PATH), gateway.post("/v1/classify", {"images": [BLUE], "classes": "colours"})):
            assert (answer.status, answer.error["code"]) == (500, "storage_failed")
            assert "put the set again" in answer.error["message"]
        assert "damaged" in gateway.get("/v1/classes").json["data"][0]["error"]
        assert put(gateway, PATH, COLOURS).status == 200
        assert best(gateway) == ("blue", "space-one")


def test_damaged_vectors_are_made_again(standin, tmp_path, caplog):
    with serving(standin, tmp_path) as gateway:
        put(gateway, PATH, COLOURS)
    (vectors,) = tmp_path.rglob("*.npy")
    other = io.BytesIO()
    np.save(other, np.zeros((2, 8), np.float32))
    for count, content in enumerate((b"", b"no array", vectors.read_bytes()[:-4], other.getvalue()), start=1):
        vectors.write_bytes(content)
        with serving(standin, tmp_path) as gateway:
            assert best(gateway) == ("blue", "space-one")
        assert np.load(vectors).shape == (3, 8)
        assert caplog.text.count("embedded again") == count


def test_a_directory_that_cannot_be_written_is_told(standin, tmp_path):
    with serving(standin, tmp_path / "sets") as gateway:
        (tmp_path / "sets").rmdir()
        (tmp_path / "sets").write_text("a file in its place")
        answer = put(gateway, PATH, COLOURS)
        assert (answer.status, answer.error["code"]) == (500, "storage_failed")


def test_without_a_directory_there_are_no_sets():
    with serve(StandIn()) as standin, web_gateway.serve(standin.address) as gateway:
        assert gateway.get("/v1/classes").json["data"] == []
        for answer in (
            put(gateway, PATH, COLOURS),
            gateway.get(PATH),
            gateway.send("DELETE", PATH),
            gateway.post("/v1/classify", {"images": [BLUE], "classes": "colours"}),
        ):
            assert (answer.status, answer.error["code"]) == (501, "no_label_sets")
            assert "--classes_dir" in answer.error["message"]
