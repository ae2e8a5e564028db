"""All that only a GPU can show, at the published sizes with seeded weights, in under nine minutes on one H100.

    python -m benchmarks.gpu [--sections extract,train] [--out DIR]
    python -m benchmarks.gpu --device cpu --preset tests/tiny.yaml --quick    # all of its code, on a CPU

Extraction, the cache on its way to the device, a training step and the 40 epochs it makes, the mapper's prediction at a
batch of 256, generation at 1, 8 and 32 clips with and without ``torch.compile``, the difference from the CPU's
numbers, how often the host waits, and peak memory: one JSON, ``results/gpu_<device>.json``. A section is a process of
its own with its own seconds (those that it does not use go to the next); what fails or takes too long is recorded
with what it had measured until then, and the others go on.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import shutil
import signal
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import machine, write_result
from benchmarks.gpu_sections import SECTIONS, Settings
from common.errors import MFMError
from common.runtime import choose_device, quiet_libraries
from presets import load_preset

TOTAL_SECONDS = 500  # of the sections; the rest of nine minutes is for starting and ending
_READY, _END = "ready", "end"
# Libraries are imported once, by a process that sections are forked from; it never touches the device.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["benchmarks.gpu_sections"])
_START_SECONDS = 60


def _work(name: str, settings: Settings, connection: Any) -> None:
    os.setsid()  # so that whoever it starts ends with it
    quiet_libraries()
    if settings.quick:
        torch.compiler.set_stance("force_eager")  # compiling takes minutes on a CPU
    connection.send((_READY, None))
    try:
        for key, value in SECTIONS[name].run(settings):
            connection.send((key, value))
        connection.send((_END, None))
    except Exception:
        connection.send((_END, traceback.format_exc(limit=-6)))


def run_section(name: str, settings: Settings, limit: float) -> dict[str, Any]:
    """One section in its own process: ``status`` (done, failed, out of time), seconds, results by name, the error.

    ``limit``: seconds from when its libraries are there.
    """
    started = time.monotonic()
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_work, args=(name, settings, theirs))
    process.start()
    theirs.close()
    row: dict[str, Any] = {"status": "out of time", "results": {}}
    try:
        if ours.poll(_START_SECONDS):
            ours.recv()
            started = time.monotonic()
        while ours.poll(max(started + limit - time.monotonic(), 0)):
            key, value = ours.recv()
            if key == _END:
                row["status"] = "failed" if value else "done"
                row |= {"error": value} if value else {}
                break
            row["results"][key] = value
            print(f"  {key}: {value}", flush=True)
    except EOFError:
        process.join(5)
        row |= {"status": "failed", "error": f"the process ended with exit code {process.exitcode}"}
    finally:
        if row["status"] == "done":
            process.join(10)
        if process.pid is not None and process.is_alive():
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:  # it has not come to its own group yet
                process.kill()
        process.join()
    return {**row, "seconds": round(time.monotonic() - started, 1), "limit": round(limit, 1)}


def run_all(settings: Settings, names: list[str], total: float = TOTAL_SECONDS) -> dict[str, Any]:
    """Every section by name, each with its own seconds and what the ones before it left."""
    started, rows, spare = time.monotonic(), {}, 0.0
    for name in names:
        limit = min(SECTIONS[name].seconds + spare, started + total - time.monotonic())
        print(f"{name} (at most {limit:.0f} s)", flush=True)
        rows[name] = run_section(name, settings, max(limit, 1.0))
        spare = max(limit - rows[name]["seconds"], 0.0)
        print(f"  {rows[name]['status']} in {rows[name]['seconds']} s", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="names joined by commas")
    parser.add_argument("--quick", action="store_true", help="the smallest numbers that go through all code")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    quiet_libraries()
    names = arguments.sections.split(",")
    if unknown := [name for name in names if name not in SECTIONS]:
        parser.error(f"unknown section '{unknown[0]}': there are {', '.join(SECTIONS)}")
    try:
        device, preset = choose_device(arguments.device), load_preset(arguments.preset)
    except MFMError as error:
        parser.error(str(error))
    started, folder = time.monotonic(), Path(tempfile.mkdtemp())
    try:
        rows = run_all(Settings(arguments.preset, device, arguments.quick, str(folder)), names)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    values = {"preset": preset.name, "quick": arguments.quick, "seconds": round(time.monotonic() - started, 1)}
    kind = machine()["device"] if device.startswith("cuda") else device
    name = "gpu_" + re.sub(r"[^a-z0-9]+", "_", kind.lower()).strip("_")
    write_result(name, {**values, "sections": rows}, arguments.out)
    if bad := [name for name, row in rows.items() if row["status"] != "done"]:
        raise SystemExit(f"not all was measured: {', '.join(bad)} (see the JSON)")


if __name__ == "__main__":
    main()
