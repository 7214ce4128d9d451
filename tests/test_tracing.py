import ast
import contextlib
import threading
import time
from pathlib import Path

import pytest

from serving.call import Call
from serving.desk import Desk
from serving.tracing import Tracing
from tests.collector import collecting
from tests.desks import serve
from tests.standin import closed_address

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def traced(call, answer):
    """The spans of a call, by name."""
    with collecting() as (collector, address):
        tracing = Tracing(address)
        with contextlib.suppress(ZeroDivisionError):
            serve(Desk(observers=[tracing]), call, answer)
        tracing.close()
    assert collector.services <= {"vit22b-serving"}
    return {span.name: span for span in collector.spans}


def attributes(span):
    return {attribute.key: attribute.value for attribute in span.attributes}


def test_a_request_is_a_span_with_a_span_for_each_stage():
    call = Call("Predict", "GRPC", id="7", model="m" * 1000)

    def answer():
        call.version = 3
        for stage in ("decode", "run", "encode"):
            with call.spend(stage):
                time.sleep(0.002)

    spans = traced(call, answer)
    assert set(spans) == {"Predict", "queue", "decode", "run", "encode"}
    request = spans["Predict"]
    assert request.parent_span_id == b""
    for name in ("decode", "run", "encode"):
        stage = spans[name]
        assert (stage.trace_id, stage.parent_span_id) == (request.trace_id, request.span_id)
        assert request.start_time_unix_nano <= stage.start_time_unix_nano
        assert stage.end_time_unix_nano - stage.start_time_unix_nano >= 2e6
        assert stage.end_time_unix_nano <= request.end_time_unix_nano
    assert attributes(request)["serving.version"].int_value == 3
    assert attributes(request)["serving.request_id"].string_value == "7"
    assert attributes(request)["serving.model"].string_value == "m" * 256
    assert request.status.code == 0


def test_an_error_is_the_spans_status():
    request = traced(Call("Classify", "REST"), lambda: 1 / 0)["Classify"]
    assert (request.status.code, request.status.message) == (2, "INTERNAL")


def test_the_callers_trace_goes_on():
    call = Call("Predict", "REST", metadata={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    request = traced(call, lambda: None)["Predict"]
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)


@pytest.mark.parametrize(("traceparent", "spans"), [(f"00-{TRACE}-{PARENT}-00", 0), ("nonsense", 2)])
def test_what_the_caller_does_not_sample_is_not_sent_and_nonsense_begins_a_trace(traceparent, spans):
    assert len(traced(Call("Predict", "GRPC", metadata={"traceparent": traceparent}), lambda: None)) == spans


def test_a_collector_that_is_not_there_holds_up_neither_requests_nor_the_exit():
    tracing = Tracing(f"http://{closed_address()}")
    desk = Desk(observers=[tracing])
    for _ in range(5000):  # more than fit in the exporter's queue
        serve(desk, Call("Predict", "GRPC"), lambda: None)
    closing = threading.Thread(target=tracing.close, kwargs={"seconds": 0.5}, daemon=True)
    closing.start()
    closing.join(20)  # the library alone waits 30
    assert not closing.is_alive()


def test_an_endpoint_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"--otlp_endpoint is 'collector:4317'; expected http://HOST:PORT"):
        Tracing("collector:4317")


def test_the_library_is_imported_only_when_traces_are_asked_for():
    importers = set()
    for path in Path("serving").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:  # not what is imported within a function
            names = [alias.name for alias in getattr(node, "names", []) if isinstance(alias, ast.alias)]
            module = getattr(node, "module", None) or ""
            if any(name.startswith(("opentelemetry", "serving.tracing")) for name in [module, *names]) or (
                module == "serving" and "tracing" in names
            ):
                importers.add(path.name)
    assert importers == {"tracing.py"}
