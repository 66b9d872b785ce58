/* The part of libnvidia-ml.so.1 that is asked for, over GPUs that an environment variable
 * describes: FAKE_NVML=what, comma-separated.
 *
 *   two       two GPUs of 24 GiB, one of them in use by the process in FAKE_NVML_PID
 *   mig       one GPU, divided into two instances
 *   shared    the same, each of which tells of the processes of both
 *   unified   one GPU that shares the memory of the machine and tells little else
 *   lost      two GPUs, the second of which has fallen off the bus
 *   none      a driver without a GPU
 *   unloaded  a library without a driver
 *   hang      no answer for a minute
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SUCCESS 0
#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define NOT_FOUND 6
#define INSUFFICIENT_SIZE 7
#define DRIVER_NOT_LOADED 9
#define GPU_IS_LOST 15

#define GIB (1024ULL * 1024 * 1024)

static int is(const char *what) {
    const char *set = getenv("FAKE_NVML");
    return set && strcmp(set, what) == 0;
}

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } utilization_t;
typedef struct {
    unsigned int pid;
    unsigned long long used;
    unsigned int gpu_instance, compute_instance;
} process_t;

/* Handles: 1 and 2 are GPUs, 11 and 12 instances of the first. */
static int number(void *handle) { return (int)(long)handle; }

int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    if (is("unloaded")) return DRIVER_NOT_LOADED;
    if (is("hang")) sleep(60);
    return SUCCESS;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int error) {
    switch (error) {
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case GPU_IS_LOST: return "GPU is lost";
    case NOT_SUPPORTED: return "Not Supported";
    default: return "Unknown Error";
    }
}
int nvmlDeviceGetCount_v2(unsigned int *count) {
    *count = is("none") ? 0 : is("two") || is("lost") ? 2 : 1;
    return SUCCESS;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) {
    *handle = (void *)(long)(index + 1);
    return SUCCESS;
}
int nvmlDeviceGetUUID(void *handle, char *text, unsigned int length) {
    snprintf(text, length, "%s-fake-%d", number(handle) > 10 ? "MIG" : "GPU", number(handle));
    return SUCCESS;
}
int nvmlDeviceGetName(void *handle, char *text, unsigned int length) {
    if (is("lost") && number(handle) == 2) return GPU_IS_LOST;
    snprintf(text, length, "Fake %s", number(handle) > 10 ? "1g.12gb" : "RTX");
    return SUCCESS;
}
int nvmlDeviceGetMigMode(void *handle, unsigned int *current, unsigned int *pending) {
    if (!(is("mig") || is("shared")) || number(handle) > 10) return NOT_SUPPORTED;
    *current = *pending = 1;
    return SUCCESS;
}
int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned int *count) {
    (void)handle;
    *count = 7;
    return SUCCESS;
}
int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned int index, void **instance) {
    (void)handle;
    if (index > 1) return NOT_FOUND;
    *instance = (void *)(long)(11 + index);
    return SUCCESS;
}
int nvmlDeviceGetGpuInstanceId(void *handle, unsigned int *id) {
    if (number(handle) < 11) return NOT_SUPPORTED;
    *id = 1;
    return SUCCESS;
}
int nvmlDeviceGetComputeInstanceId(void *handle, unsigned int *id) {
    if (number(handle) < 11) return NOT_SUPPORTED;
    *id = number(handle) - 11;
    return SUCCESS;
}
int nvmlDeviceGetMemoryInfo(void *handle, memory_t *memory) {
    if (is("unified")) return NOT_SUPPORTED;
    memory->total = (number(handle) > 10 ? 12 : 24) * GIB;
    memory->used = is("two") && number(handle) == 2 ? 5 * GIB : GIB / 2;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}
int nvmlDeviceGetUtilizationRates(void *handle, utilization_t *rates) {
    if (is("unified") || number(handle) > 10) return NOT_SUPPORTED;
    rates->gpu = 42;
    rates->memory = 7;
    return SUCCESS;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned int *count, process_t *found) {
    const char *pid = getenv("FAKE_NVML_PID");
    if (is("unified")) return NOT_SUPPORTED;
    if (is("shared")) {
        if (*count < 3) {
            *count = 3;
            return INSUFFICIENT_SIZE;
        }
        *count = 3;
        for (int at = 0; at < 3; at++) {
            found[at].pid = 100 + at;
            found[at].used = GIB;
            found[at].gpu_instance = at < 2 ? 1 : 0xFFFFFFFF;
            found[at].compute_instance = at < 2 ? at : 0xFFFFFFFF;
        }
        return SUCCESS;
    }
    if (!is("two") || number(handle) != 2 || !pid) {
        *count = 0;
        return SUCCESS;
    }
    if (*count < 1) {
        *count = 1;
        return INSUFFICIENT_SIZE;
    }
    *count = 1;
    found[0].pid = (unsigned int)atoi(pid);
    found[0].used = 4 * GIB;
    found[0].gpu_instance = found[0].compute_instance = 0xFFFFFFFF;
    return SUCCESS;
}
