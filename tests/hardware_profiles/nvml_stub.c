/*
 * A stand-in for the NVIDIA Management Library, for machines without a GPU.
 *
 * The tests compile it into libnvidia-ml.so.1 and let the real pynvml load it: so the struct layouts, the versions
 * and the error codes that we rely on are those of the C interface (NVIDIA's nvml.h), not those of a Python mock.
 * The environment variable NVML_STUB names the scenario. With -DOLD_DRIVER it is the library of a driver before 510:
 * no second version of the memory query, no third version of the process queries.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    OK = 0,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NO_PERMISSION = 4,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    GPU_IS_LOST = 15,
    LIB_RM_VERSION_MISMATCH = 18,
    ARGUMENT_VERSION_MISMATCH = 25
};

typedef unsigned long long u64;
typedef struct { int index; int slice; } device; /* slice -1: the whole card */
typedef struct { u64 total, free, used; } memory_v1;
typedef struct { unsigned version; u64 total, reserved, free, used; } memory_v2;
typedef struct { unsigned pid; u64 used; unsigned gpu_instance, compute_instance; } process;

#define MIB (1ull << 20)
#define NOT_AVAILABLE (~0ull)
#define MEMORY_V2 0x02000028u

#ifdef OLD_DRIVER
#define nvmlDeviceGetComputeRunningProcesses_v3 nvmlDeviceGetComputeRunningProcesses_v2
#define nvmlDeviceGetGraphicsRunningProcesses_v3 nvmlDeviceGetGraphicsRunningProcesses_v2
#define nvmlDeviceGetMPSComputeRunningProcesses_v3 nvmlDeviceGetMPSComputeRunningProcesses_v2
#endif

static device cards[8];
static device slices[7];
static int running;

static int scene(const char *name) {
    const char *asked = getenv("NVML_STUB");
    return asked && strcmp(asked, name) == 0;
}

static int number_of_cards(void) {
    if (scene("none")) return 0;
    if (scene("two") || scene("lost") || scene("variants")) return 2;
    if (scene("eight")) return 8;
    return 1;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    if (scene("driver_not_loaded")) return DRIVER_NOT_LOADED;
    if (scene("version_mismatch")) return LIB_RM_VERSION_MISMATCH;
    if (scene("no_permission")) return NO_PERMISSION;
    for (int i = 0; i < 8; i++) cards[i] = (device){i, -1};
    for (int i = 0; i < 7; i++) slices[i] = (device){0, i};
    running++;
    return OK;
}

int nvmlShutdown(void) {
    running--;
    return OK;
}

/* Not part of NVML: lets a test see that every start was followed by a stop. */
int nvmlStubRunning(void) { return running; }

const char *nvmlErrorString(int code) {
    switch (code) {
    case NOT_SUPPORTED: return "Not Supported";
    case NO_PERMISSION: return "Insufficient Permissions";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case GPU_IS_LOST: return "GPU is lost";
    case LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}

int nvmlSystemGetDriverVersion(char *out, unsigned size) {
    strncpy(out, "580.95.05", size);
    return OK;
}

int nvmlSystemGetCudaDriverVersion(int *out) {
    *out = 13000;
    return OK;
}

int nvmlDeviceGetCount_v2(unsigned *out) {
    *out = (unsigned)number_of_cards();
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device **out) {
    if ((int)index >= number_of_cards()) return INVALID_ARGUMENT;
    if (scene("lost") && index == 1) return GPU_IS_LOST;
    if (scene("card_no_permission")) return NO_PERMISSION;
    *out = &cards[index];
    return OK;
}

int nvmlDeviceGetName(device *card, char *out, unsigned size) {
    const char *name = "NVIDIA GeForce RTX 4090";
    if (scene("mig")) name = card->slice < 0 ? "NVIDIA A100-SXM4-80GB" : "NVIDIA A100-SXM4-80GB MIG 3g.40gb";
    if (scene("unified")) name = "NVIDIA GB10";
    if (scene("eight")) name = "NVIDIA H100 80GB HBM3";
    if (scene("variants")) name = "NVIDIA GeForce RTX 3080";
    if (scene("unknown_name")) name = "NVIDIA RTX 9999 Prototype";
    strncpy(out, name, size);
    return OK;
}

int nvmlDeviceGetUUID(device *card, char *out, unsigned size) {
    char uuid[] = "GPU-00000000-0000-0000-0000-000000000000";
    uuid[4] = (char)('0' + card->index);
    if (card->slice >= 0) {
        memcpy(uuid, "MIG", 3);
        uuid[5] = (char)('1' + card->slice);
    }
    strncpy(out, uuid, size);
    return OK;
}

static u64 total_of(const device *card) {
    if (scene("mig")) return (card->slice < 0 ? 81920 : 40192) * MIB;
    if (scene("eight")) return 81559 * MIB;
    if (scene("variants")) return (card->index ? 12288 : 10240) * MIB;
    return 24564 * MIB;
}

static u64 used_of(const device *card) {
    if (scene("busy")) return 6000 * MIB;
    return (u64)(card->index + 1) * 10 * MIB;
}

static const u64 RESERVED = 430 * MIB;

static int memory_answer(void) {
    if (scene("unified")) return NOT_SUPPORTED;
    if (scene("lost_later")) return GPU_IS_LOST;
    return OK;
}

int nvmlDeviceGetMemoryInfo(device *card, memory_v1 *out) {
    if (memory_answer() != OK) return memory_answer();
    out->total = total_of(card);
    out->used = used_of(card) + RESERVED;
    out->free = out->total - out->used;
    return OK;
}

#ifndef OLD_DRIVER
int nvmlDeviceGetMemoryInfo_v2(device *card, memory_v2 *out) {
    if (out->version != MEMORY_V2 || sizeof *out != 40) return ARGUMENT_VERSION_MISMATCH;
    if (scene("refuses_memory_v2")) return ARGUMENT_VERSION_MISMATCH;
    if (memory_answer() != OK) return memory_answer();
    out->total = total_of(card);
    out->reserved = RESERVED;
    out->used = used_of(card);
    out->free = out->total - out->reserved - out->used;
    return OK;
}
#endif

int nvmlDeviceGetCudaComputeCapability(device *card, int *major, int *minor) {
    (void)card;
    *major = 8;
    *minor = scene("mig") ? 0 : 9;
    return OK;
}

static int list(unsigned *count, process *out, const process *all, unsigned n) {
    if (n == 0) {
        *count = 0;
        return OK;
    }
    if (out == NULL || *count < n) {
        *count = n;
        return INSUFFICIENT_SIZE;
    }
    memcpy(out, all, n * sizeof *all);
    *count = n;
    return OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(device *card, unsigned *count, process *out) {
    const process busy[] = {
        {4001, 5000 * MIB, ~0u, ~0u}, {4002, NOT_AVAILABLE, ~0u, ~0u}, {(unsigned)getpid(), 200 * MIB, ~0u, ~0u}};
    (void)card;
    if (scene("processes_hidden")) return NO_PERMISSION;
    return list(count, out, busy, scene("busy") ? 3 : 0);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(device *card, unsigned *count, process *out) {
    static const process busy[] = {{4001, 5000 * MIB, ~0u, ~0u}, {4003, 300 * MIB, ~0u, ~0u}};
    (void)card;
    if (scene("processes_hidden")) return NO_PERMISSION;
    return list(count, out, busy, scene("busy") ? 2 : 0);
}

int nvmlDeviceGetMPSComputeRunningProcesses_v3(device *card, unsigned *count, process *out) {
    static const process busy[] = {{4004, 100 * MIB, ~0u, ~0u}};
    (void)card;
    if (scene("processes_hidden")) return NO_PERMISSION;
    return list(count, out, busy, scene("busy") ? 1 : 0);
}

int nvmlDeviceGetMigMode(device *card, unsigned *current, unsigned *pending) {
    (void)card;
    if (!scene("mig") && !scene("mig_empty")) return NOT_SUPPORTED;
    *current = *pending = 1;
    return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(device *card, unsigned *out) {
    (void)card;
    *out = 7;
    return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(device *card, unsigned index, device **out) {
    (void)card;
    /* Two slices in places 0 and 3: the places between are empty, as on a real card. */
    if (scene("mig_empty") || (index != 0 && index != 3)) return NOT_FOUND;
    *out = &slices[index];
    return OK;
}
