/**
 * @file A driver library without a GPU, for tests: C against the toolkit's own header, so that every
 * structure and signature is checked by the C compiler. GPU memory is the host's; the kernel `record`
 * writes down how it was launched; environment variables make it fail.
 */
import { spawnSync } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const headers = [process.env.CUDA_HOME ?? "/usr/local/cuda", "/usr"].map((root) =>
  join(root, "include"),
);

/** Builds the library in `folder`; the result is its path, or why it cannot be built. */
export function buildFakeDriver(folder: string): { library: string } | { absence: string } {
  const include = headers.find((path) => existsSync(join(path, "cuda.h")));
  if (!include)
    return { absence: "cuda.h is not installed, which the stand-in driver is built against" };
  const source = join(folder, "fake-driver.c");
  const library = join(folder, "libfakecuda.so");
  writeFileSync(source, code);
  const args = ["-shared", "-fPIC", "-Werror=incompatible-pointer-types", "-I", include];
  const built = spawnSync("gcc", [...args, "-o", library, source], { encoding: "utf8" });
  if (built.error) return { absence: "gcc is not installed, which builds the stand-in driver" };
  if (built.status !== 0) throw new Error(built.stderr);
  return { library };
}

const code = `
#include <cuda.h>
#include <stdlib.h>
#include <string.h>
#undef cuEventElapsedTime

static int setting(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text ? atoi(text) : otherwise;
}
static int sticky = 0;

CUresult cuInit(unsigned f) { return setting("FAKE_CUDA_INIT", 0); }
CUresult cuDriverGetVersion(int *v) { *v = setting("FAKE_CUDA_VERSION", 12040); return 0; }
CUresult cuDeviceGetCount(int *n) { *n = setting("FAKE_CUDA_COUNT", 1); return 0; }
CUresult cuDeviceGet(CUdevice *d, int i) { *d = 100 + i; return 0; }
CUresult cuDeviceGetName(char *s, int n, CUdevice d) { strncpy(s, "Fake GPU", n); return d == 100 ? 0 : 101; }
CUresult cuDeviceTotalMem(size_t *n, CUdevice d) { *n = 80ull << 30; return 0; }
CUresult cuDeviceGetAttribute(int *v, CUdevice_attribute a, CUdevice d) {
  switch (a) {
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *v = 9; break;
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *v = 0; break;
  case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *v = 132; break;
  case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *v = 232448; break;
  case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: *v = 50 << 20; break;
  case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH: *v = 5120; break;
  case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: *v = 2619000; break;
  default: return 1;
  }
  return 0;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext *c, CUdevice d) { *c = (CUcontext)0x7000; return 0; }
CUresult cuDevicePrimaryCtxRelease(CUdevice d) { return 0; }
CUresult cuCtxSetCurrent(CUcontext c) { return c == (CUcontext)0x7000 ? 0 : 201; }

CUresult cuMemGetInfo(size_t *f, size_t *t) { *f = 70ull << 30; *t = 80ull << 30; return 0; }
CUresult cuMemAlloc(CUdeviceptr *p, size_t n) {
  if (n > (80ull << 30)) return 2;
  *p = (CUdeviceptr)aligned_alloc(256, (n + 255) / 256 * 256);
  memset((void *)*p, 0xa5, n);
  return 0;
}
CUresult cuMemFree(CUdeviceptr p) { free((void *)p); return 0; }
CUresult cuMemcpyHtoDAsync(CUdeviceptr d, const void *s, size_t n, CUstream q) { memcpy((void *)d, s, n); return q ? 0 : 1; }
CUresult cuMemcpyDtoHAsync(void *d, CUdeviceptr s, size_t n, CUstream q) { memcpy(d, (void *)s, n); return q ? 0 : 1; }
CUresult cuMemsetD8Async(CUdeviceptr d, unsigned char c, size_t n, CUstream q) { memset((void *)d, c, n); return 0; }

typedef struct { void *body[64]; int count; int capturing; } Stream;
typedef struct { CUlaunchConfig config; CUlaunchAttribute attrs[4]; const char *name; void *params[16]; } Launch;

CUresult cuStreamCreate(CUstream *s, unsigned f) { *s = (CUstream)calloc(1, sizeof(Stream)); return f == CU_STREAM_NON_BLOCKING ? 0 : 1; }
CUresult cuStreamDestroy(CUstream s) { free(s); return 0; }
CUresult cuStreamSynchronize(CUstream s) { return sticky; }
CUresult cuStreamWaitEvent(CUstream s, CUevent e, unsigned f) { return e ? 0 : 1; }
CUresult cuStreamBeginCapture(CUstream s, CUstreamCaptureMode m) { ((Stream *)s)->capturing = 1; ((Stream *)s)->count = 0; return 0; }
CUresult cuStreamEndCapture(CUstream s, CUgraph *g) {
  Stream *copy = malloc(sizeof(Stream));
  ((Stream *)s)->capturing = 0;
  *copy = *(Stream *)s;
  *g = (CUgraph)copy;
  return 0;
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec *e, CUgraph g, unsigned long long f) {
  Stream *copy = malloc(sizeof(Stream));
  *copy = *(Stream *)g;
  *e = (CUgraphExec)copy;
  return 0;
}
CUresult cuGraphDestroy(CUgraph g) { free(g); return 0; }
CUresult cuGraphExecDestroy(CUgraphExec g) { free(g); return 0; }

CUresult cuEventCreate(CUevent *e, unsigned f) { *e = (CUevent)malloc(8); return 0; }
CUresult cuEventRecord(CUevent e, CUstream s) { return s ? 0 : 1; }
CUresult cuEventSynchronize(CUevent e) { return sticky; }
CUresult cuEventElapsedTime(float *ms, CUevent a, CUevent b) { *ms = a == b ? 0 : 1.5f; return 0; }
CUresult cuEventDestroy(CUevent e) { free(e); return 0; }

typedef struct { char text[65536]; char *log; } Link;
CUresult cuLinkCreate(unsigned n, CUjit_option *o, void **v, CUlinkState *s) {
  Link *link = calloc(1, sizeof(Link));
  for (unsigned i = 0; i < n; i++) if (o[i] == CU_JIT_ERROR_LOG_BUFFER) link->log = v[i];
  *s = (CUlinkState)link;
  return 0;
}
CUresult cuLinkAddData(CUlinkState s, CUjitInputType t, void *d, size_t n, const char *name, unsigned c, CUjit_option *o, void **v) {
  Link *link = (Link *)s;
  if (setting("FAKE_CUDA_NO_JIT", 0)) return CUDA_ERROR_JIT_COMPILER_NOT_FOUND;
  if (t != CU_JIT_INPUT_PTX || ((char *)d)[n - 1] != 0) return 1;
  if (strstr(d, "BAD")) { strcpy(link->log, "kernel, line 7: unknown opcode BAD"); return CUDA_ERROR_INVALID_PTX; }
  if (strstr(d, ".version 99")) return CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
  strcpy(link->text, "CUBIN:");
  strcat(link->text, d);
  return 0;
}
CUresult cuLinkComplete(CUlinkState s, void **p, size_t *n) { Link *link = (Link *)s; *p = link->text; *n = strlen(link->text) + 1; return 0; }
CUresult cuLinkDestroy(CUlinkState s) { free(s); return 0; }

CUresult cuModuleLoadData(CUmodule *m, const void *image) {
  if (strncmp(image, "CUBIN:", 6)) return CUDA_ERROR_INVALID_IMAGE;
  *m = (CUmodule)strdup(image);
  return 0;
}
CUresult cuModuleUnload(CUmodule m) { free(m); return 0; }
CUresult cuModuleGetFunction(CUfunction *f, CUmodule m, const char *name) {
  if (!strstr((char *)m, name)) return CUDA_ERROR_NOT_FOUND;
  *f = (CUfunction)strdup(name);
  return 0;
}
static int allowed = 49152;
CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute a, int v) {
  if (a != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || v > 232448) return 1;
  allowed = v;
  return 0;
}
CUresult cuFuncGetAttribute(int *v, CUfunction_attribute a, CUfunction f) {
  *v = a == CU_FUNC_ATTRIBUTE_NUM_REGS ? 168 : a == CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES ? 16 : -1;
  return 0;
}
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *n, CUfunction f, int threads, size_t shared) { *n = shared > 0 ? 232448 / (int)shared : 2048 / threads; return 0; }
CUresult cuOccupancyMaxActiveClusters(int *n, CUfunction f, const CUlaunchConfig *c) { *n = c->numAttrs == 1 ? 66 : 0; return 0; }

/* record(out, u32, f32, u64, tensor map) writes down its launch; trap() fails later. */
static void execute(Launch *launch) {
  if (!strcmp(launch->name, "trap")) { sticky = CUDA_ERROR_ILLEGAL_ADDRESS; return; }
  unsigned *out = *(unsigned **)launch->params[0];
  CUlaunchConfig *c = &launch->config;
  out[0]++;
  out[1] = c->gridDimX; out[2] = c->gridDimY; out[3] = c->gridDimZ;
  out[4] = c->blockDimX; out[5] = c->blockDimY; out[6] = c->blockDimZ;
  out[7] = c->sharedMemBytes;
  out[8] = c->hStream != 0;
  out[9] = c->numAttrs;
  out[10] = c->numAttrs > 0 && launch->attrs[0].id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION ? launch->attrs[0].value.clusterDim.x : 0;
  out[11] = c->numAttrs > 1 && launch->attrs[1].id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION ? launch->attrs[1].value.programmaticStreamSerializationAllowed : 0;
  out[12] = *(unsigned *)launch->params[1];
  memcpy(&out[13], launch->params[2], 4);
  memcpy(&out[14], launch->params[3], 8);
  if (((size_t)launch->params[4] & 63) == 0) memcpy(&out[16], launch->params[4], 128);
}
CUresult cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction f, void **params, void **extra) {
  if (extra || c->sharedMemBytes > allowed) return CUDA_ERROR_INVALID_VALUE;
  Launch *launch = calloc(1, sizeof(Launch));
  launch->config = *c;
  if (c->numAttrs) memcpy(launch->attrs, c->attrs, c->numAttrs * sizeof(CUlaunchAttribute));
  launch->name = (char *)f;
  if (strcmp(launch->name, "trap")) memcpy(launch->params, params, 5 * sizeof(void *));
  Stream *stream = (Stream *)c->hStream;
  if (stream && stream->capturing) stream->body[stream->count++] = launch;
  else execute(launch);
  return 0;
}
CUresult cuGraphLaunch(CUgraphExec e, CUstream s) {
  Stream *graph = (Stream *)e;
  for (int i = 0; i < graph->count; i++) execute(graph->body[i]);
  return 0;
}

CUresult cuTensorMapEncodeTiled(CUtensorMap *m, CUtensorMapDataType type, cuuint32_t rank, void *address, const cuuint64_t *dims, const cuuint64_t *strides, const cuuint32_t *box, const cuuint32_t *steps, CUtensorMapInterleave il, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion l2, CUtensorMapFloatOOBfill oob) {
  if ((size_t)m & 63) return 1;
  cuuint64_t fields[16] = {type, rank, (size_t)address, dims[0], dims[1], strides[0], box[0], box[1], steps[0], steps[1], il, swizzle, l2, oob};
  memcpy(m, fields, 128);
  return 0;
}

CUresult cuIpcGetMemHandle(CUipcMemHandle *h, CUdeviceptr p) { memset(h, 0, 64); memcpy(h, &p, 8); return 0; }
CUresult cuIpcOpenMemHandle(CUdeviceptr *p, CUipcMemHandle h, unsigned f) { memcpy(p, &h, 8); return f == CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS ? 0 : 1; }
CUresult cuIpcCloseMemHandle(CUdeviceptr p) { return p ? 0 : 1; }

CUresult cuMemGetAllocationGranularity(size_t *g, const CUmemAllocationProp *p, CUmemAllocationGranularity_flags f) {
  *g = 2 << 20;
  return p->type == CU_MEM_ALLOCATION_TYPE_PINNED && p->requestedHandleTypes == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR && p->location.type == CU_MEM_LOCATION_TYPE_DEVICE && p->location.id == 0 ? 0 : 1;
}
CUresult cuMemCreate(CUmemGenericAllocationHandle *h, size_t n, const CUmemAllocationProp *p, unsigned long long f) { *h = 77; return n % (2 << 20) == 0 ? 0 : 1; }
CUresult cuMemRelease(CUmemGenericAllocationHandle h) { return h == 77 ? 0 : 1; }
CUresult cuMemAddressReserve(CUdeviceptr *p, size_t n, size_t a, CUdeviceptr at, unsigned long long f) { *p = (CUdeviceptr)malloc(n); return 0; }
CUresult cuMemAddressFree(CUdeviceptr p, size_t n) { free((void *)p); return 0; }
CUresult cuMemMap(CUdeviceptr p, size_t n, size_t o, CUmemGenericAllocationHandle h, unsigned long long f) { return h == 77 && o == 0 ? 0 : 1; }
CUresult cuMemUnmap(CUdeviceptr p, size_t n) { return 0; }
CUresult cuMemSetAccess(CUdeviceptr p, size_t n, const CUmemAccessDesc *d, size_t c) {
  return c == 1 && d->location.type == CU_MEM_LOCATION_TYPE_DEVICE && d->location.id == 0 && d->flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE ? 0 : 1;
}
CUresult cuMemExportToShareableHandle(void *fd, CUmemGenericAllocationHandle h, CUmemAllocationHandleType t, unsigned long long f) { *(int *)fd = 42; return h == 77 && t == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR ? 0 : 1; }
CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *h, void *fd, CUmemAllocationHandleType t) { *h = 77; return (size_t)fd == 42 ? 0 : 1; }
`;
