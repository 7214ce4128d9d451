import errno

import pytest
import tensorflow as tf

from serving import metrics_page, saved_model, version_loader, warmup
from serving.flags import Flags
from serving.monitoring import Monitoring
from serving.servable import Servable
from tests.small_models import plus, put

ATTEMPTS = "/tensorflow/cc/saved_model/load_attempt_count"


def test_a_version_whose_warm_up_fails_is_closed(monkeypatch):
    closed = []

    def defect(*_arguments, **_options):
        raise RuntimeError("a defect")

    close = Servable.close
    monkeypatch.setattr(Servable, "close", lambda self: closed.append(self.version) or close(self))
    monkeypatch.setattr(warmup, "warm_up", defect)
    load = version_loader.loader(Flags(), Monitoring())
    with pytest.raises(RuntimeError, match="a defect"):
        load("p", 1, plus(1))
    assert closed == [1]
    version_loader.loader(Flags(enable_model_warmup=False), Monitoring())("p", 1, plus(1)).close()


def test_a_warm_up_that_fails_is_counted_under_its_status(tmp_path):
    monitoring = Monitoring()
    path = put(plus(1), tmp_path, 1)
    (path / "assets.extra").mkdir(exist_ok=True)
    (path / warmup.WARMUP_FILE).write_bytes(b"no records" * 10)
    with pytest.raises(tf.errors.DataLossError) as failed:
        version_loader.loader(Flags(), monitoring)("p", 1, path)
    assert f'status="DATA_LOSS: {failed.value.message[:20]}' in metrics_page.text(monitoring)


def test_loads_are_counted(tmp_path):
    monitoring = Monitoring()
    load = version_loader.loader(Flags(), monitoring)
    load("p", 1, put(plus(1), tmp_path, 1)).close()
    assert monitoring.values([ATTEMPTS]) == {ATTEMPTS: 1}


def test_a_load_that_the_file_system_fails_is_counted_too(tmp_path, monkeypatch):
    monitoring = Monitoring()

    def fail(*_arguments):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(saved_model, "read_meta_graph", fail)  # a disk that is broken
    with pytest.raises(OSError, match="Input/output error"):
        version_loader.loader(Flags(), monitoring)("p", 1, put(plus(1), tmp_path, 1))
    assert f'load_attempt_count{{model_path="{tmp_path}/1",status="fail"}} 1' in metrics_page.text(monitoring)


@pytest.mark.parametrize(
    ("flags", "within", "between"),
    [
        ({}, 0, 0),
        ({"tensorflow_session_parallelism": 3}, 3, 3),
        ({"tensorflow_intra_op_parallelism": 2, "tensorflow_session_parallelism": 3}, 2, 0),
        ({"tensorflow_inter_op_parallelism": 2, "tensorflow_intra_op_parallelism": 1}, 1, 2),
    ],
)
def test_the_threads_of_a_session_are_the_real_servers(flags, within, between):
    config = version_loader.session_config(Flags(**flags))
    assert (config.intra_op_parallelism_threads, config.inter_op_parallelism_threads) == (within, between)


def test_a_session_has_what_its_file_says_and_the_flags_over_it(tmp_path):
    file = tmp_path / "session.config"
    file.write_text("allow_soft_placement: true intra_op_parallelism_threads: 7 gpu_options { allow_growth: true }")
    config = version_loader.session_config(
        Flags(tensorflow_session_config_file=str(file), per_process_gpu_memory_fraction=0.5)
    )
    assert config.allow_soft_placement
    assert config.gpu_options.allow_growth
    assert (config.intra_op_parallelism_threads, config.gpu_options.per_process_gpu_memory_fraction) == (0, 0.5)


def test_batching_parameters_are_read_at_the_start(tmp_path):
    file = tmp_path / "batching.config"
    file.write_text("num_batch_threads { value: 0 }")
    with pytest.raises(tf.errors.InvalidArgumentError) as refused:
        version_loader.loader(Flags(enable_batching=True, batching_parameters_file=str(file)), Monitoring())
    assert refused.value.message == "num_batch_threads must be positive; was 0"


def test_retries_are_the_flags_and_none_where_they_are_in_vain():
    retries = version_loader.retries(Flags(max_num_load_retries=2, load_retry_interval_micros=1_500_000))
    assert (retries.count, retries.interval) == (2, 1.5)
    assert warmup.GoldenError in retries.vain
    assert version_loader.retries(Flags(load_retry_interval_micros=-1)).interval == 0
