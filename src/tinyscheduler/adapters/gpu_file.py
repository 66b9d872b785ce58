"""GPUs as a file describes them: to try how they are shared, without any."""

from __future__ import annotations

from tinyscheduler.files import read_json
from tinyscheduler.model.documents import DocumentError, decode_gpus
from tinyscheduler.model.resources import GpuReading


class FileGpuProbe:
    """Reads the documented JSON afresh each time; GPU_PROBE=file:PATH."""

    def __init__(self, path: str) -> None:
        """Remember where."""
        self._path = path

    def read(self) -> GpuReading:
        """Return what the file says; what is wrong with it is a fault, not an error."""
        try:
            gpus = decode_gpus(read_json(self._path))
        except OSError as error:
            return GpuReading(fault=f"the GPU file {self._path} cannot be read: {error.strerror}")
        except (DocumentError, ValueError) as error:
            return GpuReading(fault=f"the GPU file {self._path} is wrong: {error}")
        if not gpus:
            words = f"the GPU file {self._path} describes no GPU"
            return GpuReading(fault=words, is_absent=True)
        return GpuReading(gpus=gpus)
