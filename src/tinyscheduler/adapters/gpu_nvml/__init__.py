"""GPUs as NVIDIA's driver shows them."""

from tinyscheduler.adapters.gpu_nvml.probe import NvmlGpuProbe

__all__ = ["NvmlGpuProbe"]
