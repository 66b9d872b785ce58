"""Print what the driver says of the GPUs, as one JSON document.

A program of its own, run by its path: a driver that hangs shall hang this process and no
tick, and none of the library's state is left behind.  It imports nothing of ours.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import pynvml

_NO_DRIVER = (
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
)
_NO_INSTANCE = 0xFFFFFFFF  # nvmlProcessInfo_t


def main() -> None:
    """Print the document; whatever fails is part of it."""
    try:
        pynvml.nvmlInit()
        document: dict[str, Any] = {
            "gpus": [_describe(handle, index) for index, handle in enumerate(_handles())]
        }
    except pynvml.NVMLError as error:
        document = {"fault": str(error), "is_absent": error.value in _NO_DRIVER}
    sys.stdout.write(json.dumps(document))
    sys.stdout.flush()


def _handles() -> list[Any]:
    """Return all GPUs in the order of their bus, each MIG instance in place of its GPU."""
    found = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        instances = _instances(handle)
        found += instances or [handle]
    return found


def _instances(handle: Any) -> list[Any]:  # noqa: ANN401 - of the library
    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(handle)
        if current != pynvml.NVML_DEVICE_MIG_ENABLE:
            return []
        most = pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)
    except pynvml.NVMLError:
        return []  # a GPU without MIG, or one that is lost
    found = []
    for index in range(most):
        try:
            found.append(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))
        except pynvml.NVMLError:
            continue  # no instance at this place
    return found


def _describe(handle: Any, index: int) -> dict[str, Any]:  # noqa: ANN401 - of the library
    """Return what can be known of one GPU; the first thing that fails for good is its fault."""
    gpu: dict[str, Any] = {"index": index}
    try:
        gpu["uuid"] = pynvml.nvmlDeviceGetUUID(handle)
        gpu["name"] = pynvml.nvmlDeviceGetName(handle)
        gpu |= _memory(handle)
        gpu["utilization"] = _utilization(handle)
        gpu["processes"] = _processes(handle)
    except pynvml.NVMLError as error:
        gpu.setdefault("uuid", f"GPU-unknown-{index}")
        gpu["fault"] = str(error)
    return gpu


def _memory(handle: Any) -> dict[str, int | None]:  # noqa: ANN401 - of the library
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError_NotSupported:
        # It has none of its own, as where GPU and processor share one.
        return {"total": None, "used": 0}
    return {"total": memory.total, "used": memory.used}


def _utilization(handle: Any) -> int | None:  # noqa: ANN401 - of the library
    try:
        return int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except pynvml.NVMLError:
        return None  # not told of MIG instances, nor by every GPU


def _processes(handle: Any) -> list[dict[str, int | None]] | None:  # noqa: ANN401 - of the library
    """Return who computes there; what draws on the screen is part of the memory in use."""
    try:
        running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_NoPermission):
        return None
    own = _instance_of(handle)
    return [
        {"pid": one.pid, "used": one.usedGpuMemory}
        for one in running
        # A process of another instance of the same GPU is not here.
        if own is None
        or one.gpuInstanceId == _NO_INSTANCE
        or own == (one.gpuInstanceId, one.computeInstanceId)
    ]


def _instance_of(handle: Any) -> tuple[int, int] | None:  # noqa: ANN401 - of the library
    """Return the numbers of a MIG instance, which may share its part of a GPU with others."""
    try:
        return (
            pynvml.nvmlDeviceGetGpuInstanceId(handle),
            pynvml.nvmlDeviceGetComputeInstanceId(handle),
        )
    except pynvml.NVMLError:
        return None  # a whole GPU


if __name__ == "__main__":
    main()
