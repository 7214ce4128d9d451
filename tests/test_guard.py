import json

import pytest
import tensorflow as tf

from serving.call import Call
from serving.guard import RELOAD, Guard
from serving.keys import KeyFile, line

USER, ADMIN = "vit_of-alice", "vit_of-root"  # not drawn, so that the tests have the same names every time


@pytest.fixture
def files(tmp_path):
    (tmp_path / "users").write_text(line("alice", USER))
    (tmp_path / "admins").write_text(line("root", ADMIN))
    return {"keys": KeyFile(tmp_path / "users"), "admin_keys": KeyFile(tmp_path / "admins")}


def ask(guard, api, key="", *, admin=False):
    """The name of whose key it was, or of the error."""
    call = Call(api, "GRPC", metadata={"x-api-key": key} if key else {}, admin=admin)
    try:
        guard.check(call)
    except tf.errors.OpError as error:
        return type(error).__name__.removesuffix("Error")
    return call.user


def test_without_files_everybody_may_everything():
    assert ask(Guard(), "Predict") == ask(Guard(), RELOAD) == ""


@pytest.mark.parametrize(
    ("with_files", "api", "key", "outcome"),
    [
        ("keys", "Predict", "", "Unauthenticated"),
        ("keys", "Predict", "nope", "Unauthenticated"),
        ("keys", "Predict", USER, "alice"),
        ("keys", "GetModelStatus", "", "Unauthenticated"),
        ("keys", "", "", "Unauthenticated"),
        ("keys", RELOAD, "", "Unauthenticated"),
        ("keys", RELOAD, USER, "PermissionDenied"),
        ("admin_keys", "Predict", "", ""),
        ("admin_keys", RELOAD, "", "Unauthenticated"),
        ("admin_keys", RELOAD, USER, "Unauthenticated"),
        ("admin_keys", RELOAD, ADMIN, "root"),
        ("keys admin_keys", "Predict", USER, "alice"),
        ("keys admin_keys", "Predict", ADMIN, "root"),
        ("keys admin_keys", RELOAD, USER, "PermissionDenied"),
        ("keys admin_keys", RELOAD, ADMIN, "root"),
    ],
)
def test_what_a_key_allows(files, with_files, api, key, outcome):
    assert ask(Guard(**{name: files[name] for name in with_files.split()}), api, key) == outcome


def test_with_an_admin_port_models_are_reloaded_there_alone(files):
    guard = Guard(admin_port=True)
    assert ask(guard, RELOAD) == "PermissionDenied"
    assert ask(guard, RELOAD, admin=True) == ""
    assert ask(guard, "Predict") == ""
    assert ask(Guard(admin_port=True, **files), RELOAD, admin=True) == "Unauthenticated"
    assert ask(Guard(admin_port=True, **files), RELOAD, ADMIN, admin=True) == "root"
    assert ask(Guard(admin_port=True, keys=files["keys"]), RELOAD, admin=True) == "Unauthenticated"
    assert ask(Guard(admin_port=True, keys=files["keys"]), RELOAD, USER, admin=True) == "alice"
    assert ask(Guard(admin_port=True, keys=files["keys"]), RELOAD, USER) == "PermissionDenied"


@pytest.mark.parametrize(
    "metadata", [{"authorization": f"bearer  {USER}"}, {"authorization": "Basic x", "x-api-key": USER}]
)
def test_where_a_key_may_stand(files, metadata):
    call = Call("Predict", "REST", metadata=metadata)
    Guard(**files).check(call)
    assert call.user == "alice"


def test_a_refusal_is_one_line_in_the_audit_log_without_the_key(files, caplog):
    call = Call(RELOAD, "GRPC", id="7\nRefused nobody", peer="ipv4:10.0.0.1:5", metadata={"x-api-key": USER})
    with pytest.raises(tf.errors.PermissionDeniedError, match="needs a key of --admin_keys_file"):
        Guard(**files).check(call)
    (record,) = caplog.records
    assert record.name == "serving.audit"
    text = record.getMessage()
    assert "\n" not in text
    assert USER not in text
    assert json.loads(text.removeprefix("Refused ")) == {
        "api": RELOAD,
        "entrypoint": "GRPC",
        "peer": "ipv4:10.0.0.1:5",
        "id": "7\nRefused nobody",
        "user": "alice",
        "model": "",
        "reason": "HandleReloadConfigRequest needs a key of --admin_keys_file",
    }


def test_a_refusals_line_is_short_whatever_the_caller_writes(files, caplog):
    call = Call("Predict", "REST", id="i" * 100_000, model="m" * 100_000)
    with pytest.raises(tf.errors.UnauthenticatedError):
        Guard(**files).check(call)
    entry = json.loads(caplog.records[0].getMessage().removeprefix("Refused "))
    assert (entry["id"], entry["model"]) == ("i" * 256, "m" * 256)
