import pytest
import tensorflow as tf
from tensorflow_serving.config import model_server_config_pb2

from serving.server_config_pb2 import BatchingParameters, MonitoringConfig, SSLConfig
from serving.text_protos import read_text_proto


def test_a_file_is_read_with_the_real_servers_fields(tmp_path):
    file = tmp_path / "batching.txt"
    file.write_text(
        "max_batch_size { value: 4 } batch_timeout_micros { value: 100 } allowed_batch_sizes: [2, 4]\n"
        'thread_pool_name { value: "pool" } pad_variable_length_inputs: true  # a comment\n'
    )
    read = read_text_proto(file, BatchingParameters())
    assert (read.max_batch_size.value, list(read.allowed_batch_sizes)) == (4, [2, 4])
    assert read.thread_pool_name.value == "pool"
    assert not read.HasField("num_batch_threads")


def test_the_bytes_are_the_real_servers():
    """Field numbers of tensorflow_serving's session_bundle_config, monitoring_config and ssl_config."""
    batching = BatchingParameters(allowed_batch_sizes=[2], pad_variable_length_inputs=True)
    batching.enable_large_batch_splitting.value = True
    batching.max_execution_batch_size.value = 3
    assert batching.SerializeToString() == b"\x32\x01\x02\x38\x01\x42\x02\x08\x01\x4a\x02\x08\x03"
    monitoring = MonitoringConfig()
    monitoring.prometheus_config.enable, monitoring.prometheus_config.path = True, "/m"
    assert monitoring.SerializeToString() == b"\x0a\x06\x08\x01\x12\x02/m"
    ssl = SSLConfig(server_key="k", server_cert="c", custom_ca="a", client_verify=True)
    assert ssl.SerializeToString() == b"\x0a\x01k\x12\x01c\x1a\x01a\x20\x01"
    assert SSLConfig.DESCRIPTOR.full_name == "tensorflow.serving.SSLConfig"


@pytest.mark.parametrize(
    ("content", "logged"),
    [
        ("nofield { value: 4 }", 'Message type "tensorflow.serving.BatchingParameters" has no field named "nofield".'),
        ("max_batch_size: 4", 'Expected "{"'),
        (b"\xff\xfe", "codec can't decode"),
    ],
)
def test_what_is_no_such_message_is_refused_and_the_log_says_where(tmp_path, caplog, content, logged):
    file = tmp_path / "file"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(tf.errors.InvalidArgumentError) as refused:
        read_text_proto(str(file), BatchingParameters())
    assert refused.value.message == f"Invalid protobuf file: '{file}'"
    assert "Error parsing text-format tensorflow.serving.BatchingParameters: " in caplog.text
    assert logged in caplog.text


def test_a_file_that_is_missing_or_empty_has_the_systems_text(tmp_path):
    with pytest.raises(tf.errors.NotFoundError) as missing:
        read_text_proto(tmp_path / "nope", model_server_config_pb2.ModelServerConfig())
    assert missing.value.message == f"{tmp_path / 'nope'}; No such file or directory"
    (tmp_path / "empty").touch()
    with pytest.raises(tf.errors.InvalidArgumentError) as empty:
        read_text_proto(tmp_path / "empty", model_server_config_pb2.ModelServerConfig())
    assert empty.value.message == f"{tmp_path / 'empty'}; Invalid argument"
