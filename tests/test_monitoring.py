import random
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving import metrics_page
from serving.call import Call
from serving.monitoring import FAMILIES, Monitoring

COUNT = "/tensorflow/serving/request_count"


def call(api="Predict", entrypoint="GRPC", model="m", **fields):
    return Call(api, entrypoint, model=model, **fields)


def series(made):
    """Every line of the page that has a value, without those of buckets and of the process."""
    lines = metrics_page.text(made).splitlines()
    return [
        line for line in lines if line.startswith(":") and "_bucket{" not in line and not line.startswith(":vit22b")
    ]


@pytest.fixture
def made():
    return Monitoring()


def test_over_grpc_three_methods_count(made):
    for api in ("Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata", "GetModelStatus"):
        made.end(call(api), "OK", 0.001)
    made.end(call(), "NOT_FOUND", 0.5)
    assert series(made) == [
        ':tensorflow:serving:request_count{model_name="m",status="NOT_FOUND"} 1',
        ':tensorflow:serving:request_count{model_name="m",status="OK"} 3',
        *(
            f':tensorflow:serving:request_latency_{part}{{model_name="m",API="{api}",entrypoint="GRPC"}} {value}'
            for api in ("Classify", "Predict", "Regress")
            for part, value in (("sum", 1000), ("count", 1))
        ),
    ]


def test_over_rest_everything_counts(made):
    for api in ("Predict", "Classify", "Regress", "GetModelMetadata", "GetModelStatus"):
        made.end(call(api, "REST"), "OK", 0.001)
    made.end(call("", "REST", model=""), "INVALID_ARGUMENT", 0.001)
    counts = [line for line in series(made) if "request_latency_sum" not in line]
    assert counts == [
        ':tensorflow:serving:request_count{model_name="",status="INVALID_ARGUMENT"} 1',
        ':tensorflow:serving:request_count{model_name="m",status="OK"} 5',
        ':tensorflow:serving:request_latency_count{model_name="m",API="",entrypoint="REST"} 2',
        ':tensorflow:serving:request_latency_count{model_name="m",API="classify",entrypoint="REST"} 1',
        ':tensorflow:serving:request_latency_count{model_name="m",API="predict",entrypoint="REST"} 1',
        ':tensorflow:serving:request_latency_count{model_name="m",API="regress",entrypoint="REST"} 1',
    ]


def test_the_time_in_tensorflow_is_that_of_the_run_whatever_brought_the_request(made):
    for entrypoint in ("GRPC", "REST"):
        made.end(call(entrypoint=entrypoint, seconds={"run": 0.002}), "OK", 0.003)
    made.end(call(seconds={"run": 0.002}), "INTERNAL", 0.003)
    made.end(call("MultiInference", examples=5, seconds={"run": 0.002}), "OK", 0.003)
    labels = 'model_name="m",API="Predict",runtime="TF1"'
    assert [line for line in series(made) if "runtime" in line] == [
        f":tensorflow:serving:runtime_latency_sum{{{labels}}} 4000",
        f":tensorflow:serving:runtime_latency_count{{{labels}}} 2",
    ]
    assert ':tensorflow:serving:request_example_count_total{model="m"} 5' in series(made)
    assert ':tensorflow:serving:request_example_counts_sum{model="m"} 5' in series(made)


def limits(made, name):
    return [
        line.split('le="')[1].split('"')[0] for line in metrics_page.text(made).splitlines() if f"{name}_bucket" in line
    ]


def test_buckets_and_their_text_are_tensorflow_servings(made):
    made.end(call("MultiInference", examples=1), "OK", 0.001)
    made.end(call(), "OK", 0.001)
    made.batched("input_batch_size", 2, {})
    made.batched("queuing_latency", 2, {"thread_pool_name": ""})
    latency = limits(made, "request_latency")
    assert latency[:6] == ["10", "18", "32.4", "58.32", "104.976", "188.957"]
    assert latency[19:22] == ["708235", "1.27482e+06", "2.29468e+06"]
    assert latency[-2:] == ["1.47476e+09", "+Inf"]
    assert len(latency) == 34
    assert limits(made, "request_example_counts")[-3:] == ["8192", "16384", "+Inf"]
    assert limits(made, "input_batch_size")[-3:] == ["4096", "8192", "+Inf"]
    assert len(limits(made, "queuing_latency")) == 53


def test_the_form_of_the_page(made):
    made.batched("wrapped_run_count", 1, {})
    made.end(call(model='a"b\\c\nd'), "OK", 0.00123456789)
    text = metrics_page.text(made)
    assert text.endswith("\n")
    assert "# HELP" not in text
    assert ":tensorflow:serving:batching_session:wrapped_run_count{} 1\n" in text
    assert (
        "# TYPE :tensorflow:serving:mlmd_map gauge\n# TYPE :tensorflow:serving:model_warmup_latency histogram\n" in text
    )
    assert (
        "# TYPE :tensorflow:serving:batching_session:input_batch_size histogram\n#" in text
    )  # no series before a batch
    assert 'request_count{model_name="a\\"b\\\\c\\nd",status="OK"} 1\n' in text
    types = [line for line in text.splitlines() if line.startswith("#")]
    assert types == sorted(types)
    assert len(types) == len(set(types)) >= len(FAMILIES)


def test_prometheus_reads_the_page(made):
    chance = random.Random(0)
    for _ in range(100):
        model, status = chance.choice(['p"', "q\\", "r\n"]), chance.choice(["OK", "NOT_FOUND"])
        made.end(call(model=model, seconds={"run": 0.1}), status, chance.random())
    families = {family.name: family for family in text_string_to_metric_families(metrics_page.text(made))}
    counts = families[":tensorflow:serving:request_count"].samples
    assert sum(sample.value for sample in counts) == 100
    assert {sample.labels["model_name"] for sample in counts} == {'p"', "q\\", "r\n"}
    histogram = families[":tensorflow:serving:request_latency"]
    assert histogram.type == "histogram"
    last = [sample.value for sample in histogram.samples if sample.labels.get("le") == "+Inf"]
    assert last == [sample.value for sample in histogram.samples if sample.name.endswith("_count")]
    assert families["process_resident_memory_bytes"].samples[0].value > 1e6


def test_loads_warm_ups_and_gauges(made):
    made.loaded("/models/m/1", "success", 0.5)
    made.loaded("/models/m/2", "fail", 0.1)
    made.warmed_up("/models/m/1", "OK", 0.25, 3)
    made.watch("/vit22b/serving/queue_depth", lambda: 7)
    assert [line for line in series(made) if "model_path" in line] == [
        ':tensorflow:cc:saved_model:load_attempt_count{model_path="/models/m/1",status="success"} 1',
        ':tensorflow:cc:saved_model:load_attempt_count{model_path="/models/m/2",status="fail"} 1',
        ':tensorflow:cc:saved_model:load_latency{model_path="/models/m/1"} 500000',
        ':tensorflow:serving:model_warmup_latency_sum{model_path="/models/m/1",status="OK"} 250000',
        ':tensorflow:serving:model_warmup_latency_count{model_path="/models/m/1",status="OK"} 1',
        ':tensorflow:serving:model_warmup_records_read{model_path="/models/m/1",status="OK"} 3',
    ]
    assert ":vit22b:serving:queue_depth{} 7\n" in metrics_page.text(made)


def test_stages_refusals_and_rows_are_counted_under_names_of_our_own(made):
    made.end(call(rows=4, seconds={"decode": 0.001, "queue": 0.002}), "OK", 0.01)
    made.end(call(model="", refused="pending"), "RESOURCE_EXHAUSTED", 0.01)
    assert made.values([COUNT]) == {COUNT: 1}  # TensorFlow Serving's handlers see no refusal
    text = metrics_page.text(made)
    assert ':vit22b:serving:stage_latency_sum{model_name="m",API="Predict",stage="queue"} 2000\n' in text
    assert ':vit22b:serving:refused_count{API="Predict",status="RESOURCE_EXHAUSTED",reason="pending"} 1\n' in text
    assert ':vit22b:serving:request_batch_size_sum{model_name="m",API="Predict"} 4\n' in text


def test_values_are_those_of_the_first_series_and_0_for_what_is_no_counter(made):
    names = [COUNT, "/tensorflow/serving/request_latency", "nope"]
    assert made.values(names) == dict.fromkeys(names, 0)
    made.end(call(model="z"), "OK", 0.1)
    for _ in range(3):
        made.end(call(model="a"), "OK", 0.1)
    assert made.values(names) == {COUNT: 3, "/tensorflow/serving/request_latency": 0, "nope": 0}


def test_a_client_that_makes_up_names_makes_no_series_without_end(made):
    for number in range(100):
        made.end(call(model=f"m{number}"), "NOT_FOUND", 0.1)
    counts = [line for line in series(made) if "request_count" in line]
    assert len(counts) == 21
    assert ':tensorflow:serving:request_count{model_name="(other)",status="NOT_FOUND"} 80' in counts


def test_many_threads_lose_nothing(made):
    def work():
        for _ in range(500):
            made.end(call(seconds={"run": 0.1}), "OK", 0.1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        metrics_page.text(made)
    for thread in threads:
        thread.join()
    assert made.values([COUNT]) == {COUNT: 4000}
