"""What runs a bulk job's pipeline: Beam's runner in this process, or whichever Beam's own flags name.

Beside clients/bulk_embed.py, under its pipeline.
"""

import logging
import re
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool

from apache_beam import Pipeline
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions, WorkerOptions
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from apache_beam.runners.runner import PipelineState

from clients.bulk.job import BulkError


def new_pipeline(flags: Sequence[str]) -> Pipeline:
    """An empty pipeline.

    Args:
        flags: Beam's, as on its command line. Without --runner it is Beam's FnApiRunner: the default, DirectRunner,
            first tries to download another.

    Raises:
        ValueError: a flag that neither this program nor Beam knows. Other runners have flags of which Beam learns
            from them alone, and are not checked.
    """
    options = PipelineOptions(list(flags))
    if options.view_as(StandardOptions).runner:
        return Pipeline(options=options)
    unknown = sorted(options.get_all_options(retain_unknown_options=True).keys() - options.get_all_options().keys())
    if unknown:
        raise ValueError(f"neither this program nor Beam has a flag --{unknown[0]}; see --help")
    # What goes wrong in a worker is raised here, and need not be logged besides.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    worker = options.view_as(WorkerOptions)
    worker.default_sdk_harness_log_level = worker.default_sdk_harness_log_level or "CRITICAL"
    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
    provision = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
    runner = FnApiRunner(provision_info=ExtendedProvisionInfo(provision))
    return Pipeline(runner=runner, options=options)


def run(pipeline: Pipeline) -> None:
    """Runs a pipeline to its end.

    Raises:
        BulkError: a worker has raised one, or the end is none of success.
        RuntimeError: a worker has raised something else, a defect of ours; with its traceback.
    """
    try:
        state = _run_aside(pipeline) if _in_process(pipeline) else _run(pipeline)
    except RuntimeError as error:
        # A runner raises what a worker has raised as text, with a traceback.
        found = re.search(r"BulkError: (.*?)(?: \[while running|$)", f"{type(error).__name__}: {error}", re.MULTILINE)
        if found is None:
            raise
        raise BulkError(found[1]) from error
    if state != PipelineState.DONE:
        raise BulkError(f"Beam says that the job is {state}; run the command again, what is done stays")


def _in_process(pipeline: Pipeline) -> bool:
    """Whether the worker would be the very thread that starts it."""
    mode = pipeline.options.view_as(DirectOptions).direct_running_mode
    return isinstance(pipeline.runner, FnApiRunner) and mode == "in_memory"


def _run(pipeline: Pipeline) -> str:
    return pipeline.run().wait_until_finish()


def _run_aside(pipeline: Pipeline) -> str:
    # Ctrl-C is raised in the main thread. If that began a gRPC call just then, its channel could never be closed.
    with ThreadPool(1) as pool:
        return pool.apply(_run, (pipeline,))
